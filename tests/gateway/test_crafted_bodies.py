"""Bodies that are written to get another's answer, or to have another get theirs, through the gateway."""

import asyncio
import contextlib
import hashlib

import pytest
from keeping import Wall, line_to, settings
from serving import COMPLETION, on_uvloop, plain, serving

from crafted import CRAFTED
from penstock.config.model import CacheConfig, KeyConfig, ModelCacheConfig

TENANTS = ("mallory", "alice")

# Each of a group asks the same: whoever is answered from the cache gets the answer to that.
SAME = {
    "order and spaces": [
        b'{"model":"m","messages":["x"],"n":1}',
        b'{"n":1,"messages":["x"],"model":"m"}',
        b' {"n" : 1,\n"messages":["x"] ,"model":"m"}\n',
    ],
    "names in escapes": [
        b'{"model":"m","messages":["y"],"n":1}',
        b'{"model":"m","messages":["y"],"\\u006e":1}',
    ],
    "who asks": [
        b'{"model":"m","messages":["z"],"user":"mallory"}',
        b'{"model":"m","messages":["z"],"user":"alice"}',
        b'{"model":"m","messages":["z"],"metadata":{"messages":["w"]}}',
    ],
    "the last counts": [
        b'{"model":"m","messages":["v"],"n":1,"n":2}',
        b'{"model":"m","n":2,"messages":["v"]}',
    ],
}
# What need not be the same question, and must not get a wrong answer.
PERHAPS = {
    "escapes": [
        b'{"model":"m","messages":["\xc3\xa9/"]}',
        b'{"model":"m","messages":["\\u00e9/"]}',
        b'{"model":"m","messages":["\\u00E9\\/"]}',
    ],
}
# What is no call of ours at all, or none that can be read in one way only.
NEVER = {
    "nesting without end": b'{"model":"m","messages":[],"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "nesting that is not closed": b'{"model":"m","messages":' + b"[" * 100_000,
    "objects without end": b'{"model":"m","messages":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "half a pair": b'{"model":"m","messages":["\\ud800"]}',
    "a name that is no UTF-8": b'{"model":"m","messages":[],"\xff":1}',
    "two bodies": b'{"model":"m","messages":["a"]}{"model":"m","messages":["b"]}',
    "a number that is none": b'{"model":"m","messages":[],"n":NaN}',
    "a comment": b'{"model":"m","messages":[]/*,"n":1*/}',
    "UTF-16": '{"model":"m","messages":[]}'.encode("utf-16"),
}


@contextlib.asynccontextmanager
async def telling():
    """The URL of an upstream that answers with the digest of what it was asked, and tells who asks never."""

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                (length,) = (
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                text = hashlib.sha256(body).hexdigest()
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
                writer.write(plain({**COMPLETION, "choices": [choice]}))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def asking(tmp_path, scope):
    """``ask(body, whose)``: ``(Penstock-Status, text)``"""
    keys = [
        KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
        for name in TENANTS
    ]
    tiers = CacheConfig(disk=str(tmp_path / "answers.sqlite"), disk_budget=60)
    policy = ModelCacheConfig(calls="all", scope=scope)
    async with telling() as url, contextlib.AsyncExitStack() as stack:
        gateway, port = await stack.enter_async_context(
            serving(settings(url, cache=policy, tiers=tiers, keys=keys))
        )
        Wall(gateway)
        lines = {name: await stack.enter_async_context(line_to(port)) for name in TENANTS}

        async def ask(body, whose, *more):
            answer = await lines[whose](body, headers=[f"authorization: Bearer {whose}", *more])
            if answer.status != 200:
                return answer.status, ""
            text = answer.json()["choices"][0]["message"]["content"]
            return answer.headers["penstock-status"], text

        async def right(body):
            """What the upstream answers when nothing stands between."""
            status, text = await ask(body, TENANTS[0], "cache-control: no-store")
            assert status == "created"
            return text

        yield gateway, ask, right


@pytest.mark.parametrize("bodies", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.parametrize("scope", ["tenant", "shared"])
def test_nobody_gets_the_answer_to_a_question_that_only_looks_the_same(bodies, scope, tmp_path):
    """Neither by reading, nor from the tier below, nor unread, nor another tenant."""

    async def main():
        async with asking(tmp_path, scope) as (gateway, ask, right):
            answers = {body: await right(body) for body in bodies}
            assert len(set(answers.values())) == len(bodies)
            for whose in TENANTS:
                is_first = whose == TENANTS[0] or scope == "tenant"
                for body, text in answers.items():
                    assert await ask(body, whose) == ("created" if is_first else "cached", text)
                for body, text in answers.items():  # in memory, and unread
                    assert [await ask(body, whose) for _ in range(2)] == [("cached", text)] * 2
                await gateway.cache.guards[0].tier.flush()
                gateway.cache.memory.clear()
                for body, text in answers.items():
                    assert await ask(body, whose) == ("cached", text)
            assert gateway.repeats.answered > 0

    on_uvloop(main)


@pytest.mark.parametrize("bodies", (SAME | PERHAPS).values(), ids=SAME | PERHAPS)
def test_who_asks_the_same_in_other_words_gets_an_answer_to_that(bodies, tmp_path):
    async def main():
        async with asking(tmp_path, "tenant") as (_, ask, _):
            status, first = await ask(bodies[0], "alice")
            assert status == "created"
            for body in bodies[1:]:
                status, text = await ask(body, "alice")
                if bodies in SAME.values():
                    assert (status, text) == ("cached", first)
                else:
                    assert (status, text == first) in (("created", False), ("cached", True))

    on_uvloop(main)


@pytest.mark.parametrize("body", NEVER.values(), ids=NEVER)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused_and_leaves_nothing_behind(body, tmp_path):
    async def main():
        async with asking(tmp_path, "shared") as (gateway, ask, _):
            assert [await ask(body, whose) for whose in TENANTS] == [(400, "")] * 2
            assert (gateway.cache.stored, len(gateway.cache.memory)) == (0, 0)

    on_uvloop(main)
