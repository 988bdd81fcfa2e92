"""HTTP/2 and HTTP/3 in front of a whole gateway, with clients by others: httpx2 and curl."""

import io
import json
import sys
import threading
from pathlib import Path

import httpx2
import openai
import pycurl
import pytest

import penstock
from penstock.testing import GatewayProcess, SimulatorProcess

sys.path.append(str(Path(__file__).parent.parent / "admin"))
from running import issue_certificate

VERSIONS = {
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "2": pycurl.CURL_HTTP_VERSION_2_0,
    "3": 31,
}  # 31: HTTP/3 only


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def gateway(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": str(folder / "kept")},
            "tls": issue_certificate(folder, "localhost"),
            "workers": request.param,
        }
        with GatewayProcess(config, folder, options=["--http3"]) as running:
            yield running


def curl(gateway, version, path, body=None, *fields, method=None):
    """``(status, version spoken, headers, body, pieces)``."""
    handle, heads, pieces = pycurl.Curl(), io.BytesIO(), []
    handle.setopt(pycurl.URL, gateway.url + path)
    handle.setopt(pycurl.SSL_VERIFYPEER, 0)
    handle.setopt(pycurl.SSL_VERIFYHOST, 0)
    handle.setopt(pycurl.PROXY, "")
    handle.setopt(pycurl.HTTP_VERSION, VERSIONS[version])
    handle.setopt(pycurl.TIMEOUT, 60)
    handle.setopt(pycurl.HTTPHEADER, ["Expect:", *fields])
    handle.setopt(pycurl.HEADERFUNCTION, heads.write)
    handle.setopt(pycurl.WRITEFUNCTION, pieces.append)
    if body is not None:
        handle.setopt(pycurl.POSTFIELDS, body)
    if method:
        handle.setopt(pycurl.CUSTOMREQUEST, method)
    handle.perform()
    spoken = handle.getinfo(pycurl.INFO_HTTP_VERSION)
    status = handle.getinfo(pycurl.RESPONSE_CODE)
    handle.close()
    lines = [line.split(": ", 1) for line in heads.getvalue().decode().split("\r\n") if ": " in line]
    return status, spoken, {name.lower(): value for name, value in lines}, b"".join(pieces), pieces


def chat(**more):
    asked = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, **more}
    return json.dumps(asked).encode()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_is_answered(gateway, version):
    kind = "content-type: application/json"
    status, spoken, headers, body, _ = curl(gateway, version, "/v1/chat/completions", chat(), kind)
    assert (status, spoken) == (200, {"1.1": 2, "2": 3, "3": 30}[version])
    assert json.loads(body)["choices"][0]["message"]["content"]
    port = gateway.url.rpartition(":")[2]
    assert f'h3=":{port}"' in headers["alt-svc"]


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_stream_comes_event_by_event(gateway, version):
    asked = chat(model="sim:tps=100", stream=True)
    _, _, _, body, pieces = curl(
        gateway, version, "/v1/chat/completions", asked, "content-type: application/json"
    )
    assert body.endswith(b"data: [DONE]\n\n")
    assert len(pieces) > 5


@pytest.mark.parametrize("version", ["2", "3"])
def test_a_request_in_pieces(gateway, version):
    body = chat(messages=[{"role": "user", "content": "x" * 300_000}])
    fields = ["content-type: application/json", "upload-complete: ?0"]
    status, _, headers, _, _ = curl(gateway, version, "/v1/chat/completions", b"", *fields)
    assert status == 201
    where = headers["location"]
    assert where.startswith(f"{gateway.url}/v1/uploads/")
    where = where.removeprefix(gateway.url)
    for offset, end in ((0, 200_000), (200_000, len(body))):
        fields = [
            "content-type: application/partial-upload",
            f"upload-offset: {offset}",
            f"upload-complete: ?{int(end == len(body))}",
        ]
        status, _, headers, answer, _ = curl(
            gateway, version, where, body[offset:end], *fields, method="PATCH"
        )
    assert (status, headers["upload-complete"]) == (200, "?1")
    assert json.loads(answer)["usage"]["prompt_tokens"] > 10_000


def test_many_calls_on_one_connection_of_http2(gateway):
    with httpx2.Client(http2=True, verify=False, trust_env=False) as client:
        kind = {"content-type": "application/json"}
        answers = [
            client.post(f"{gateway.base_url}/chat/completions", content=chat(), headers=kind)
            for _ in range(5)
        ]
    assert {(answer.status_code, answer.http_version) for answer in answers} == {(200, "HTTP/2")}


def test_our_client_speaks_http2_where_it_is_told_to(gateway):
    with penstock.http_client(http2=True, verify=False, trust_env=False) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http, max_retries=0)
        asked = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
        raw = client.chat.completions.with_raw_response.create(**asked)
        assert raw.http_response.http_version == "HTTP/2"
        plain = raw.parse().choices[0].message.content
        stream = client.chat.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == plain
        assert http.statistics().broken == 0


def test_a_stream_in_flight_over_http3_ends_by_itself(tmp_path):
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "tls": issue_certificate(tmp_path, "localhost"),
        }
        heard = []
        with GatewayProcess(config, tmp_path, options=["--http3"]) as running:
            asked = chat(model="sim:tps=30", stream=True, max_tokens=150)
            kind = "content-type: application/json"
            stream = threading.Thread(
                target=lambda: heard.append(curl(running, "3", "/v1/chat/completions", asked, kind))
            )
            stream.start()
            while not running.generations():  # each look is a request of its own; pytest's timeout ends it
                pass
            running.terminate()
            stream.join()
        ((status, spoken, _, body, _),) = heard
        assert (status, spoken) == (200, 30)
        assert body.endswith(b"data: [DONE]\n\n")


def test_http2_alone_brings_no_http3(tmp_path):
    with SimulatorProcess() as simulator:
        config = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "tls": issue_certificate(tmp_path, "localhost"),
        }
        with GatewayProcess(config, tmp_path, options=["--http2"]) as running:
            for version, number in (("1.1", 2), ("2", 3)):
                kind = "content-type: application/json"
                status, spoken, headers, body, _ = curl(
                    running, version, "/v1/chat/completions", chat(stream=True), kind
                )
                assert (status, spoken) == (200, number)
                assert body.endswith(b"data: [DONE]\n\n")
                assert "alt-svc" not in headers
            with pytest.raises(pycurl.error):
                curl(running, "3", "/v1/models")


def test_what_cannot_be_served_is_said(tmp_path):
    from penstock.admin.doors import check_protocols, server_for
    from penstock.config.model import Config, TLSConfig
    from penstock.config.secret import Secret
    from penstock.errors import ConfigError

    assert server_for("own", http2=False, http3=False) == "own"
    assert server_for("own", http2=True, http3=False) == "hypercorn"
    assert server_for("granian", http2=True, http3=False) == "granian"
    assert server_for("own", http2=False, http3=True) == "hypercorn"
    for name in ("granian", "uvicorn"):
        with pytest.raises(ConfigError, match="http3"):
            server_for(name, http2=True, http3=True)
    with pytest.raises(ConfigError, match="tls"):
        check_protocols(Config(), http2=True, http3=False)
    locked = TLSConfig(certificate="c", key="k", key_password=Secret("x"))
    with pytest.raises(ConfigError, match="encrypted"):
        check_protocols(Config(tls=locked), http2=False, http3=True)
    check_protocols(Config(tls=locked), http2=True, http3=False)
    check_protocols(Config(), http2=False, http3=False)
