"""Keys and sums of the ledger over the control API, at a gateway that runs."""

import csv
import json
import time
import urllib.error
import urllib.request

import pytest

from penstock.config.expiry import ends_at
from penstock.testing import GatewayProcess
from waiting import wait_until

CONTROL_KEY = "sésame"  # in UTF-8, as curl sends what stands in a terminal
CONTROL = {"authorization": b"Bearer " + CONTROL_KEY.encode()}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "keys.jsonl").touch()
    config = {
        "control_key": CONTROL_KEY,
        "workers": 2,
        "keys_file": str(folder / "keys.jsonl"),
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "upstreams": {"sim": {"kind": "sim"}},
        "models": {"sim": {"candidates": [{"upstream": "sim"}]}},
    }
    with GatewayProcess(config, folder) as running:
        yield running


def ask(url, method="GET", body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"content-type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text, status = answer.read().decode(), answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read().decode(), error.code
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def control(gateway, path, method="GET", body=None):
    return ask(gateway.control_url + path, method, body, **CONTROL)


def call(gateway, key):
    body = {"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
    return ask(gateway.url + "/v1/chat/completions", "POST", body, authorization=f"Bearer {key}")


def test_a_key_counts_at_once_and_until_it_is_taken_out(gateway):
    assert call(gateway, "pk-nobody")[0] == 401  # a file without keys lets nobody in
    wanted = {"name": "acme/1", "tenant": "acme", "limits": {"requests_per_minute": 100}}
    status, made = control(gateway, "/v1/keys", "POST", wanted)
    assert (status, made["tenant"], made["limits"]) == (201, "acme", {"requests_per_minute": 100})
    assert [call(gateway, made["key"])[0] for _ in range(8)] == [200] * 8
    assert control(gateway, "/v1/keys", "POST", wanted) == (
        409,
        {"detail": "there is a key 'acme/1' already"},
    )
    status, known = control(gateway, "/v1/keys")
    assert ("acme/1", True) in [(each["name"], each["removable"]) for each in known]
    assert made["key"] not in str(known)
    assert control(gateway, "/v1/keys/acme/1", "DELETE")[0] == 204
    assert [call(gateway, made["key"])[0] for _ in range(4)] == [401] * 4
    assert control(gateway, "/v1/keys/acme/1", "DELETE")[0] == 404


def test_a_file_that_has_gone_is_not_begun_anew_without_its_keys(gateway, tmp_path):
    file = gateway.config_path.with_name("keys.jsonl")
    made = control(gateway, "/v1/keys", "POST", {"name": "stays"})[1]
    file.rename(tmp_path / "elsewhere")
    try:
        for status, answer in (
            control(gateway, "/v1/keys", "POST", {"name": "new"}),
            control(gateway, "/v1/keys/stays", "DELETE"),
        ):
            assert (status, "keys.jsonl: is not there" in answer["detail"]) == (500, True)
        assert not file.exists()
    finally:
        (tmp_path / "elsewhere").rename(file)
    assert call(gateway, made["key"])[0] == 200
    assert control(gateway, "/v1/keys/stays", "DELETE")[0] == 204


def test_a_key_has_limits_of_its_own(gateway):
    wanted = {"name": "none", "limits": {"requests_per_minute": 0}}
    status, made = control(gateway, "/v1/keys", "POST", wanted)
    assert status == 201
    assert call(gateway, made["key"])[0] == 429


def test_a_key_ends_when_it_was_said_to(gateway):
    status, made = control(gateway, "/v1/keys", "POST", {"name": "short", "expires": "1h"})
    assert (status, call(gateway, made["key"])[0]) == (201, 200)
    assert 3_500 < ends_at(made["expires"]) - time.time() <= 3_600
    assert f"penstock_key_next_end_timestamp_seconds {ends_at(made['expires']):.0f}" in gateway.metrics()
    file = gateway.config_path.with_name("keys.jsonl")
    file.write_text(file.read_text().replace(made["expires"], "2020-01-01"))
    assert control(gateway, "/v1/reload", "POST")[0] == 200
    for _ in range(4):
        status, answer = call(gateway, made["key"])
        assert (status, answer["error"]["code"]) == (401, "expired_api_key")
    known = {each["name"]: each["expires"] for each in control(gateway, "/v1/keys")[1]}
    assert known["short"] == "2020-01-01"
    assert 'penstock_keys{state="ended"} 1' in gateway.metrics()
    assert "penstock_key_next_end_timestamp_seconds +Inf" in gateway.metrics()
    assert "2020-01-01" in [key["expires"] for key in control(gateway, "/v1/config")[1]["config"]["keys"]]
    assert control(gateway, "/v1/keys/short", "DELETE")[0] == 204


def test_every_worker_knows_what_is_left(gateway):
    """Also those that have had none of the key's calls."""
    wanted = {"name": "left", "limits": {"requests_per_minute": 30, "concurrent": 4, "usd_per_day": 1}}
    made = control(gateway, "/v1/keys", "POST", wanted)[1]
    assert [call(gateway, made["key"])[0] for _ in range(8)] == [200] * 8
    for _ in range(6):
        status, found = ask(gateway.url + "/v1/key", authorization=f"Bearer {made['key']}")
        assert (status, found["name"], found["shared"]) == (200, "left", "workers")
        rate, places = found["limits"]
        assert rate["remaining"] < 28
        assert (places["of"], places["remaining"]) == ("concurrent", 4)
        assert [budget["limit"] for budget in found["budgets"]] == ["1"]


@pytest.mark.parametrize("expires", ["2020-01-01", "soon", "2100-01-01T12:00:00"])
def test_an_end_that_is_none_or_past_makes_no_key(gateway, expires):
    status, said = control(gateway, "/v1/keys", "POST", {"name": "x", "expires": expires})
    assert (status, said["detail"].startswith("expires: ")) == (422, True)


@pytest.mark.parametrize("member", ["name", "tenant"])
def test_a_name_that_would_end_a_line_makes_no_key(gateway, member):
    status, said = control(gateway, "/v1/keys", "POST", {"name": "x", member: "a\nb"})
    assert (status, "control character" in said["detail"]) == (422, True)


@pytest.mark.parametrize("limits", [{"usd_per_dya": 1}, {"concurrent": 1.5}, {"usd_per_day": -1}])
def test_a_limit_that_is_none_makes_no_key(gateway, limits):
    before = control(gateway, "/v1/keys")
    status, said = control(gateway, "/v1/keys", "POST", {"name": "x", "limits": limits})
    assert (status, said["detail"].startswith("limits: ")) == (422, True)
    assert control(gateway, "/v1/keys") == before


def test_a_body_that_is_not_said_to_be_json_is_told_so(gateway):
    """It is what curl sends unless told otherwise, and what a form in any page could."""
    url = gateway.control_url + "/v1/keys"
    for media_type in ("application/x-www-form-urlencoded", "text/plain"):
        status, said = ask(url, "POST", {"name": "x"}, **{**CONTROL, "content-type": media_type})
        assert (status, said["detail"]) == (415, "the body must be JSON, with Content-Type: application/json")
    status, _ = ask(
        url, "POST", {"name": "x"}, **CONTROL | {"content-type": "application/json; charset=utf-8"}
    )
    assert status == 201
    assert control(gateway, "/v1/keys/x", "DELETE")[0] == 204


@pytest.mark.parametrize(
    "body", [{"name": "x", "model": "secret"}, ["secret"], {"name": ["secret"]}, {"secret": 1}]
)
def test_what_is_wrong_with_a_body_is_told_without_the_body(gateway, body):
    status, said = control(gateway, "/v1/keys", "POST", body)
    assert status == 422
    (first, *_) = said["detail"]
    assert {"loc", "msg", "type"} == first.keys()
    assert "secret" not in first["msg"]


def test_costs_of_each_day_and_tenant_are_told_also_as_csv(gateway):
    _, made = control(gateway, "/v1/keys", "POST", {"name": "umbrella", "tenant": "umbrella"})
    assert call(gateway, made["key"])[0] == 200

    def written():
        status, told = control(gateway, "/v1/ledger?by=day&by=tenant&since=1d")
        assert (status, told["groups"]) == (200, len(told["lines"]))
        return [line for line in told["lines"] if line["tenant"] == "umbrella" and line["completed"]]

    (line,) = wait_until(written)
    assert line["cost_picousd"] > 0
    status, text = control(gateway, "/v1/ledger?by=tenant&format=csv")
    assert status == 200
    assert "umbrella" in {each["tenant"] for each in csv.DictReader(text.splitlines())}
    status, told = control(gateway, "/v1/ledger?by=tenant&limit=1&until=2020-01-01")
    assert (status, told) == (200, {"lines": [], "groups": 0})
    assert control(gateway, "/v1/ledger?since=never")[0] == 422
    assert ask(gateway.control_url + "/v1/ledger")[0] == 401


def test_before_the_first_call_there_are_no_costs_and_no_mistake(tmp_path):
    config = {
        "control_key": CONTROL_KEY,
        "ledger": {"path": str(tmp_path / "ledger.sqlite")},
        "upstreams": {"sim": {"kind": "sim"}},
        "models": {"sim": {"candidates": [{"upstream": "sim"}]}},
    }
    with GatewayProcess(config, tmp_path) as running:
        assert control(running, "/v1/ledger") == (200, {"lines": [], "groups": 0})


def test_without_a_place_for_them_no_keys_are_made(tmp_path):
    config = {
        "upstreams": {"sim": {"kind": "sim"}},
        "models": {"sim": {"candidates": [{"upstream": "sim"}]}},
    }
    with GatewayProcess(config, tmp_path) as running:
        assert control(running, "/v1/keys") == (200, [])
        assert control(running, "/v1/keys", "POST", {"name": "x"})[0] == 409
        assert control(running, "/v1/ledger")[0] == 409
