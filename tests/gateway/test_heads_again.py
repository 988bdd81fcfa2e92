"""Heads that come again on a connection: what the gateway made of them holds as long as it would make the same of them."""

import asyncio
import contextlib
import hashlib

from gateway_doubles import FakeExchange
from serving import COMPLETION, PROMPT, config, on_uvloop, plain, read_answer, request, serving

from penstock.config.model import KeyConfig
from penstock.testing import ScriptedUpstream, Step

SCRIPT = [Step.REQUEST, plain(COMPLETION)]


def key(name, **more):
    return KeyConfig(name=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest(), **more)


@contextlib.asynccontextmanager
async def line_to(port):
    """``ask``: sends a request on one connection, and gives its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(body=PROMPT, bearer="a", **kwargs):
        writer.write(request(body, headers=[f"authorization: Bearer {bearer}"], **kwargs))
        return (await read_answer(reader)).status

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()


def test_a_key_is_looked_for_once_on_a_connection_and_again_in_a_new_configuration():
    async def main():
        async with ScriptedUpstream([SCRIPT * 6]) as upstream:
            both = config(upstream.url, keys=[key("a"), key("b")])
            async with serving(both) as (gateway, port), line_to(port) as ask:
                keyring = gateway.pipeline.snapshot.keyring
                assert [await ask(), await ask(), await ask({**PROMPT, "user": "u"})] == [200] * 3
                keyring._known.clear()
                keyring._bearers.clear()
                keyring._known[b""] = (b"", None)  # or it would be a keyring without keys
                assert await ask() == 200, "not looked for"
                gateway.reload(config(upstream.url, keys=[key("b")]))
                assert [await ask(), await ask(), await ask(bearer="b")] == [401, 401, 200]
                gateway.pipeline.snapshot.keyring._known.clear()
                gateway.pipeline.snapshot.keyring._known[b""] = (b"", None)
                gateway.pipeline.snapshot.keyring._bearers.clear()
                assert [await ask(bearer="b"), await ask(), await ask(bearer="b")] == [200, 401, 401]

    on_uvloop(main)


def test_each_call_of_a_connection_is_the_tenants_whose_key_it_brings():
    async def main():
        async with ScriptedUpstream([SCRIPT * 6]) as upstream:
            keys = [key("a", tenant="one"), key("b", tenant="two")]
            async with serving(config(upstream.url, keys=keys)) as (gateway, port), line_to(port) as ask:
                for bearer in "aabbab":
                    assert await ask(bearer=bearer) == 200
                tenants = [row.tenant for row in reversed(gateway.recorder.ledger.recent())]
                assert tenants == ["one", "one", "two", "two", "one", "two"]

    on_uvloop(main)


def test_a_path_without_its_version_is_given_one_each_time():
    async def main():
        async with serving(config("http://127.0.0.1:9")) as (gateway, _):
            first, second = (FakeExchange("/chat/completions") for _ in range(2))
            gateway.reception.opening(first)
            second.meaning = first.meaning
            assert second.meaning is not None
            gateway.reception.opening(second)
            assert (
                (second.path, second.state)
                == (first.path, first.state)
                == ("/v1/chat/completions", first.state)
            )

    on_uvloop(main)
