"""npm's eventsource as a reader: what browsers have, and knows nothing of us.  Its connections are cut; it comes back."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cutting_proxy import Cut, CuttingProxy
from node_packages import installed, needs_node
from sized_upstream import SizedUpstream, asking, frames

from penstock.testing import GatewayProcess

PACKAGE = "eventsource@4.0.0"
SCRIPT = Path(__file__).parent / "event_source.mjs"
PATIENCE = 60  # seconds: it pauses for three before it comes back
SIZES = [300] * 40
KINDS = ("reset", "close", "reset")

pytestmark = needs_node


@pytest.fixture(scope="module")
def home():
    return installed(PACKAGE)


@pytest.mark.slow  # it pauses for three seconds each time
def test_it_gets_every_event_once_and_stops_when_it_has_all(home, tmp_path):
    body = {"model": "m", "messages": asking(SIZES, "k"), "stream": True}

    async def main(gateway):
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as http:
            asked = await http.post("/v1/chat/completions", json=body)
            generation = asked.headers["penstock-generation"]
        parts = urlsplit(gateway.url)
        cuts = [Cut(4_000, kind) for kind in KINDS]
        async with CuttingProxy(parts.hostname, parts.port, cuts, asyncio.Event().wait) as proxy:
            url = f"{proxy.url}/v1/generations/{generation}/events"
            reading = await asyncio.create_subprocess_exec(
                "node", SCRIPT, url, cwd=home, stdout=asyncio.subprocess.PIPE
            )
            try:
                told, _ = await asyncio.wait_for(reading.communicate(), PATIENCE)
            finally:
                if reading.returncode is None:
                    reading.kill()
            return json.loads(told), len(proxy.made)

    with SizedUpstream() as upstream:
        config = {
            "upstreams": {"sized": {"kind": "openai", "base_url": upstream.url, "api_key": "any"}},
            "models": {"*": {"candidates": [{"upstream": "sized"}]}},
        }
        with GatewayProcess(config, tmp_path) as gateway:
            told, made = asyncio.run(main(gateway))
            calls = upstream.calls
    datas = [frame[6:-2].decode() for frame in frames(SIZES)]
    assert told["events"] == [[str(number), data] for number, data in enumerate(datas)]
    assert told["code"] == 204, "that is how it is told to come back no more"
    assert made == len(KINDS)
    assert told["failures"] == made + 2, "each cut, the end, and that there is no more"
    assert calls == 1
