"""Tokens that are fetched and requests that are signed."""

import asyncio
import datetime as dt
import hashlib
import hmac
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from penstock.config.model import CredentialsConfig, UpstreamConfig
from penstock.errors import ConfigError, UpstreamFailed
from penstock.net.origin import Origin
from penstock.testing import FakeClock
from penstock.upstream import credentials as module
from penstock.upstream.credentials import PATIENCE, PAUSE, BearerToken, Fetched, credentials

RUNTIME = "https://bedrock-runtime.us-west-2.amazonaws.com"


def made(clock, url="https://example.com/v1", **wanted):
    config = UpstreamConfig(kind="openai", base_url=url, credentials=CredentialsConfig(**wanted))
    return credentials("up", config, Origin.parse(url)[0], clock.now)


def line(permits):
    return permits.lines("POST", b"/v1/messages", b"{}")


class Source:
    """Gives ``token-1``, ``token-2``, … unless it fails."""

    def __init__(self, life=1_000.0):
        self.asked = 0
        self.failing = False
        self.life = life
        self.go = threading.Event()
        self.go.set()

    def __call__(self):
        self.asked += 1
        self.go.wait(60)
        if self.failing:
            raise LookupError("the secret path is /etc/secret")
        return Fetched(f"token-{self.asked}", self.life)


async def idle():
    """Until nothing is being fetched."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)


def test_a_token_is_fetched_once_and_kept_until_its_time_comes():
    async def main():
        clock, source = FakeClock(), Source()
        permits = BearerToken("up", source, clock.now)
        assert line(permits) is None
        await permits.renew()
        assert line(permits) == b"authorization: Bearer token-1\r\n"
        clock.advance(700)
        assert line(permits) == b"authorization: Bearer token-1\r\n"
        assert source.asked == 1
        clock.advance(150)  # a fifth of its life is left: the next is fetched, and nobody waits
        assert line(permits) == b"authorization: Bearer token-1\r\n"
        await idle()
        assert line(permits) == b"authorization: Bearer token-2\r\n"
        clock.advance(1_001)
        assert line(permits) is None

    asyncio.run(main())


def test_many_wait_for_one_fetch():
    async def main():
        clock, source = FakeClock(), Source()
        permits = BearerToken("up", source, clock.now)
        source.go.clear()
        waiting = [asyncio.create_task(permits.renew()) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who leaves takes nothing from the others
        source.go.set()
        await asyncio.gather(*waiting[1:])
        assert source.asked == 1
        assert line(permits) == b"authorization: Bearer token-1\r\n"

    asyncio.run(main())


def test_a_failure_is_told_without_its_reason_and_not_repeated_at_once(caplog):
    async def main():
        clock, source = FakeClock(), Source()
        permits = BearerToken("up", source, clock.now)
        source.failing = True
        for _ in range(3):
            with pytest.raises(UpstreamFailed) as raised:
                await permits.renew()
            assert raised.value.code == "upstream_authentication"
            assert "secret" not in raised.value.message
        assert source.asked == 1
        assert "/etc/secret" in caplog.text
        clock.advance(PAUSE)
        source.failing = False
        await permits.renew()
        assert line(permits) == b"authorization: Bearer token-2\r\n"

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


def test_an_old_token_serves_while_no_new_one_is_to_be_had():
    async def main():
        clock, source = FakeClock(), Source()
        permits = BearerToken("up", source, clock.now)
        await permits.renew()
        source.failing = True
        clock.advance(900)
        assert line(permits) == b"authorization: Bearer token-1\r\n"
        await idle()
        assert line(permits) == b"authorization: Bearer token-1\r\n"
        assert source.asked == 2

    asyncio.run(main())


def test_a_token_that_was_refused_is_replaced_unless_it_is_fresh():
    async def main():
        clock, source = FakeClock(), Source()
        permits = BearerToken("up", source, clock.now)
        await permits.renew()
        permits.refused()
        assert line(permits) is not None
        clock.advance(PATIENCE + 1)
        permits.refused()
        assert line(permits) is None

    asyncio.run(main())


def test_a_source_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)

    async def main():
        source = Source()
        source.go.clear()
        permits = BearerToken("up", source, FakeClock().now)
        with pytest.raises(UpstreamFailed):
            await permits.renew()
        source.go.set()

    asyncio.run(main())


def test_a_command_prints_it(caplog):
    async def main():
        clock = FakeClock()
        permits = made(clock, source="command", command=[sys.executable, "-c", "print('abc')"], every=50)
        await permits.renew()
        assert line(permits) == b"authorization: Bearer abc\r\n"
        clock.advance(51)
        assert line(permits) is None
        bad = "import sys; print('a\\nb'); print('why', file=sys.stderr); sys.exit(int(sys.argv[1]))"
        for status in ("0", "3"):
            with pytest.raises(UpstreamFailed):
                await made(clock, source="command", command=[sys.executable, "-c", bad, status]).renew()
        with pytest.raises(UpstreamFailed):
            await made(clock, source="command", command=["no-such-program-here"]).renew()

    asyncio.run(main())
    assert "ended with status 3: why" in caplog.text
    assert "no token" in caplog.text


def test_a_file_is_read_again(tmp_path):
    async def main():
        clock, path = FakeClock(), tmp_path / "token"
        permits = made(clock, source="file", file=str(path), every=100)
        with pytest.raises(UpstreamFailed):
            await permits.renew()
        path.write_text("one\n")
        clock.advance(PAUSE)
        await permits.renew()
        assert line(permits) == b"authorization: Bearer one\r\n"
        path.write_text("two\n")
        clock.advance(81)
        line(permits)
        await idle()
        assert line(permits) == b"authorization: Bearer two\r\n"

    asyncio.run(main())


# ---- clouds, whose own libraries ask a server of ours --------------------------------------------------


class Cloud:
    """Gives tokens to whoever asks; what it was asked is in ``asked``."""

    def __init__(self, answer):
        cloud = self
        self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                cloud.asked.append((self.path, dict(self.headers), body))
                data = json.dumps(answer()).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 - its base's name

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def test_googles_library_exchanges_a_service_accounts_key(tmp_path):
    async def main(url):
        key = rsa.generate_private_key(65537, 2048)
        account = {
            "type": "service_account",
            "client_email": "me@p.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "token_uri": url + "/token",
        }
        path = tmp_path / "account.json"
        path.write_text(json.dumps(account))
        clock = FakeClock()
        permits = made(clock, source="google", file=str(path))
        await permits.renew()
        assert line(permits) == b"authorization: Bearer ya29\r\n"
        clock.advance(3_700)
        assert line(permits) is None

    with Cloud(lambda: {"access_token": "ya29", "expires_in": 3_600, "token_type": "Bearer"}) as cloud:
        asyncio.run(main(cloud.url))
    [(path, _, body)] = cloud.asked
    assert path == "/token"
    assert "jwt-bearer" in parse_qs(body.decode())["grant_type"][0]


def test_microsofts_library_asks_the_machines_identity(monkeypatch):
    async def main():
        permits = made(FakeClock(), source="entra")
        await permits.renew()
        assert line(permits) == b"authorization: Bearer eyJ\r\n"

    expires = int(dt.datetime.now(dt.UTC).timestamp()) + 3_600
    with Cloud(lambda: {"access_token": "eyJ", "expires_on": str(expires), "token_type": "Bearer"}) as cloud:
        monkeypatch.setenv("IDENTITY_ENDPOINT", cloud.url + "/identity")
        monkeypatch.setenv("IDENTITY_HEADER", "secret")
        asyncio.run(main())
    assert "cognitiveservices.azure.com" in cloud.asked[0][0]


def test_amazons_library_signs(monkeypatch):
    async def main():
        permits = made(FakeClock(), RUNTIME, source="aws")
        target, body = b"/model/us.anthropic.claude-v1:0/invoke", b'{"a": 1}'
        assert permits.lines("POST", target, body) is None
        await permits.renew()
        return target, body, permits.lines("POST", target, body)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    target, body, lines = asyncio.run(main())
    headers = dict(one.split(": ", 1) for one in lines.decode().split("\r\n") if one)
    assert headers["X-Amz-Security-Token"] == "session"
    assert headers["Authorization"] == signature(target.decode(), body, headers)


def signature(path, body, headers):
    """Signature Version 4, written down from Amazon's description of it."""
    secret, region, service = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-west-2", "bedrock"
    date = headers["X-Amz-Date"]
    signed = {
        "host": "bedrock-runtime.us-west-2.amazonaws.com",
        "x-amz-date": date,
        "x-amz-security-token": headers["X-Amz-Security-Token"],
    }
    names = ";".join(signed)
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/-_.~"),
            "",
            *(f"{name}:{value}" for name, value in signed.items()),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (date[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    made = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={made}"


def test_without_keys_nothing_is_signed(monkeypatch, tmp_path, caplog):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))

    async def main():
        with pytest.raises(UpstreamFailed):
            await made(FakeClock(), RUNTIME, source="aws").renew()

    asyncio.run(main())
    assert "neither the environment" in caplog.text


def test_the_region_stands_in_the_address_or_in_the_configuration():
    with pytest.raises(ConfigError, match="region"):
        made(FakeClock(), "https://example.com", source="aws")
    assert "eu-west-1" in repr(made(FakeClock(), "https://example.com", source="aws", region="eu-west-1"))
    assert "us-west-2" in repr(made(FakeClock(), RUNTIME, source="aws"))


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [
        ("aws", "botocore.auth", "aws"),
        ("google", "google.auth", "google"),
        ("entra", "azure.identity", "entra"),
    ],
)
def test_an_extra_that_is_not_installed(monkeypatch, source, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"penstock\[{extra}\]"):
        made(FakeClock(), RUNTIME, source=source)
