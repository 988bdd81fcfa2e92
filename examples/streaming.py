"""A stream that ends, one that breaks and is gone on with, and one that cannot be: then the SDK raises.

Start a gateway with the simulator behind it, then this::

    penstock serve examples/sim.yaml
    python examples/streaming.py
"""

import os

from openai import APIError, OpenAI

client = OpenAI(
    base_url=os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("PENSTOCK_KEY", "any"),
)


def tell(model: str, **more: object) -> None:
    print(model, *more, end=": ")
    stream = client.chat.completions.create(
        model=model,
        max_tokens=8,
        stream=True,
        messages=[{"role": "user", "content": "What is a penstock?"}],
        **more,
    )
    try:
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print(" (whole)")
    except APIError as error:
        print(f" (broke: {error.code})")


tell("sim:tps=100")
tell("sim:cut-after=3,once")  # the simulator resets the connection after three tokens
tell("sim:cut-after=2,once", response_format={"type": "json_object"})  # nobody can go on inside of JSON
