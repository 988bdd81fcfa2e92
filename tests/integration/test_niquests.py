"""HTTP/1.1, HTTP/2 and HTTP/3 in front of a whole gateway, as niquests speaks them."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from penstock.testing import GatewayProcess, SimulatorProcess

sys.path.append(str(Path(__file__).parent.parent / "admin"))
from running import issue_certificate

PACKAGE = "niquests>=3.21"
HOME = Path(__file__).resolve().parents[2] / ".cache" / "niquests"
SCRIPT = Path(__file__).parent / "niquests_round.py"


@pytest.fixture(scope="module")
def python():
    """An interpreter that has niquests: it brings a urllib3 of its own in the other's place, so it lives by itself."""
    python = HOME / "bin" / "python"
    stamp = HOME / "installed"
    if not stamp.exists() or stamp.read_text() != PACKAGE:
        venv.create(HOME, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        done = subprocess.run(
            [*pip, "install", *options, PACKAGE], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"niquests could not be installed:\n{done.stderr}"
        stamp.write_text(PACKAGE)
    return python


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("niquests")
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "tls": issue_certificate(folder, "localhost"),
        }
        with GatewayProcess(config, folder, options=["--http3"]) as running:
            yield running


@pytest.mark.parametrize(("version", "spoken"), [("1", 11), ("2", 20), ("3", 30)])
def test_a_round_over_each_version(gateway, python, version, spoken):
    done = subprocess.run(
        [python, "-W", "ignore", SCRIPT, gateway.base_url, version],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    heard = json.loads(done.stdout)
    assert heard["spoken"] == [spoken] * 3
    *events, end = [line.removeprefix("data: ") for line in heard["events"] if line.startswith("data: ")]
    assert end == "[DONE]"
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert text == heard["plain"]["choices"][0]["message"]["content"] != ""
    assert heard["models"]["object"] == "list"
