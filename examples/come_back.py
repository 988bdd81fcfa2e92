"""A call that is not waited for: the gateway says where the answer will be, and is asked for it later.

Start a gateway with the simulator behind it, then this::

    penstock serve examples/sim.yaml
    python examples/come_back.py
"""

import os

import httpx
from openai import OpenAI
from openai.types.chat import ChatCompletion

client = OpenAI(
    base_url=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("PENSTOCK_KEY", "any"),
)

promised = client.chat.completions.with_raw_response.create(
    model="sim:ttft=300",
    max_tokens=8,
    messages=[{"role": "user", "content": "What is a penstock?"}],
    extra_headers={"Prefer": "respond-async"},
)
print("promised:", promised.status_code, promised.headers["location"])

generation = promised.headers["penstock-generation"]
while True:  # each time for ten seconds at most; a connection that is lost meanwhile costs nothing
    answer = client.get(
        f"/generations/{generation}/answer",
        cast_to=httpx.Response,
        options={"headers": {"Prefer": "wait=10"}},
    )
    if answer.status_code == 200:
        break
print("answer:", ChatCompletion.model_validate_json(answer.content).choices[0].message.content)
