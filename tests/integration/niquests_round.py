"""A plain answer and a streamed one, by niquests, over one version of HTTP: URL VERSION; tells what it heard, in JSON."""

import json
import sys

import niquests
from urllib3.util import parse_url

url, version = sys.argv[1:]
asked = {"model": "sim", "messages": [{"role": "user", "content": "hi " * 20_000}], "max_tokens": 20}
place = parse_url(url)
options = {f"disable_http{each}": each != version for each in "123"}
known = {(place.host, place.port): (place.host, place.port)} if version == "3" else None
with niquests.Session(quic_cache_layer=known, revocation_configuration=None, verify=False, **options) as http:
    http.trust_env = False
    plain = http.post(f"{url}/chat/completions", json=asked)
    streamed = http.post(f"{url}/chat/completions", json={**asked, "stream": True}, stream=True)
    events = [line.decode() for line in streamed.iter_lines() if line]
    again = http.get(f"{url}/models")
spoken = [each.http_version for each in (plain, streamed, again)]
sys.stdout.write(
    json.dumps({"spoken": spoken, "plain": plain.json(), "events": events, "models": again.json()})
)
