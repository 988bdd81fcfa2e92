from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from penstock.net.dial import ATTEMPT_DELAY, alternating, dial

V4, V6 = socket.AF_INET, socket.AF_INET6


def info(address, family=V4):
    return (family, socket.SOCK_STREAM, 6, "", address)


def listener(backlog=10):
    return socket.create_server(("127.0.0.1", 0), backlog=backlog)


@pytest.fixture
def silent():
    """An address that drops handshakes: a listener whose queue is full."""
    with socket.socket() as server, socket.socket() as one, socket.socket() as two:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for each in (one, two):
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield server.getsockname()


@pytest.fixture
def refusing():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, and not listening
        yield taken.getsockname()


class Loop(asyncio.SelectorEventLoop):
    """A loop with a resolver of our own."""

    addresses: tuple = ()

    async def getaddrinfo(self, *_args, **_options):
        return [info(address) for address in self.addresses]


def dial_to(*addresses):
    loop = Loop()
    loop.addresses = addresses

    async def main():
        started = loop.time()
        with await dial("upstream", 80) as sock:
            return sock.getpeername(), loop.time() - started

    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def test_families_take_turns_beginning_with_the_resolvers_choice():
    infos = [info(1, V6), info(2, V6), info(3, V6), info(4, V4), info(5, V4)]
    assert [each[4] for each in alternating(infos)] == [1, 4, 2, 5, 3]


def test_a_refusing_address_costs_no_time(refusing, monkeypatch):
    monkeypatch.setattr("penstock.net.dial.ATTEMPT_DELAY", 60.0)
    with listener() as server:
        peer, seconds = dial_to(refusing, refusing, server.getsockname())
        assert peer == server.getsockname()
        assert seconds < 60.0


def test_a_silent_address_costs_a_quarter_second_and_not_the_whole_connect_clock(silent):
    with listener() as server:
        peer, seconds = dial_to(silent, server.getsockname())
        assert peer == server.getsockname()
        assert ATTEMPT_DELAY * 0.9 < seconds < 60


def test_when_all_fail_the_first_address_is_blamed(refusing):
    with pytest.raises(ConnectionRefusedError):
        dial_to(refusing, refusing)


def test_a_name_without_addresses_is_an_error():
    with pytest.raises(OSError, match="upstream has no address"):
        dial_to()


def test_cancelling_ends_every_attempt(run, silent):
    async def main():
        task = asyncio.create_task(dial(*silent))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_cancelling_at_any_point_leaks_no_socket(run):
    """A socket that nobody closes is a ResourceWarning, and so an error."""

    async def main():
        with listener(backlog=100) as one, listener() as two:
            turns, finished = 0, False
            while not finished:
                task = asyncio.create_task(dial(*one.getsockname()))
                for _ in range(turns):
                    await asyncio.sleep(0)
                finished = task.done()
                task.cancel()
                try:
                    (await task).close()
                except asyncio.CancelledError:
                    assert not finished
                turns += 1
            assert turns > 2
            (await dial(*two.getsockname())).close()

    run(main)
    gc.collect()


def test_two_that_connect_in_the_same_turn_leave_one(monkeypatch):
    monkeypatch.setattr("penstock.net.dial.ATTEMPT_DELAY", 0)
    with listener() as one, listener() as two:
        peer, _ = dial_to(one.getsockname(), two.getsockname())
        assert peer in {one.getsockname(), two.getsockname()}
    gc.collect()
