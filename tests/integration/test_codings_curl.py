"""Coded answers are decoded by curl, and bodies that were coded elsewhere arrive whole."""

import gzip
import json
import shutil
import subprocess
import zlib

import brotli
import pytest
import zstandard

from penstock.testing import GatewayProcess, SimulatorProcess

CURL = shutil.which("curl")
FEATURES = {"gzip": "libz", "br": "brotli", "zstd": "zstd"}  # what curl calls what it was built with
BODIES = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}

pytestmark = pytest.mark.skipif(CURL is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codings")
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "codings": {"answers": list(FEATURES), "least_bytes": 100},
        }
        with GatewayProcess(config, folder) as running:
            yield running


def curl(gateway, tmp_path, body, *options):
    """What curl makes of an answer, and the coding in which it came."""
    (tmp_path / "body").write_bytes(body)
    head = tmp_path / "head"
    words = ["-q", "-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "60", "-D", head, *options]
    words += ["-H", "Content-Type: application/json", "--data-binary", f"@{tmp_path / 'body'}"]
    done = subprocess.run(
        [CURL, *words, f"{gateway.base_url}/chat/completions"], check=True, capture_output=True
    )
    lines = [line.partition(": ") for line in head.read_text().lower().splitlines()]
    return done.stdout, next((value for name, _, value in lines if name == "content-encoding"), None)


def chat(**more):
    asked = {
        "model": "sim",
        "messages": [{"role": "user", "content": "hi " * 5_000}],
        "max_tokens": 400,
        **more,
    }
    return json.dumps(asked).encode()


def text_of(answer, *, stream):
    if not stream:
        return json.loads(answer)["choices"][0]["message"]["content"]
    *events, end = [line[6:] for line in answer.decode().splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("coding", FEATURES)
def test_an_answer_is_decoded_by_curl(gateway, tmp_path, coding, stream):
    told = subprocess.run([CURL, "--version"], check=True, capture_output=True, text=True).stdout.lower()
    if FEATURES[coding] not in told.partition("features:")[2].split():
        pytest.skip(f"this curl does not decode {coding}")
    asked = chat(stream=stream)
    whole, plainly = curl(gateway, tmp_path, asked)
    decoded, spoken = curl(gateway, tmp_path, asked, "--compressed", "-H", f"Accept-Encoding: {coding}")
    assert (plainly, spoken) == (None, coding)
    assert text_of(decoded, stream=stream) == text_of(whole, stream=stream) != ""
    _, chosen = curl(gateway, tmp_path, asked, "--compressed")
    assert chosen in FEATURES


@pytest.mark.parametrize("coding", BODIES)
def test_a_coded_body_is_the_body(gateway, tmp_path, coding):
    asked = chat()
    whole, _ = curl(gateway, tmp_path, asked)
    answer, _ = curl(gateway, tmp_path, BODIES[coding](asked), "-H", f"Content-Encoding: {coding}")
    for member in ("choices", "usage"):
        assert json.loads(answer)[member] == json.loads(whole)[member]
