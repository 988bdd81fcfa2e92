"""``penstock key``."""

import io
import json
import time

import pytest
import yaml

from penstock.config.expiry import ends_at
from penstock.config.key_file import read_keys
from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.testing import GatewayProcess


def test_new_prints_the_key_alone_and_the_lines_beside_it(penstock):
    status, out, err = penstock(
        "key",
        "new",
        "--name",
        "no",
        "--tenant",
        "a: b",
        "--tier",
        "batch",
        "--model",
        "gpt-*",
        "--model",
        "${x}",
    )
    assert status == 0
    key = out.removesuffix("\n")
    assert key.startswith("pk-")
    assert key not in err
    assert yaml.safe_load(err[err.index("keys:") :]) == {
        "keys": [
            {
                "name": "no",
                "hash": hash_key(key),
                "tenant": "a: b",
                "tier": "batch",
                "models": ["gpt-*", "$${x}"],
            }
        ]
    }


def test_what_is_as_usual_is_not_written(penstock):
    _, out, err = penstock("key", "new", "--name", "alice")
    assert yaml.safe_load(err[err.index("keys:") :]) == {
        "keys": [{"name": "alice", "hash": hash_key(out.strip())}]
    }


def test_a_key_may_end(penstock, tmp_path):
    _, _, err = penstock("key", "new", "--name", "alice", "--expires", "2100-01-01T12:00:00+01:00")
    (key,) = parse(err[err.index("keys:") :]).keys
    assert key.expires == "2100-01-01T12:00:00+01:00"
    path = str(tmp_path / "keys.jsonl")
    penstock("key", "new", "--name", "bob", "--expires", "30d", "--file", path)
    (key,) = read_keys(path)
    assert 29.9 < (ends_at(key.expires) - time.time()) / 86_400 <= 30


@pytest.mark.parametrize("when", ["2020-01-01", "soon", "2100-01-01T12:00:00"])
def test_no_key_is_made_that_has_ended_or_whose_end_is_none(penstock, tmp_path, when):
    path = tmp_path / "keys.jsonl"
    status, out, err = penstock("key", "new", "--name", "a", "--expires", when, "--file", str(path))
    assert (status, out) == (2, "")
    assert "--expires" in err
    assert not path.exists()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """One whose key has a model that a terminal would obey."""
    limit = {"requests_per_minute": 60, "concurrent": 4, "usd_per_day": 5}
    config = {
        "upstreams": {"sim": {"kind": "sim"}},
        "models": {"sim": {"candidates": [{"upstream": "sim"}]}},
        "keys": [
            {"name": "alice", "hash": hash_key("k" * 40), "models": ["sim\x1b[2J*"], "expires": "2100-01-01"}
        ],
        "limits": {"keys": {"alice": limit}, "tiers": {"standard": {"usd_per_day": 7}}},
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def test_show_tells_what_is_left(penstock, gateway, monkeypatch):
    monkeypatch.setenv("PENSTOCK_KEY", "k" * 40)
    for url in (gateway.url, gateway.url + "/v1/"):
        status, out, err = penstock("key", "show", "--url", url)
        assert (status, err) == (0, "")
        first, second, *table = out.splitlines()
        assert first == "alice, tenant default, tier standard: sim\N{REPLACEMENT CHARACTER}[2J*"
        assert second == "ends 2100-01-01T00:00:00Z"
        rows = [line.strip("│ ").split("│") for line in table if line.startswith("│")]
        words = [[cell.strip() for cell in row] for row in rows]
        assert words[0] == ["key", "requests_per_minute", "60", "", "60", "in 0 s"]
        assert words[1][:5] == ["key", "concurrent", "4", "", "4"]
        assert words[2][:5] == ["key", "usd_per_day", "5", "0", "5"]
        assert words[3][:5] == ["tier", "usd_per_day", "7", "not told", "not told"]
    status, out, _ = penstock("key", "show", "--url", gateway.url, "--json")
    assert json.loads(out)["limits"][0]["remaining"] == 60


def test_show_says_why_there_is_nothing_to_show(penstock, gateway):
    status, out, err = penstock("key", "show", "--url", gateway.url, "--key", "other")
    assert (status, out) == (1, "")
    assert "says 401: this API key is not known here" in err
    status, _, err = penstock("key", "show", "--url", "http://127.0.0.1:9", "--key", "other")
    assert status == 1
    assert "does not answer" in err


def test_a_name_is_required(penstock):
    assert penstock("key", "new").status == 2


def test_hash_reads_the_key_from_standard_input(penstock, monkeypatch):
    key = "k" * 40
    monkeypatch.setattr("sys.stdin", io.StringIO(key + "\n"))
    assert penstock("key", "hash") == (0, hash_key(key) + "\n", "")


def test_hash_warns_of_a_key_that_can_be_guessed_and_refuses_none(penstock, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-1234"))
    status, out, err = penstock("key", "hash")
    assert (status, out) == (0, hash_key("sk-1234") + "\n")
    assert "can be guessed" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert penstock("key", "hash").status == 1


def test_a_key_goes_into_a_file_and_out_of_it(penstock, tmp_path):
    path = str(tmp_path / "keys.jsonl")
    status, out, err = penstock("key", "new", "--name", "alice", "--tenant", "acme", "--file", path)
    assert (status, err) == (0, "")
    (found,) = read_keys(path)
    assert (found.name, found.tenant, found.hash) == ("alice", "acme", hash_key(out.strip()))
    assert penstock("key", "new", "--name", "alice", "--file", path).status == 1
    assert penstock("key", "remove", "alice", "--file", path).status == 0
    assert read_keys(path) == []
    assert penstock("key", "remove", "alice", "--file", path).status == 1


def test_no_key_is_put_into_a_file_that_a_gateway_would_refuse_for_it(penstock, tmp_path):
    path = tmp_path / "keys.jsonl"
    for name in ("", "a\nb"):
        status, out, err = penstock("key", "new", "--name", name, "--file", str(path))
        assert (status, out) == (1, "")
        assert "name" in err
    assert not path.exists()
