"""The client below an SDK: a link that breaks in mid-stream, and an application that does not notice.

Start a gateway with the simulator behind it, then this::

    penstock serve examples/sim.yaml
    python examples/client.py
"""

import os
from urllib.parse import urlsplit

from openai import OpenAI

import penstock
from penstock.lab.faults import Break, FaultProxy, Kind

gateway = urlsplit(os.environ.get("PENSTOCK_URL", "http://127.0.0.1:8080"))
breaks = [Break(Kind.RESET, after=1_000, direction="down"), Break(Kind.CLOSE, after=900, direction="down")]

with FaultProxy(gateway.hostname, gateway.port, breaks=breaks) as link, penstock.http_client() as http:
    client = OpenAI(
        base_url=link.url + "/v1", api_key=os.environ.get("PENSTOCK_KEY", "any"), http_client=http
    )
    stream = client.chat.completions.create(
        model="sim", max_tokens=8, stream=True, messages=[{"role": "user", "content": "What is a penstock?"}]
    )
    print("text:", "".join(chunk.choices[0].delta.content or "" for chunk in stream))
    figures = http.statistics()
    print(link.figures.broken, "breaks,", figures.resumed, "resumed,", figures.failed, "failed")
