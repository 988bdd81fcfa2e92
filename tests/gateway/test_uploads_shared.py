"""Two gateways that share their uploads through a server, and no disk."""

import asyncio
import contextlib
import json

from in_pieces import body_of, digest, in_pieces
from serving import COMPLETION, on_uvloop

from needing import needs_redis
from penstock.config.secret import Secret
from penstock.testing import RedisServer

pytestmark = needs_redis


def with_two(folder, test, **more):
    async def main():
        with RedisServer() as server:
            shared = {"redis": Secret(server.url), **more}
            async with contextlib.AsyncExitStack() as stack:
                one, model, _ = await stack.enter_async_context(in_pieces(folder / "one", **shared))
                other, other_model, _ = await stack.enter_async_context(in_pieces(folder / "other", **shared))
                await test(one, other, (model, other_model), server)

    on_uvloop(main)


def at(ask, where):
    """The same upload at another gateway."""
    return f"http://127.0.0.1:{ask.port}/v1/uploads/{where.rpartition('/')[2]}"


def test_what_began_at_one_gateway_goes_on_at_another(tmp_path):
    async def test(one, other, models, server):
        body = body_of(30_000)
        where = (await one.create()).headers["location"]
        first = await one.append(where, 0, body[:10_000], Content_Digest=digest(body[:10_000]))
        assert (first.status, first.headers["upload-offset"]) == (204, "10000")
        there = at(other, where)
        assert await other.offset(there) == 10_000
        last = await other.append(there, 10_000, body[10_000:], complete=True)
        assert (last.status, last.json()) == (200, COMPLETION)
        assert [json.loads(seen) for seen in models[1].bodies] == [json.loads(body)]
        assert models[0].bodies == []

    with_two(tmp_path, test)


def test_who_hangs_at_one_gateway_is_shut_out_by_who_asks_at_another(tmp_path):
    async def test(one, other, models, server):
        where = (await one.create()).headers["location"]
        reader, writer = await one.begin(
            "PATCH",
            where,
            6,
            content_type="application/partial-upload",
            Upload_Offset=0,
            Upload_Complete="?0",
            Content_Digest=digest(b"abcdef"),
        )
        writer.write(b"abc")
        assert await other.offset(at(other, where)) == 0
        taken = await other.append(at(other, where), 0, b"xyz")
        assert taken.status == 204
        writer.write(b"def")
        answer = await one.answer(reader)
        assert (answer.status, answer.json()["error"]["code"]) == (409, "superseded")
        writer.close()
        assert await one.offset(where) == 3

    with_two(tmp_path, test)


def test_of_two_appends_at_two_gateways_one_counts(tmp_path):
    async def test(one, other, models, server):
        for _ in range(5):
            where = (await one.create()).headers["location"]
            answers = await asyncio.gather(
                one.append(where, 0, b"a" * 300_000), other.append(at(other, where), 0, b"b" * 300_000)
            )
            assert sorted(answer.status for answer in answers) == [204, 409]
            assert await one.offset(where) == 300_000

    with_two(tmp_path, test)


def test_a_server_that_has_gone_is_503_and_calls_go_on(tmp_path):
    async def test(one, other, models, server):
        where = (await one.create()).headers["location"]
        assert (await one.append(where, 0, b"abc")).status == 204
        server.kill()
        for answer in (await one.append(where, 3, b"def"), await one.create()):
            assert (answer.status, answer.json()["error"]["code"]) == (503, "storage_unavailable")
        call = await one("POST", "/v1/chat/completions", body_of(10), content_type="application/json")
        assert (call.status, call.json()) == (200, COMPLETION)

    with_two(tmp_path, test)
