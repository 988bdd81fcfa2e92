"""The near side: one system and one workload, so many calls; prints seconds of each, and which failed, as JSON.

* ``requests``: what the articles call traditional: the whole body again after each failure, up to 5 times
* ``sdk``: OpenAI's SDK as it is, with its own 2 retries
* ``sdk-5``: the same with 5 retries: the fair one
* ``penstock``: the SDK with our client
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
import time

import openai

import penstock

TIMEOUT = 12.0  # seconds of silence, for all; the articles lose so much at each failure
ATTEMPTS = 6
SYSTEMS = ("requests", "sdk", "sdk-5", "penstock")
MB = 1_000_000


def upload(size, seed):
    """A prompt that cannot be compressed to less than three quarters, as with images in it."""
    text = base64.b64encode(random.Random(seed).randbytes(size * 3 // 4)).decode()
    return {"model": "sim:tokens=8", "messages": [{"role": "user", "content": text}]}


def stream(tokens, seed):
    messages = [{"role": "user", "content": f"{seed}"}]
    return {"model": f"sim:tokens={tokens}", "messages": messages, "stream": True}


WORKLOADS = {  # seed → body; calls at once
    "5 MB up": (lambda seed: upload(5 * MB, seed), 1),
    "20 MB up": (lambda seed: upload(20 * MB, seed), 1),
    "5 MB down": (lambda seed: stream(15_000, seed), 1),
    "100 at once": (lambda seed: {**upload(100_000, seed), "stream": True}, 100),
    "tiny": (lambda seed: upload(200_000, seed), 1),
}


def with_requests(url):
    import requests

    session = requests.Session()
    session.trust_env = False

    def call(body):
        for attempt in range(ATTEMPTS):
            try:
                answer = session.post(
                    url + "/v1/chat/completions", json=body, timeout=TIMEOUT, stream=body.get("stream", False)
                )
                answer.raise_for_status()
                if body.get("stream"):
                    if b"[DONE]" not in answer.content[-100:]:
                        raise requests.ConnectionError("half an answer")
                else:
                    answer.json()
                return
            except requests.RequestException:
                if attempt + 1 == ATTEMPTS:
                    raise
                time.sleep(min(0.5 * 2**attempt, 10) * random.random())

    return call


def with_sdk(url, retries, http=None):
    client = openai.OpenAI(
        base_url=url + "/v1", api_key="any", max_retries=retries, timeout=TIMEOUT, http_client=http
    )

    def call(body):
        """The SDK does not repeat a stream that broke: the application does, as with ``requests``."""
        for attempt in range(retries + 1):
            try:
                answer = client.chat.completions.create(**body)
                if not body.get("stream") or finished(answer):
                    return
            except openai.APIError:
                if not body.get("stream") or attempt == retries:
                    raise
        raise RuntimeError("half an answer, each time")

    return call


def finished(chunks):
    """Whether a stream came to its end: the SDK takes an orderly end in the middle for one."""
    last = None
    for chunk in chunks:
        last = chunk.choices[0].finish_reason if chunk.choices else last
    return last is not None


def caller(system, url):
    if system == "requests":
        return with_requests(url)
    if system == "penstock":
        http = penstock.http_client(
            trust_env=False, gateways=[url], timeout=TIMEOUT, stall_timeout=TIMEOUT, retry_budget=1.0
        )
        return with_sdk(url, 0, http)
    return with_sdk(url, 5 if system == "sdk-5" else 2)


async def main(system, workload, url, calls, seed):
    make, at_once = WORKLOADS[workload]
    call = caller(system, url)
    seconds, failures = [], []

    def one(number):
        body = make(seed * 1_000 + number)
        began = time.monotonic()
        try:
            call(body)
        except Exception as error:
            failures.append(type(error).__name__)
        seconds.append(time.monotonic() - began)

    from concurrent.futures import ThreadPoolExecutor

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(calls * at_once)))
    whole = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "failures": failures, "whole": whole}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
