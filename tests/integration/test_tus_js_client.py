"""tus-js-client against the gateway, unchanged, in its three protocols, with a network that cuts where a seed says."""

import json
import random
import subprocess
from pathlib import Path

import httpx
import pytest
from node_packages import installed, needs_node

from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess

PACKAGE = "tus-js-client@4.3.1"
SCRIPT = Path(__file__).parent / "tus_js_upload.mjs"
PATIENCE = 60  # seconds
FILE = 3_000_000
PROTOCOLS = ("tus-v1", "ietf-draft-03", "ietf-draft-05")  # the drafts: interop versions 5 and 6

pytestmark = needs_node


@pytest.fixture(scope="module")
def home():
    return installed(PACKAGE)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": str(folder / "kept")},
            "workers": 2,
        }
        with GatewayProcess(config, folder) as running:
            yield running


@pytest.fixture
def link(gateway, request):
    """A network whose first dozen of connections break, each after a drawn number of bytes from the client."""
    draw = random.Random(request.node.name)
    kinds = (Kind.RESET, Kind.CLOSE)
    breaks = [Break(draw.choice(kinds), draw.randint(200_000, 900_000), "up") for _ in range(12)]
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port), breaks=breaks) as running:
        yield running


@pytest.fixture
def path(tmp_path, request):
    """A file of drawn content, whose name no other test has."""
    path = tmp_path / "".join(each if each.isalnum() else "-" for each in request.node.name)
    path.write_bytes(random.Random(path.name).randbytes(FILE))
    return path


def upload(home, url, path, at="/v1/files", **options):
    """What the client tells at the end: failures, url, and the last answer's status and body."""
    options = {
        "endpoint": url + at,
        "metadata": {"filename": path.name},
        # The drafts have no metadata.
        "headers": {"Content-Disposition": f'attachment; filename="{path.name}"'},
        **options,
    }
    done = subprocess.run(
        ["node", SCRIPT, path, json.dumps(options)],
        cwd=home,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def content_of(gateway, path):
    listed = httpx.get(f"{gateway.base_url}/files").json()["data"]
    (file,) = [each for each in listed if each["filename"] == path.name]
    return httpx.get(f"{gateway.base_url}/files/{file['id']}/content").content


WAYS = {
    "in one request": {},
    "in chunks": {"chunkSize": 350_000},
    "its beginning with its creation": {"chunkSize": 350_000, "uploadDataDuringCreation": True},
    "all of it with its creation": {"uploadDataDuringCreation": True},
    "its length told at the end": {"chunkSize": 350_000, "uploadLengthDeferred": True},
    "by POST for PATCH": {"overridePatchMethod": True},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WAYS)
def test_a_file_through_cuts(gateway, home, link, path, protocol, way):
    told = upload(home, link.url, path, protocol=protocol, **WAYS[way])
    assert told["failures"] >= 2
    assert link.figures.broken >= 2
    assert content_of(gateway, path) == path.read_bytes()


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_side_by_side_through_cuts(gateway, home, link, path, parts):
    told = upload(home, link.url, path, protocol="tus-v1", parallelUploads=parts)
    assert link.figures.broken >= 2
    asked = httpx.head(told["url"].replace(link.url, gateway.url), headers={"tus-resumable": "1.0.0"})
    assert asked.headers["upload-concat"].count("/v1/uploads/") == parts
    assert content_of(gateway, path) == path.read_bytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_through_cuts(gateway, home, link, path, protocol):
    words = random.Random(1).choices(["left", "right", "up", "down"], k=300_000)
    asked = {"model": "sim", "messages": [{"role": "user", "content": " ".join(words)}], "max_tokens": 20}
    path.write_text(json.dumps(asked))
    told = upload(
        home,
        link.url,
        path,
        "/v1/chat/completions",
        protocol=protocol,
        headers={},
        metadata={"filetype": "application/json"},
    )
    assert link.figures.broken >= 2
    assert told["status"] == 200
    answer = json.loads(told["body"])
    kind = {"content-type": "application/json"}
    url = f"{gateway.base_url}/chat/completions"
    direct = httpx.post(url, content=path.read_bytes(), headers=kind).json()
    assert answer["choices"] == direct["choices"]
    assert answer["usage"] == direct["usage"]
