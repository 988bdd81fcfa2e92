"""npm's eventsource as a reader: what browsers have, and knows nothing of us.  Its connections are cut; it comes back."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cutting_proxy import Cut, CuttingProxy
from sized_upstream import SizedUpstream, asking, frames

from penstock.testing import GatewayProcess

PACKAGE = "eventsource@4.0.0"
HOME = Path(__file__).resolve().parents[2] / ".cache" / "eventsource"
SCRIPT = Path(__file__).parent / "event_source.mjs"
PATIENCE = 60  # seconds: it pauses for three before it comes back
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "E403")
SIZES = [300] * 40
KINDS = ("reset", "close", "reset")

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="there is no Node.js on this machine"
)


@pytest.fixture(scope="module")
def home():
    """A folder in which Node finds eventsource, made once."""
    stamp = HOME / "installed"
    if not stamp.exists() or stamp.read_text() != PACKAGE:
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
        done = subprocess.run(
            [*words, "--prefix", HOME, PACKAGE], check=False, capture_output=True, text=True, timeout=120
        )
        if any(code in done.stderr for code in UNREACHABLE):
            pytest.skip("npm reaches no registry from here")
        assert done.returncode == 0, f"{PACKAGE} could not be installed:\n{done.stderr}"
        stamp.write_text(PACKAGE)
    return HOME


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
