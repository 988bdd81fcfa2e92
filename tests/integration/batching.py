"""Batches by OpenAI's SDK: what is asked, how one is created, waited for and read."""

from __future__ import annotations

import io
import json

from gateway_books import wait_until

ENDED = {"completed", "failed", "expired", "cancelled"}
CHATS = "/v1/chat/completions"


def body(text, model="sim:tokens=8"):
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def line(custom_id, asked, url=CHATS):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked})


def uploaded(client, lines, name="input.jsonl"):
    content = io.BytesIO("\n".join(lines).encode())
    return client.files.create(file=(name, content), purpose="batch")


def created(client, lines, endpoint=CHATS, **more):
    file = uploaded(client, lines)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client, batch, seconds=60.0):
    def look():
        now = client.batches.retrieve(batch.id)
        return now if now.status in ENDED else None

    return wait_until(look, seconds=seconds, what="the batch's end")


def results(client, file_id):
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def counts(batch):
    told = batch.request_counts
    return told.total, told.completed, told.failed
