"""What callers get who send what nobody should: a clear error in their own dialect, or a closed connection.

The rules of HTTP/1.1 stand as tables beside the listener; here the whole gateway is asked, and the upstream
looks on: nothing that was refused ever reaches it.
"""

import asyncio
import hashlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import (
    COMPLETION,
    PROMPT,
    call,
    config,
    held,
    on_uvloop,
    plain,
    read_answer,
    serving,
    until,
)

from penstock.config.model import KeyConfig, ListenerConfig, RetryConfig
from penstock.messages import Dialect
from penstock.testing import FakeClock, ScriptedUpstream, Step

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
PATHS = [CHAT, MESSAGES]
MESSAGE = {**PROMPT, "max_tokens": 9}
ANSWERS = [[Step.REQUEST, plain(COMPLETION), Step.REQUEST, plain(COMPLETION)]]
AT_ONCE = RetryConfig(first_delay=0.0)
SECRET = "sk-penstock-test"
KEY = KeyConfig(name="k", hash="sha256:" + hashlib.sha256(SECRET.encode()).hexdigest(), models=["m", "n*"])


def valid(path):
    return MESSAGE if path == MESSAGES else PROMPT


def ask(talk, *, clock=None, kind="openai", **more):
    """Let ``talk(port, gateway)`` speak to a gateway whose upstream would answer; nothing may reach that."""

    async def main():
        async with ScriptedUpstream(ANSWERS) as upstream:
            async with serving(config(upstream.url, kind=kind, retry=AT_ONCE, **more), clock) as (
                gateway,
                port,
            ):
                result = await talk(port, gateway)
                await until(lambda: not any(held(gateway).values()))
                assert not any(upstream.received), "it reached the upstream"
                return result

    return on_uvloop(main)


def told(answer, path):
    """The error of an answer, its form checked: ``(status, code, param)``."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    if path.startswith(MESSAGES):
        assert set(body) == {"type", "error", "request_id"}
        assert body["type"] == "error"
        error = body["error"]
        assert set(error) == {"type", "message", "details"}
        return answer.status, error["details"]["error_code"], error["message"].partition(": ")[0]
    assert set(body) == {"error"}
    error = body["error"]
    assert {"message", "type", "code"} <= set(error)  # the listener, which knows no fields, names none
    return answer.status, error["code"], error.get("param")


async def exchange(port, data, *more):
    """Send bytes as they are; the answers until the gateway closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        for piece in more:
            await asyncio.sleep(0)
            writer.write(piece)
        return await reader.read()
    finally:
        writer.close()


# ---- bodies ---------------------------------------------------------------------------------------

DEEP = 100_000
BODIES = {
    "empty": (b"", "invalid_json", None),
    "no JSON": (b"model=m", "invalid_json", None),
    "cut off": (b'{"model":"m","messages":[', "invalid_json", None),
    "trailing": (b'{"model":"m","messages":[]}{}', "invalid_json", None),
    "an array": (b"[]", "invalid_json", None),
    "a string": (b'"m"', "invalid_json", None),
    "NaN": (b'{"model":"m","messages":[],"temperature":NaN}', "invalid_json", None),
    "a raw NUL": (b'{"model":"m\x00","messages":[]}', "invalid_json", None),
    "UTF-16": ('{"model":"m"}'.encode("utf-16"), "invalid_json", None),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"m"}', "invalid_json", None),
    "a name that is not UTF-8": (b'{"\xff":1,"model":"m","messages":[]}', "invalid_json", None),
    "a surrogate alone": (b'{"model":"\\ud800","messages":[]}', "invalid_json", None),
    "deep nesting": (
        b'{"model":"m","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
        "invalid_json",
        None,
    ),
    "a model that is not UTF-8": (b'{"model":"\xff","messages":[]}', "invalid_type", "model"),
    "a surrogate as bytes": (b'{"model":"\xed\xa0\x80","messages":[]}', "invalid_type", "model"),
    "no model": ({"messages": []}, "missing_parameter", "model"),
    "a null model": ({"model": None, "messages": []}, "invalid_type", "model"),
    "a number for a model": ({"model": 4, "messages": []}, "invalid_type", "model"),
    "an empty model": ({"model": "", "messages": []}, "invalid_request", "model"),
    "a long model": ({"model": "m" * 257, "messages": []}, "invalid_request", "model"),
    "no messages": ({"model": "m"}, "missing_parameter", "messages"),
    "text for messages": ({"model": "m", "messages": "hello"}, "invalid_type", "messages"),
    "an object for messages": ({"model": "m", "messages": {}}, "invalid_type", "messages"),
    "null for messages": ({"model": "m", "messages": None}, "invalid_type", "messages"),
    "text for stream": ({**MESSAGE, "stream": "true"}, "invalid_type", "stream"),
    "a number for stream": ({**MESSAGE, "stream": 1}, "invalid_type", "stream"),
    "text for max_tokens": ({**PROMPT, "max_tokens": "7"}, "invalid_type", "max_tokens"),
    "a fraction for max_tokens": ({**PROMPT, "max_tokens": 7.5}, "invalid_type", "max_tokens"),
    "negative max_tokens": ({**PROMPT, "max_tokens": -1}, "invalid_request", "max_tokens"),
    "max_tokens beyond 64 bits": (
        b'{"model":"m","messages":[],"max_tokens":' + b"9" * 30 + b"}",
        "invalid_request",
        "max_tokens",
    ),
    "max_tokens of 100,000 digits": (
        b'{"model":"m","messages":[],"max_tokens":' + b"9" * 100_000 + b"}",
        "invalid_type",
        "max_tokens",
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_read_is_a_bad_request(name, path):
    body, code, param = BODIES[name]

    async def talk(port, gateway):
        return await call(port, body, path), await call(port, {}, "/v1/models/m", "GET")

    answer, after = ask(talk)
    assert told(answer, path)[:2] == (400, code)
    assert param is None or told(answer, path)[2] == param
    assert after.status == 200


def test_a_message_without_a_bound_is_a_bad_request():
    answer = ask(lambda port, _: call(port, PROMPT, MESSAGES))
    assert told(answer, MESSAGES) == (400, "missing_parameter", "max_tokens")


WRONG_TYPES = [
    (CHAT, "messages", ["hello"]),
    (CHAT, "messages", [{"content": "hello"}]),
    (CHAT, "messages", [{"role": 7, "content": "hello"}]),
    (CHAT, "messages", [{"role": "user", "content": 7}]),
    (CHAT, "messages", [{"role": "user", "content": [7]}]),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "text", "text": 7}]}]),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "image_url", "image_url": 7}]}]),
    (CHAT, "temperature", "hot"),
    (CHAT, "top_p", []),
    (CHAT, "stop", 7),
    (CHAT, "tools", {}),
    (CHAT, "tools", [7]),
    (CHAT, "tools", [{"type": "function", "function": {"name": 7}}]),
    (CHAT, "tool_choice", 7),
    (CHAT, "response_format", "json"),
    (CHAT, "n", "two"),
    (CHAT, "seed", "x"),
    (CHAT, "user", 7),
    (MESSAGES, "messages", ["hello"]),
    (MESSAGES, "messages", [{"content": "hello"}]),
    (MESSAGES, "messages", [{"role": "user", "content": 7}]),
    (MESSAGES, "messages", [{"role": "user", "content": [7]}]),
    (MESSAGES, "messages", [{"role": "user", "content": [{"type": "text", "text": 7}]}]),
    (MESSAGES, "messages", [{"role": "user", "content": [{"type": "image", "source": 7}]}]),
    (MESSAGES, "system", 7),
    (MESSAGES, "temperature", "hot"),
    (MESSAGES, "top_k", "x"),
    (MESSAGES, "stop_sequences", 7),
    (MESSAGES, "tools", {}),
    (MESSAGES, "tools", [7]),
    (MESSAGES, "tool_choice", 7),
    (MESSAGES, "thinking", 7),
    (MESSAGES, "metadata", 7),
]


@pytest.mark.parametrize(("path", "member", "value"), WRONG_TYPES)
def test_where_a_call_is_translated_every_member_of_the_wrong_type_is_named(path, member, value):
    other = "openai" if path == MESSAGES else "anthropic"
    answer = ask(lambda port, _: call(port, {**valid(path), member: value}, path), kind=other)
    status, _, param = told(answer, path)
    assert status == 400
    assert param.startswith(member)


def test_a_member_given_twice_has_one_meaning_on_both_sides():
    async def main():
        async with ScriptedUpstream(ANSWERS) as upstream:
            settings = config(upstream.url, keys=[KEY])
            async with serving(settings) as (_, port):
                key = [f"authorization: Bearer {SECRET}"]
                forbidden = await call(port, b'{"model":"m","messages":[],"model":"x"}', headers=key)
                allowed = await call(port, b'{"model":"x","messages":[],"model":"m"}', headers=key)
            return forbidden, allowed, upstream.received

    forbidden, allowed, received = on_uvloop(main)
    assert (forbidden.status, allowed.status) == (403, 200)
    assert b'"x"' not in received[0]
    assert received[0].count(b'"model"') == 1


# ---- who may ask, and what for --------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("header", "code"),
    [
        ([], "missing_api_key"),
        (["authorization: Bearer "], "missing_api_key"),
        (["authorization: Basic dXNlcjpwYXNz"], "missing_api_key"),
        (["x-api-key: "], "missing_api_key"),
        (["authorization: Bearer wrong"], "invalid_api_key"),
        (["x-api-key: wrong"], "invalid_api_key"),
        (["x-api-key: \xff\xfe"], "invalid_api_key"),
        ([f"authorization: Bearer {SECRET}", f"authorization: Bearer {SECRET}"], "invalid_api_key"),
        ([f"authorization: Bearer {SECRET}, x"], "invalid_api_key"),
        (["authorization: Bearer " + "x" * 60_000], "invalid_api_key"),
    ],
)
def test_a_key_that_is_missing_or_unknown_is_refused_before_the_body_is_read(header, code, path):
    async def talk(port, gateway):
        lines = [f"POST {path} HTTP/1.1", "host: test", "content-length: 1000000", *header, "", ""]
        return await exchange(port, "\r\n".join(lines).encode("latin-1"))

    head, _, body = ask(talk, keys=[KEY]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in head
    error = json.loads(body)["error"]
    assert error["type"] == "authentication_error"
    assert code in (error.get("code"), error.get("details", {}).get("error_code"))


@pytest.mark.parametrize("path", PATHS)
def test_a_key_without_the_right_for_a_model_is_forbidden_to_use_it(path):
    body = {**valid(path), "model": "other"}
    answer = ask(lambda port, _: call(port, body, path, headers=[f"x-api-key: {SECRET}"]), keys=[KEY])
    assert told(answer, path) == (403, "model_not_permitted", "model")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["other", "m ", "M", "m\x00", "*", "../m", "m" * 256, "\U0001f600"])
def test_a_model_that_nobody_answers_is_not_found(model, path):
    answer = ask(lambda port, _: call(port, {**valid(path), "model": model}, path))
    assert told(answer, path) == (404, "model_not_found", "model")


# ---- paths, methods, media ------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "X" * 50])
def test_another_method_is_not_allowed_and_the_right_one_is_told(method, path):
    answer = ask(lambda port, _: call(port, b"", path, method))
    assert told(answer, path)[:2] == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/v1/models/none"])
def test_an_answer_to_head_has_no_body(path):
    raw = ask(
        lambda port, _: exchange(
            port, f"HEAD {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".encode()
        )
    )
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 404 "))
    assert body == b""


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1/chat/completions%00",
        "/v1/" + "x" * 4000,
    ],
)
def test_another_path_is_not_found(path):
    answer = ask(lambda port, _: call(port, PROMPT, path))
    assert answer.status in {404, 405}
    assert len(answer.body) < 500


def test_anthropics_sdk_is_told_in_its_own_form_whatever_the_path():
    answer = ask(
        lambda port, _: call(port, b"", "/nowhere", "GET", headers=["anthropic-version: 2023-06-01"])
    )
    assert (answer.status, answer.json()["type"]) == (404, "error")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate, gzip", "dcz"])
def test_a_body_that_is_not_in_its_coding_cannot_be_decoded(coding, path):
    answer = ask(lambda port, _: call(port, b"\x1f\x8b\x08", path, headers=[f"content-encoding: {coding}"]))
    assert told(answer, path)[:2] == (400, "undecodable")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("coding", ["nonsense", "gzip, gzip, gzip", "gzip; q=1"])
def test_an_unknown_coding_is_an_unsupported_medium(coding, path):
    answer = ask(lambda port, _: call(port, b"\x1f\x8b\x08", path, headers=[f"content-encoding: {coding}"]))
    assert told(answer, path)[:2] == (415, "unsupported_media_type")


# ---- bodies by their size and speed ---------------------------------------------------------------

SMALL = ListenerConfig(max_body_bytes=10_000)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(path):
    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: 50000000\r\n\r\n".encode())
        answer = await read_answer(reader)
        writer.close()
        return answer

    answer = ask(talk)
    assert told(answer, path)[:2] == (413, "body_too_large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", PATHS)
def test_a_chunked_body_without_end_is_refused_as_soon_as_it_is_too_large(path):
    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        answered = asyncio.ensure_future(read_answer(reader))
        sent = 0
        while not answered.done():
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024
            await asyncio.sleep(0)
        writer.close()
        return await answered, sent

    answer, sent = ask(talk, listener=SMALL)
    assert told(answer, path)[:2] == (413, "body_too_large")
    assert sent > 10_000


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("beginning", [b"", b"{"])
def test_a_body_that_stops_coming_times_out(beginning, path):
    clock = FakeClock()

    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n".encode() + beginning)
        answered = asyncio.ensure_future(read_answer(reader))
        while not answered.done():
            await asyncio.sleep(0.001)
            clock.advance(7)
        writer.close()
        return answered.result(), clock.now()

    (answer, ended) = ask(talk, clock=clock)
    assert told(answer, path)[:2] == (408, "request_timeout")
    assert ended >= 1_060


@pytest.mark.parametrize("path", PATHS)
def test_a_client_that_sends_a_byte_a_second_is_not_waited_for_for_ever(path):
    clock = FakeClock()

    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n".encode())
        answered = asyncio.ensure_future(read_answer(reader))
        seconds = 0
        while not answered.done():
            writer.write(b" ")
            await asyncio.sleep(0.001)
            clock.advance(1)
            seconds += 1
        writer.close()
        return answered.result(), seconds

    answer, seconds = ask(talk, clock=clock)
    assert told(answer, path)[:2] == (408, "request_timeout")
    assert seconds < 100


def test_a_head_of_a_byte_a_second_times_out():
    clock = FakeClock()

    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answered = asyncio.ensure_future(read_answer(reader))
        for byte in b"POST /v1/chat/completions HTTP/1.1\r\n":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
            clock.advance(1)
            if answered.done():
                break
        writer.close()
        return await answered

    answer = ask(talk, clock=clock)
    assert told(answer, CHAT)[:2] == (408, "header_timeout")


# ---- what is no HTTP ------------------------------------------------------------------------------

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\n"
BODY = json.dumps(PROMPT).encode()
PROTOCOL = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a long target": (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: t\r\n\r\n", 414),
    "a large header": (HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n", 431),
    "many headers": (HEAD + b"".join(b"x%d: y\r\n" % n for n in range(5_000)) + b"\r\n", 431),
    "a head without end": (HEAD + b"x: y\r\n" * 50_000, 431),
    "no host": (b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", 400),
    "both lengths": (
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        400,
    ),
    "two lengths": (HEAD + b"content-length: 0\r\ncontent-length: 60\r\n\r\n" + BODY, 400),
    "a list of lengths": (HEAD + b"content-length: 2, 2\r\n\r\n{}", 400),
    "a signed length": (HEAD + b"content-length: +2\r\n\r\n{}", 400),
    "a length of no digits": (HEAD + b"content-length: 0x10\r\n\r\n", 400),
    "another transfer coding": (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n", 501),
    "a hidden transfer coding": (HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the colon": (HEAD + b"content-length : 2\r\n\r\n{}", 400),
    "a folded header": (HEAD + b"x: y\r\n z\r\ncontent-length: 2\r\n\r\n{}", 400),
    "a bare line feed": (b"POST /v1/chat/completions HTTP/1.1\nhost: t\n\n", 400),
    "a bare carriage return": (HEAD + b"x: a\rb\r\n\r\n", 400),
    "a NUL in a header": (HEAD + b"x: a\x00b\r\n\r\n", 400),
    "a chunk size of no digits": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "a negative chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk that is too short": (HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk that is too long": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk size without end": (HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1" * 100_000, 400),
}


@pytest.mark.parametrize("name", PROTOCOL)
def test_what_breaks_the_protocol_is_answered_once_and_the_connection_closed(name):
    data, status = PROTOCOL[name]
    raw = ask(lambda port, _: exchange(port, data, b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"))
    assert len(re.findall(rb"HTTP/1\.1 \d", raw)) == 1, raw
    head, _, body = raw.partition(b"\r\n\r\n")
    assert int(head[9:12]) in {status, 400}
    assert b"connection: close" in head
    assert json.loads(body)["error"]["code"]


@pytest.mark.parametrize("path", PATHS)
def test_bad_chunking_is_told_in_the_callers_dialect(path):
    async def talk(port, gateway):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {path} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n".encode())
        answer = await read_answer(reader)
        writer.close()
        return answer

    assert told(ask(talk), path)[0] == 400


def test_nobody_is_disturbed_by_a_crowd_of_bad_clients():
    async def main():
        good = [step for _ in range(40) for step in (Step.REQUEST, plain(COMPLETION))]
        async with ScriptedUpstream([good]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                bad = [asyncio.ensure_future(exchange(port, data)) for data, _ in PROTOCOL.values()]
                bad += [
                    asyncio.ensure_future(call(port, body, path))
                    for body, *_ in BODIES.values()
                    for path in PATHS
                ]
                answers = [await call(port, PROMPT) for _ in range(40)]
                await asyncio.gather(*bad)
            return answers

    assert [answer.status for answer in on_uvloop(main)] == [200] * 40


# ---- whatever comes -------------------------------------------------------------------------------

_leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
_value = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_part = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            ["text", "image", "image_url", "tool_use", "tool_result", "document", "thinking"]
        ),
        "text": _value,
        "source": _value,
        "image_url": _value,
        "content": _value,
        "input": _value,
        "id": _value,
        "name": _value,
    },
)
_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]) | _leaf},
    optional={
        "content": st.text(max_size=10) | st.lists(_part | _value, max_size=3) | _value,
        "tool_calls": st.lists(_part | _value, max_size=2) | _value,
        "tool_call_id": _leaf,
        "name": _leaf,
    },
)
_names = [
    "max_tokens", "max_completion_tokens", "stream", "stream_options", "temperature", "top_p", "top_k", "stop",
    "stop_sequences", "tools", "tool_choice", "response_format", "system", "thinking", "metadata", "n", "seed",
    "logit_bias", "logprobs", "user", "service_tier", "reasoning_effort", "output_config", "input", "prompt",
    "instructions", "text", "reasoning", "previous_response_id", "store", "include", "truncation",
]  # fmt: skip
_body = st.builds(
    lambda messages, members: {"model": "m", "messages": messages, "max_tokens": 5, **members},
    st.lists(_message | _value, max_size=3),
    st.dictionaries(st.sampled_from(_names), _value, max_size=4),
)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "path", [CHAT, MESSAGES, "/v1/responses", "/v1/messages/count_tokens", "/v1/embeddings"]
)
@settings(max_examples=40, deadline=None)
@given(body=_body | st.binary(max_size=60))
def test_whatever_a_body_says_it_is_answered_and_nothing_is_left_behind(kind, path, body):
    if isinstance(body, dict) and path == "/v1/responses":
        body["input"] = body.pop("messages")

    async def main():
        refusing = [Step.REQUEST, plain({"error": {"message": "seen"}}, "418 I'm a teapot")]
        async with ScriptedUpstream([refusing]) as upstream:
            async with serving(config(upstream.url, kind=kind)) as (_, port):
                return await asyncio.wait_for(call(port, body, path), 60)

    answer = on_uvloop(main)
    dialect = Dialect.ANTHROPIC if path.startswith(MESSAGES) else Dialect.OPENAI
    assert answer.status in {400, 404, 418} or (answer.status == 200 and "count_tokens" in path)
    if answer.status != 200:
        assert answer.json()["error"]["message"]
        assert ("type" in answer.json()) == (dialect is Dialect.ANTHROPIC)
