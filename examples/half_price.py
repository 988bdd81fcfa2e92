"""A batch, by OpenAI's SDK; that its provider runs it, at half the price, is the gateway's affair.

::

    penstock serve examples/half_price.yaml
    python examples/half_price.py
"""

import io
import json
import os
import time

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("PENSTOCK_KEY", "any"),
)

QUESTIONS = ["What is a penstock?", "What is a sluice?", "What is a weir?"]
lines = [
    {
        "custom_id": f"question-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "sim", "max_tokens": 8, "messages": [{"role": "user", "content": question}]},
    }
    for number, question in enumerate(QUESTIONS)
]
content = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
file = client.files.create(file=("questions.jsonl", content), purpose="batch")
batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
while batch.status not in {"completed", "failed", "expired", "cancelled"}:
    time.sleep(0.5)  # of a real provider: minutes, or a webhook
    batch = client.batches.retrieve(batch.id)

print(batch.status, batch.request_counts.completed)
answers = {}
for line in client.files.content(batch.output_file_id).iter_lines():
    result = json.loads(line)
    answers[result["custom_id"]] = result["response"]["body"]["choices"][0]["message"]["content"]
for number, question in enumerate(QUESTIONS):
    print(question, answers[f"question-{number}"])
