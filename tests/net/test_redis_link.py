"""A link keeps a connection to a real server, and a client waits for what it is asked over one."""

import asyncio
import functools
import time

import pytest
import uvloop

from needing import needs_redis
from penstock.config.redis_address import Address
from penstock.net import redis_client
from penstock.net.redis_client import Client
from penstock.net.redis_link import Link
from penstock.testing import RedisServer
from waiting import until

pytestmark = needs_redis
SCRIPT = b"return 1"


class Unavailable(Exception):
    """There is no answer."""


class Full(Exception):
    """There is no room."""


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


def link_to(server, **more):
    return Link(Address.parse(server.url), **more)


def client_of(server, budget=60.0, **more):
    return Client(Address.parse(server.url), budget, [SCRIPT], Unavailable, Full, **more)


def in_a_loop(test):
    @functools.wraps(test)
    def run(**given):
        uvloop.run(test(**given))

    return run


async def once_it_is_back(client):
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.ask(b"PING")
            except Unavailable:
                await asyncio.sleep(0.005)


@in_a_loop
async def test_who_asks_without_a_connection_is_told_so_at_once_and_one_is_made(server):
    link = link_to(server)
    assert not link.tell(b"PING")
    with pytest.raises(ConnectionError, match="not connected yet"):
        await link.ask(b"PING")
    await link.wait_connected()
    assert await link.ask(b"ECHO", b"word", read=bytes.upper) == b"WORD"
    assert repr(link) == f"<Link to 127.0.0.1:{server.port}, connected>"
    await link.close()


@in_a_loop
async def test_a_try_takes_as_long_as_it_may_and_no_longer(server):
    server.freeze()
    troubles = []
    hasty, patient = link_to(server, budget=0.01, on_trouble=troubles.append), link_to(server, budget=60.0)
    connected = asyncio.ensure_future(patient.wait_tried())
    await hasty.wait_tried()
    await until(lambda: len(troubles) > 2)
    assert not connected.done()
    server.thaw()
    await connected
    assert await patient.ask(b"ECHO", b"word") == b"word"
    await hasty.close()
    await patient.close()


@in_a_loop
async def test_a_lost_connection_is_told_of_and_made_anew(server):
    lost, troubles = [], []
    link = link_to(server, on_lost=lambda: lost.append(1), on_trouble=troubles.append)
    await link.wait_connected()
    server.kill()
    await until(lambda: lost and troubles[1:])
    with pytest.raises(ConnectionError):
        await link.ask(b"PING")
    server.start()
    await link.wait_connected()
    assert await link.ask(b"PING") == b"PONG"
    assert link.trouble == ""
    assert lost == [1]
    await link.close()


@in_a_loop
async def test_what_a_connection_begins_with_is_done_each_time(server):
    begun = []

    async def prepare(connection):
        begun.append(await connection.ask(b"CLIENT", b"ID"))

    link = link_to(server, prepare=prepare)
    await link.wait_connected()
    link.reset("for a test")
    await until(lambda: link.connection is None)
    assert link.trouble == "for a test"
    await link.wait_connected()
    assert await link.ask(b"CLIENT", b"ID") == begun[1] != begun[0]
    await link.close()


@in_a_loop
async def test_a_connection_whose_beginning_fails_is_no_connection(server):
    async def prepare(connection):
        await connection.ask(b"NO-SUCH-COMMAND")

    link = link_to(server, prepare=prepare)
    await link.wait_tried()
    assert link.connection is None
    assert "unknown command" in link.trouble
    await link.close()


@in_a_loop
async def test_an_error_ends_the_connection_only_where_the_server_is_the_wrong_one(server):
    link = link_to(server)
    await link.wait_connected()
    connection = link.connection
    with pytest.raises(ConnectionError, match="unknown command"):
        await link.ask(b"NO-SUCH-COMMAND")
    assert link.connection is connection
    assert "unknown command" in link.trouble
    await link.ask(b"PING")
    assert link.trouble == ""
    with pytest.raises(ConnectionError, match="NOSCRIPT"):
        await link.ask(b"EVALSHA", b"0" * 40, b"0")
    await until(lambda: link.connection is not connection)
    await link.close()


@in_a_loop
async def test_connections_that_do_not_last_are_not_made_again_at_once(server):
    link = link_to(server)
    await link.wait_connected()
    for _ in range(3):
        link.reset("for a test")
        await until(lambda: link.connection is None)
        await link.wait_tried()
        assert link.connection is None  # a pause, and who waits for a try does not wait for that
        await link.wait_connected()
    await link.close()


@in_a_loop
async def test_a_closed_link_connects_no_more(server):
    link = link_to(server)
    await link.wait_connected()
    await link.close()
    await link.wait_tried()
    with pytest.raises(ConnectionError, match="closed"):
        await link.ask(b"PING")
    assert link.connection is None


@in_a_loop
async def test_closing_ends_the_tries(server):
    server.kill()
    link = link_to(server)
    waiting = asyncio.ensure_future(link.wait_connected())
    await link.wait_tried()
    await link.close()
    await waiting
    assert link.connection is None


@in_a_loop
async def test_a_client_waits_for_the_first_try_and_then_only_for_answers(server):
    client = client_of(server)
    assert await client.ask(b"EVALSHA", b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db", b"0") == 1
    assert await client.ask_all([(b"ECHO", b"%d" % i) for i in range(3)]) == [b"0", b"1", b"2"]
    assert await client.ask_all([]) == []
    assert not client.cluster
    client.tell(b"SET", b"key", b"value")
    assert await client.ask(b"GET", b"key") == b"value"
    await client.close()
    with pytest.raises(Unavailable, match="closed"):
        await client.ask(b"PING")


@in_a_loop
async def test_while_a_server_is_away_a_client_is_told_at_once(server):
    client = client_of(server)
    await client.ask(b"PING")
    server.kill()
    async with asyncio.timeout(60):  # a pause for each would be many times as much
        for _ in range(1_000):
            with pytest.raises(Unavailable, match=rf"Redis at 127\.0\.0\.1:{server.port}: "):
                await client.ask(b"PING")
    server.start()
    assert await once_it_is_back(client) == b"PONG"
    await client.close()


@in_a_loop
async def test_an_answer_that_is_late_ends_the_connection_for_all_who_wait(server):
    lost = []
    client = client_of(server, budget=0.2, on_lost=lambda: lost.append(1))
    await once_it_is_back(client)
    server.freeze()
    try:
        asked = [asyncio.ensure_future(client.ask(b"PING")) for _ in range(3)]
        for one in asked:
            with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
                await one
        assert lost
    finally:
        server.thaw()
    assert await once_it_is_back(client) == b"PONG"
    await client.close()


def test_what_came_while_this_process_stood_still_is_no_late_answer(server, monkeypatch):
    """As after SIGSTOP and SIGCONT: uvloop runs timers before it reads."""
    monkeypatch.setattr(redis_client, "STOOD_STILL", 0.05)

    async def test():
        client = client_of(server, budget=0.1)
        await once_it_is_back(client)
        for _ in range(5):
            asked = asyncio.ensure_future(client.ask(b"PING"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is on its way
            time.sleep(0.3)  # noqa: ASYNC251 - nothing else stands still
            assert await asked == b"PONG"
        await client.close()

    uvloop.run(test())


@in_a_loop
async def test_one_error_is_the_answer_to_all_that_were_asked_together(server):
    client = client_of(server)
    with pytest.raises(Unavailable, match="unknown command"):
        await client.ask_all([(b"PING",), (b"NO-SUCH-COMMAND",), (b"PING",)])
    assert await client.ask(b"PING") == b"PONG"
    await client.close()


@in_a_loop
async def test_who_stops_waiting_disturbs_nobody(server):
    client = client_of(server)
    await client.ready()
    asked = asyncio.ensure_future(client.ask_all([(b"PING",)] * 3))
    other = asyncio.ensure_future(client.ask(b"ECHO", b"mine"))
    await asyncio.sleep(0)
    asked.cancel()
    assert await other == b"mine"
    await client.close()


@in_a_loop
async def test_a_server_without_memory_left_is_full():
    with RedisServer("--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as server:
        client = client_of(server)
        too_much = [(b"SET", b"%d" % i, bytes(100_000)) for i in range(100)]
        with pytest.raises(Full, match="OOM"):
            await client.ask_all(too_much)
        await client.close()


@in_a_loop
async def test_a_command_that_the_user_may_not_run_is_said_once_and_no_more_sent(server, caplog):
    troubles = []
    link = link_to(server, on_trouble=troubles.append)
    await link.wait_connected()
    await link.ask(b"ACL", b"SETUSER", b"default", b"-touch")
    assert link.tell(b"TOUCH", b"key")
    await link.ask(b"PING")
    assert len(troubles) == 1
    for _ in range(3):
        assert not link.tell(b"TOUCH", b"key")
    assert link.tell(b"SET", b"key", b"1")  # all others go on
    await link.ask(b"PING")
    assert len(troubles) == 1
    before = link.connection
    link.reset("a test")
    await until(lambda: link.connection not in {None, before})
    assert link.tell(b"TOUCH", b"key")  # by now it may be permitted
    await link.ask(b"PING")
    assert not link.tell(b"TOUCH", b"key")
    assert len([record for record in caplog.records if "TOUCH" in record.getMessage()]) == 1
    await link.close()
