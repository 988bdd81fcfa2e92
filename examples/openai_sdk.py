"""OpenAI's SDK through the gateway: a plain call, a tool, and what the gateway adds to an answer.

Start a gateway with the simulator behind it, then this::

    penstock serve examples/sim.yaml
    python examples/openai_sdk.py
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("PENSTOCK_KEY", "any"),
)

answer = client.chat.completions.create(
    model="sim", max_tokens=8, messages=[{"role": "user", "content": "What is a penstock?"}]
)
print("text:", answer.choices[0].message.content)
print("tokens:", answer.usage.prompt_tokens, "in,", answer.usage.completion_tokens, "out")

weather = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
answer = client.chat.completions.create(
    model="sim",
    tools=[weather],
    tool_choice="required",
    messages=[{"role": "user", "content": "How is the weather in Zürich?"}],
)
call = answer.choices[0].message.tool_calls[0].function
print("tool:", call.name, call.arguments)

# The headers: under which id the gateway knows this answer, and how it came by it.
raw = client.chat.completions.with_raw_response.create(
    model="sim", max_tokens=1, messages=[{"role": "user", "content": "Hello"}]
)
print("generation:", raw.headers["penstock-generation"], raw.headers["penstock-status"])
