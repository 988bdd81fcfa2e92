"""Coded bodies and answers through a whole gateway, with clients that decode by themselves."""

import asyncio
import base64
import gzip
import hashlib
import json
import struct

import brotli
import httpx2
import msgspec
import pytest
import zstandard
from gateway_doubles import FakeExchange
from in_pieces import CHAT, body_of, with_gateway
from serving import COMPLETION, DONE, STREAM_END, STREAM_HEAD, delta, plain

from penstock.config.model import CodingsConfig
from penstock.errors import ConfigError
from penstock.gateway import coded
from penstock.gateway.coded import Codings
from penstock.wire import codings

ALL = CodingsConfig(answers=["zstd", "br", "gzip"], least_bytes=1)
DECODE = {
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
}
JSON = "application/json"


def code_of(answer):
    return answer.status, answer.json()["error"]["code"]


def test_bodies_in_each_coding(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        for size in (10, 2_000_000):  # the large one is decoded in a thread
            body = body_of(size)
            for name, encoded in (
                ("gzip", gzip.compress(body)),
                ("br", brotli.compress(body, quality=1)),
                ("zstd", zstandard.compress(body)),
                ("identity", body),
            ):
                answer = await ask("POST", CHAT, encoded, content_encoding=name, content_type=JSON)
                assert (answer.status, answer.json()) == (200, COMPLETION), name
                assert json.loads(model.bodies[-1]) == json.loads(body)
                assert "content-encoding" not in model.heads[-1]


def test_what_cannot_be_decoded_is_refused(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        bomb = gzip.compress(bytes(40_000_000))
        assert code_of(await ask("POST", CHAT, b"x", content_encoding="lzma")) == (
            415,
            "unsupported_media_type",
        )
        assert code_of(await ask("POST", CHAT, b"x", content_encoding="gzip")) == (400, "undecodable")
        assert code_of(await ask("POST", CHAT, bomb, content_encoding="gzip")) == (413, "body_too_large")
        broken = await ask("POST", "/v1/messages", b"x", content_encoding="br")
        assert (broken.status, broken.json()["type"]) == (400, "error")  # in the path's own form
        assert model.bodies == []


def test_the_history_of_an_agent_is_sent_once(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        history = [{"role": "user", "content": "a long beginning " * 500}]
        keep = {"Penstock_Dictionary": "keep", "content_type": JSON}
        earlier, sent, plain = None, 0, 0
        for turn in range(5):
            history.append({"role": "user", "content": f"turn {turn}"})
            body = json.dumps({"model": "m", "messages": history}).encode()
            plain += len(body)
            if earlier is None:
                answer = await ask("POST", CHAT, body, **keep)
                sent += len(body)
            else:
                encoded = codings.with_dictionary(body, earlier)
                sent += len(encoded)
                answer = await ask("POST", CHAT, encoded, content_encoding="dcz", **keep)
            assert answer.status == 200
            assert answer.headers["penstock-dictionary"] == hashlib.sha256(body).hexdigest()
            assert answer.headers["accept-encoding"] == "zstd, br, gzip, dcz"
            assert json.loads(model.bodies[-1]) == json.loads(body)
            earlier = body
        assert sent < plain / 4
        unknown = codings.with_dictionary(b"{}", b"nobody has sent this")
        assert code_of(await ask("POST", CHAT, unknown, content_encoding="dcz")) == (
            409,
            "dictionary_lacking",
        )
        theirs = await ask(
            "POST", CHAT, codings.with_dictionary(b"{}", earlier), content_encoding="dcz", key="sk-x"
        )
        assert code_of(theirs) == (409, "dictionary_lacking")


def test_a_large_body_is_remembered_too(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(1_000_000)
        answer = await ask("POST", CHAT, body, penstock_dictionary="keep", content_type=JSON)
        assert answer.headers["penstock-dictionary"] == hashlib.sha256(body).hexdigest()
        encoded = codings.with_dictionary(body, body)
        again = await ask("POST", CHAT, encoded, content_encoding="dcz", content_type=JSON)
        assert again.status == 200
        assert json.loads(model.bodies[-1]) == json.loads(body)


def test_a_gateway_without_dictionaries_says_which_codings_there_are(tmp_path):
    @with_gateway(tmp_path, codings=CodingsConfig(dictionary_bytes=0))
    async def test(ask, model, gateway):
        answer = await ask("POST", CHAT, body_of(1), penstock_dictionary="keep", content_type=JSON)
        assert answer.headers["accept-encoding"] == "zstd, br, gzip"
        assert "penstock-dictionary" not in answer.headers


@pytest.mark.parametrize("name", ["gzip", "br", "zstd"])
def test_answers_in_each_coding(tmp_path, name):
    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        answer = await ask("POST", CHAT, body_of(1), accept_encoding=name, content_type=JSON)
        assert answer.headers["content-encoding"] == name
        assert answer.headers["vary"] == "accept-encoding"
        assert json.loads(DECODE[name](answer.body)) == COMPLETION
        plain = await ask("POST", CHAT, body_of(1), content_type=JSON)
        assert "content-encoding" not in plain.headers
        model.answer = STREAM_HEAD + delta("a") + delta("b", "stop") + DONE + STREAM_END
        asked = json.dumps({**json.loads(body_of(1)), "stream": True}).encode()
        answer = await ask("POST", CHAT, asked, accept_encoding=name, content_type=JSON)
        assert answer.headers["content-encoding"] == name
        whole = await ask("POST", CHAT, asked, content_type=JSON)
        assert DECODE[name](answer.body) == whole.body
        refused = await ask("POST", CHAT, b"{}", accept_encoding=name, content_type=JSON)
        assert json.loads(DECODE[name](refused.body))["error"]["code"] == "missing_parameter"


def test_each_event_of_a_coded_stream_comes_at_once(tmp_path):
    """The model waits with its second event until the client has seen the first."""

    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        seen = asyncio.Event()

        async def paced(reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(STREAM_HEAD + delta("first"))
            await seen.wait()
            writer.write(delta("second", "stop") + DONE + STREAM_END)
            writer.close()

        model.serve = paced
        asked = json.dumps({**json.loads(body_of(1)), "stream": True}).encode()
        async with httpx2.AsyncClient() as client:
            for name in ("gzip", "br", "zstd"):
                seen.clear()
                url = f"http://127.0.0.1:{ask.port}{CHAT}"
                async with client.stream(
                    "POST", url, content=asked, headers={"accept-encoding": name, "content-type": JSON}
                ) as answer:
                    assert answer.headers["content-encoding"] == name
                    text = ""
                    if name == "zstd":  # which this client decodes only with another package
                        decode = zstandard.ZstdDecompressor().decompressobj().decompress
                        pieces = answer.aiter_raw()
                    else:
                        decode = bytes
                        pieces = answer.aiter_bytes()
                    async for piece in pieces:
                        text += decode(piece).decode()
                        if "first" in text:
                            seen.set()
                assert "second" in text
                assert text.endswith("data: [DONE]\n\n")


def test_short_answers_are_not_worth_it(tmp_path):
    @with_gateway(tmp_path, codings=CodingsConfig(answers=["gzip"], flush_after=0.01))
    async def test(ask, model, gateway):
        answer = await ask("POST", CHAT, body_of(1), accept_encoding="gzip", content_type=JSON)
        assert "content-encoding" not in answer.headers
        assert answer.json() == COMPLETION
        model.answer = STREAM_HEAD + delta("a" * 300) + delta("b", "stop") + DONE + STREAM_END
        asked = json.dumps({**json.loads(body_of(1)), "stream": True}).encode()
        answer = await ask("POST", CHAT, asked, accept_encoding="gzip", content_type=JSON)
        assert gzip.decompress(answer.body).endswith(b"[DONE]\n\n")


class Timers:
    """A loop that calls nothing until it is told that the time has come."""

    def __init__(self):
        self.waiting = []

    def create_future(self):
        return asyncio.Future(loop=self)

    def call_later(self, seconds, call):
        self.waiting.append((seconds, call))
        return self

    def call_soon(self, call):
        return self.call_later(0.0, call)

    def get_debug(self):
        return False

    def cancel(self):
        self.waiting.clear()

    def pass_time(self):
        """Until each has been called."""
        for _, call in list(self.waiting):
            call()


EVENTS = [b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % number for number in range(60)]


def coded_stream(monkeypatch, flush_after, name="zstd"):
    timers, beneath = Timers(), FakeExchange()
    beneath.scheme, beneath.root = "http", ""
    monkeypatch.setattr(coded.asyncio, "get_running_loop", lambda: timers)
    coding = coded.Coding([], None, name, None, keep=False, ask=False)
    stream = coded.CodedExchange(beneath, coding, b"", [], 1, flush_after)
    stream.start(200, [])
    return stream, beneath, timers


def test_events_wait_for_each_other_as_long_as_they_are_told_to(monkeypatch):
    stream, beneath, timers = coded_stream(monkeypatch, 0.02)
    for event in EVENTS[:5]:
        assert stream.write(event)
    assert beneath.writes == []
    assert stream.unsent
    assert [seconds for seconds, _ in timers.waiting] == [0.02]  # since the first of them
    timers.pass_time()
    assert len(beneath.writes) == 1
    assert not stream.unsent
    decode = zstandard.ZstdDecompressor().decompressobj().decompress
    assert decode(beneath.writes[0]) == b"".join(EVENTS[:5])  # all of it can be decoded
    stream.write(EVENTS[5])
    assert [seconds for seconds, _ in timers.waiting] == [0.02]
    stream.end()
    assert timers.waiting == []  # the end waits for nobody
    assert beneath.ended
    assert b"".join(map(decode, beneath.writes[1:])) == EVENTS[5]


def test_a_client_that_leaves_takes_the_clock_along(monkeypatch):
    stream, beneath, timers = coded_stream(monkeypatch, 0.02)
    stream.write(EVENTS[0])
    beneath.gone = True
    stream.on_gone()
    assert timers.waiting == []
    stream.end()
    assert beneath.writes == []


@pytest.mark.parametrize("name", ["zstd", "br", "gzip"])
def test_a_stream_of_short_events_is_shorter_where_they_wait(monkeypatch, name):
    sizes = []
    for together in (1, 6):
        stream, beneath, timers = coded_stream(monkeypatch, 0.02, name)
        for number, event in enumerate(EVENTS, 1):
            stream.write(event)
            if number % together == 0:
                timers.pass_time()
        stream.end()
        sizes.append(len(beneath.body))
    assert sizes[1] < 0.75 * sizes[0]


def test_messagepack_in_and_out(tmp_path):
    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        body = json.loads(body_of(5))
        packed = msgspec.msgpack.encode(body)
        kind = {"content_type": "application/msgpack", "accept": "application/msgpack"}
        answer = await ask("POST", CHAT, packed, **kind)
        assert answer.headers["content-type"] == "application/msgpack"
        assert msgspec.msgpack.decode(answer.body) == COMPLETION
        assert json.loads(model.bodies[-1]) == body
        both = await ask(
            "POST", CHAT, zstandard.compress(packed), content_encoding="zstd", accept_encoding="zstd", **kind
        )
        assert msgspec.msgpack.decode(DECODE["zstd"](both.body)) == COMPLETION
        assert both.headers["vary"] == "accept, accept-encoding"
        mixed = await ask("POST", CHAT, packed, content_type="application/msgpack", accept=JSON)
        assert mixed.json() == COMPLETION
        wrong = await ask("POST", CHAT, b"\xc1", **kind)
        assert (wrong.status, wrong.json()["error"]["code"]) == (400, "undecodable")
        grows = msgspec.msgpack.encode({**body, "stop": "\0" * 7_000_000})  # seven megabytes here, 42 in JSON
        answer = await ask("POST", CHAT, zstandard.compress(grows), content_encoding="zstd", **kind)
        assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")
        assert "in JSON" in answer.json()["error"]["message"]


def test_a_coded_request_in_pieces(tmp_path):
    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        body = body_of(1_000)
        encoded = zstandard.compress(body)
        made = await ask.create(content_encoding="zstd", accept_encoding="br")
        where = made.headers["location"]
        await ask.append(where, 0, encoded[:20])
        answer = await ask.append(where, 20, encoded[20:], complete=True)
        assert answer.headers["upload-complete"] == "?1"
        assert json.loads(DECODE["br"](answer.body)) == COMPLETION
        assert json.loads(model.bodies[-1]) == json.loads(body)
        made = await ask.create(content_encoding="lzma")
        refused = await ask.append(made.headers["location"], 0, b"x", complete=True)
        assert refused.status == 415
        block = hashlib.sha256(body).hexdigest()
        assert (await ask("PUT", f"/v1/blocks/{block}", encoded, content_encoding="zstd")).status == 201
        assert (await ask("PUT", f"/v1/blocks/{block}", body)).status == 204


PROTOBUF = "application/x-protobuf"
EMBEDDINGS = "/v1/embeddings"


@pytest.mark.parametrize("coded", ["", "zstd"])
def test_embeddings_in_protocol_buffers(tmp_path, coded):
    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        vector = [0.5, -0.25]
        packed = struct.pack("<2f", *vector)
        asked = b"\x0a\x01m\x12\x05Hello\x12\x05world"  # model, input, input
        more = {"content_encoding": coded, "accept_encoding": coded} if coded else {}
        body = zstandard.compress(asked) if coded else asked
        for told in (vector, base64.b64encode(packed).decode()):
            data = [{"object": "embedding", "index": 1, "embedding": told}]
            model.answer = plain(
                {"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 2}}
            )
            answer = await ask("POST", EMBEDDINGS, body, content_type=PROTOBUF, accept=PROTOBUF, **more)
            assert (answer.status, answer.headers["content-type"]) == (200, PROTOBUF)
            read = DECODE[coded](answer.body) if coded else answer.body
            assert read == b"\x0a\x0c\x08\x01\x12\x08" + packed + b"\x12\x01m" + b"\x1a\x04\x08\x02\x10\x00"
            assert json.loads(model.bodies[-1]) == {"model": "m", "input": ["Hello", "world"]}


def test_what_is_not_said_in_protocol_buffers_is_json(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        refused = await ask("POST", EMBEDDINGS, b"\x32\x00", content_type=PROTOBUF, accept=PROTOBUF)
        assert code_of(refused) == (400, "undecodable")
        chat = await ask("POST", CHAT, b"\x0a\x01m", content_type=PROTOBUF)
        assert code_of(chat) == (415, "unsupported_media_type")
        assert model.bodies == []
        plainly = await ask("POST", CHAT, body_of(1), content_type=JSON, accept=PROTOBUF)
        assert plainly.json() == COMPLETION


def test_a_client_that_leaves_a_coded_stream_is_let_go(tmp_path):
    @with_gateway(tmp_path, codings=ALL)
    async def test(ask, model, gateway):
        async def hanging(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(STREAM_HEAD + delta("first"))
            await reader.read()
            writer.close()

        model.serve = hanging
        asked = json.dumps({**json.loads(body_of(1)), "stream": True}).encode()
        reader, writer = await ask.begin("POST", CHAT, len(asked), accept_encoding="zstd", content_type=JSON)
        writer.write(asked)
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await gateway.pipeline.wait_idle()


def test_a_coding_whose_package_is_missing_is_a_mistake_of_the_configuration(monkeypatch):
    monkeypatch.setattr(coded.codings, "CODINGS", ("zstd", "gzip"))
    with pytest.raises(ConfigError, match="brotli"):
        Codings(ALL, 1)
