"""Anthropic's SDK through the gateway, whoever answers behind it: a plain call and a stream.

Start a gateway with the simulator behind it, then this::

    penstock serve examples/sim.yaml
    python examples/anthropic_sdk.py
"""

import os

from anthropic import Anthropic

client = Anthropic(
    base_url=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080"),  # without /v1
    api_key=os.environ.get("PENSTOCK_KEY", "any"),
)
question = [{"role": "user", "content": "What is a penstock?"}]

message = client.messages.create(model="sim", max_tokens=8, messages=question)
print("text:", message.content[0].text)
print("tokens:", message.usage.input_tokens, "in,", message.usage.output_tokens, "out")

print("streamed:", end=" ")
with client.messages.stream(model="sim", max_tokens=8, messages=question) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
