"""Where nothing breaks, and where nothing can be mended, the client is what the library's own client is."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import re
import zlib

import pytest
import zstandard

import penstock
from penstock.testing import ScriptedUpstream, Step

REQUEST, CLOSE = Step.REQUEST, Step.CLOSE
CALL, MODELS, FILES = "/v1/chat/completions", "/v1/models", "/v1/files"
BODY = b'{"model":"m","messages":[{"role":"user","content":"?"}]}'
JSON = {"content-type": "application/json"}
OURS = re.compile(rb"(?i)(idempotency-key|user-agent): [^\r]*\r\n")  # what may differ
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}'


def told(body=b'{"a":1}', *fields, status=b"200 OK", kind=b"application/json"):
    head = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        kind,
        len(body),
        head,
        body,
    )


def coded(name, body):
    return told(body, b"content-encoding: " + name)


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"
ANSWERS = {
    "plain": [told()],
    "gzip": [coded(b"gzip", gzip.compress(b'{"a":1}'))],
    "deflate": [coded(b"deflate", zlib.compress(b'{"a":1}'))],
    "zstd": [coded(b"zstd", zstandard.compress(b'{"a":1}'))],
    "unknown coding": [coded(b"foo", b"xx")],
    "no gzip": [coded(b"gzip", b"{}")],
    "half of gzip": [coded(b"gzip", gzip.compress(b'{"a":1}')[:-6])],
    "empty": [told(b"")],
    "no content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}", CLOSE],
    "odd status": [told(status=b"299 Odd Thing")],
    "no reason": [told(status=b"200 ")],
    "fields twice": [told(b"{}", b"x-a: 1", b"x-a: \xe9", b"set-cookie: a=1", b"set-cookie: b=2")],
    "chunked": [CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\nx-trailer: 1\r\n\r\n"],
    "interim": [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + told()],
    "400": [told(status=b"400 Bad")],
    "401": [told(b"{}", b'www-authenticate: Basic realm="x"', status=b"401 No")],
    "429": [told(b"{}", b"retry-after: 1", status=b"429 Slow")],
    "500": [told(status=b"500 Oops")],
    "redirected": [told(b"", b"location: /v1/other", status=b"307 There"), REQUEST, told()],
    "redirected to GET": [told(b"", b"location: /v1/other", status=b"303 There"), REQUEST, told()],
    "redirected nowhere": [told(b"", b"location: foo://x", status=b"307 There")],
    "no HTTP": [b"garbage\r\n\r\n", CLOSE],
    "closed": [CLOSE],
    "half a head": [b"HTTP/1.1 200 OK\r\n", CLOSE],
    "cut": [CUT, CLOSE],
    "a chunk cut": [CHUNKED + b"5\r\n{", CLOSE],
    "a head beyond measure": [told(b"{}", b"x-a: " + b"a" * 200_000)],
}
# Of a stream the coding and the length do not come through: it may come in parts.
EVENTS = {
    "events": EVENT + b"\n\ndata: [DONE]\n\n",
    "other ends of lines": EVENT + b"\r\n\r\ndata: [DONE]\r\n\r\n",
    "comments and fields": b": hi\n\nretry: 5\n\nevent: x\ndata: y\n\n" + EVENT + b"\n\ndata: [DONE]\n\n",
    "long characters": 'data: {"x":"é😀"}\n\n'.encode() + EVENT + b"\n\ndata: [DONE]\n\n",
}
STREAMS = {
    name: [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + events, CLOSE]
    for name, events in EVENTS.items()
}
REQUESTS = {
    "a call": {"method": "POST", "url": CALL, "content": BODY, "headers": JSON},
    "a form": {"method": "POST", "url": FILES, "data": {"a": "b"}},
    "a file": {
        "method": "POST",
        "url": FILES,
        "files": {"file": ("a", b"hello")},
        "headers": {"content-type": "multipart/form-data; boundary=zz"},
    },
    "odd characters": {"method": "POST", "url": f"/v1/a%2Fb/ü{CALL}?a=b%20c&é=1#f", "content": BODY},
    "no JSON": {"method": "POST", "url": CALL, "content": b"\0\xff"},
    "no body": {"method": "POST", "url": CALL},
    "another host's name": {"method": "POST", "url": CALL, "content": BODY, "headers": {"host": "x.example"}},
    **{
        method: {"method": method, "url": MODELS}
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
    },
}
CASES = {
    **{f"answered: {name}": (REQUESTS["a call"], script) for name, script in {**ANSWERS, **STREAMS}.items()},
    **{
        f"asked: {name}": (asked, [told(b"" if name == "HEAD" else b"{}")])
        for name, asked in REQUESTS.items()
    },
}


async def outcome(http, asked, script, *, is_async):
    """What the application has of one request, what its hooks hear, and what the server gets."""
    heard = http.event_hooks["response"][0].heard
    async with ScriptedUpstream([[REQUEST, *script]]) as server:

        def plain(text):
            return text.replace(str(server.port), "PORT")

        def ask():
            return http.request(**{**asked, "url": server.url + asked["url"]})

        try:
            answer = await ask() if is_async else await asyncio.to_thread(ask)
        except Exception as error:
            kind = type(error)
            found = f"{kind.__module__}.{kind.__name__}", plain(str(error)), error.request.method
        else:
            found = (
                (answer.status_code, answer.reason_phrase, answer.http_version, answer.content),
                sorted(
                    (name, text) for name, text in answer.headers.multi_items() if name != "x-should-retry"
                ),
                (plain(str(answer.url)), len(answer.history), answer.encoding, sorted(answer.extensions)),
            )
        got = [OURS.sub(b"", each).replace(b"%d" % server.port, b"PORT") for each in server.received]
    return found, list(heard), got


def client(make, *, is_async):
    heard = []

    def hear(response):
        heard.append(response.status_code)

    async def hear_async(response):
        hear(response)

    hook = hear_async if is_async else hear
    hook.heard = heard
    return make(trust_env=False, follow_redirects=True, timeout=30.0, event_hooks={"response": [hook]})


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("case", CASES)
def test_what_comes_of_a_request_is_what_comes_without_us(case, library, is_async):
    theirs = importlib.import_module(library)
    ours = penstock.async_http_client if is_async else penstock.http_client
    makers = (
        theirs.AsyncClient if is_async else theirs.Client,
        lambda **settings: ours(library=library, attempts=1, **settings),
    )

    async def main():
        found = []
        for make in makers:
            http = client(make, is_async=is_async)
            found.append(await outcome(http, *CASES[case], is_async=is_async))
            await http.aclose() if is_async else http.close()
        return found

    plain, mended = asyncio.run(asyncio.wait_for(main(), 60))
    if case in ("answered: cut", "answered: a chunk cut"):  # read to its end before a hook hears of it
        plain[1].clear()
    assert mended == plain
