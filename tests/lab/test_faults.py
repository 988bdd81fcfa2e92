"""The link breaks where it was told to, to the byte, and in the way it was told."""

import asyncio
import socket
import threading
import time
from unittest.mock import Mock

import pytest

from penstock.lab.faults import Break, Conditions, FaultProxy, Kind, _Connection
from waiting import wait_until

PATIENCE = 60.0
ANSWER = bytes(range(256)) * 1_000


class Answering:
    """A server that reads ``size`` bytes, then sends ``ANSWER``, and closes."""

    def __init__(self, size):
        self.size = size
        self.received = []
        self.resets = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._open = []

    def _run(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection]).start()

    def _serve(self, connection):
        connection.settimeout(PATIENCE)
        with connection:
            got = b""
            try:
                while len(got) < self.size and (piece := connection.recv(65536)):
                    got += piece
                self.received.append(got)
                if len(got) == self.size:
                    connection.sendall(ANSWER)
            except ConnectionError:
                self.received.append(got)
                self.resets += 1

    def wait_received(self):
        """Until a connection has sent all that it will."""
        wait_until(lambda: self.received)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def talk(link, body, silent_after=None):
    """What comes back, and how it ended.

    :param silent_after: so many bytes should come, and then nothing any more
    """
    got = b""
    with socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE) as sock:
        try:
            sock.sendall(body)
            while True:
                if len(got) == silent_after:
                    sock.settimeout(0.3)
                if not (piece := sock.recv(65536)):
                    break
                got += piece
        except TimeoutError:
            return got, "silence"
        except ConnectionError:
            return got, "reset"
    return got, "end"


@pytest.fixture
def server():
    with Answering(5) as running:
        yield running


def test_without_faults_every_byte_gets_through(server):
    with FaultProxy("127.0.0.1", server.port) as link:
        assert talk(link, b"hello") == (ANSWER, "end")
        assert (link.figures.connections, link.figures.broken) == (1, 0)
        assert (link.figures.bytes_up, link.figures.bytes_down) == (5, len(ANSWER))


@pytest.mark.parametrize("after", [0, 1, 1_000, 16_384, 100_000])
def test_an_orderly_end_comes_after_so_many_bytes(server, after):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.CLOSE, after, "down")]) as link:
        assert talk(link, b"hello") == (ANSWER[:after], "end")
        assert talk(link, b"hello") == (ANSWER, "end")  # the second connection has no break
        assert link.figures.broken == 1


def test_a_reset_is_one_for_both_sides(server):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.RESET, 3, "up")]) as link:
        got, end = talk(link, b"hello")
    assert (got, end) == (b"", "reset")
    server.wait_received()
    assert server.received in ([b"hel"], [b""])  # a reset may overtake what was sent before it


def test_both_directions_count_together(server):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.CLOSE, 1_005)]) as link:
        assert talk(link, b"hello") == (ANSWER[:1_000], "end")


def test_a_black_hole_says_nothing_to_anybody(server):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.BLACK_HOLE, 10, "down")]) as link:
        assert talk(link, b"hello", silent_after=10) == (ANSWER[:10], "silence")


def test_an_answer_is_lost_after_the_request_has_arrived(server):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.LOST_ANSWER, 5, "up")]) as link:
        assert talk(link, b"hello", silent_after=0) == (b"", "silence")
        server.wait_received()
    assert server.received == [b"hello"]


def test_a_corrupted_byte_is_the_only_one(server):
    with FaultProxy("127.0.0.1", server.port, breaks=[Break(Kind.CORRUPT, 1_000, "down")]) as link:
        got, end = talk(link, b"hello")
    assert end == "end"
    assert [at for at in range(len(ANSWER)) if got[at] != ANSWER[at]] == [999]


def test_a_stall_ends(server):
    conditions = Conditions(stall=0.05)
    with FaultProxy("127.0.0.1", server.port, conditions, breaks=[Break(Kind.STALL, 10, "down")]) as link:
        assert talk(link, b"hello") == (ANSWER, "end")
        assert link.figures.broken == 1


def test_a_far_and_narrow_link_takes_the_time_that_it_must(server):
    """Never less; how much more depends on the machine."""
    conditions = Conditions(delay=0.05, rate=1_000_000)
    with FaultProxy("127.0.0.1", server.port, conditions) as link:
        began = time.monotonic()
        assert talk(link, b"hello") == (ANSWER, "end")
    assert time.monotonic() - began >= 2 * 0.05 + 2 * 0.05 + len(ANSWER) / 1_000_000


def test_a_connection_comes_to_no_more_than_its_own_rate_however_wide_the_link_is(server):
    conditions = Conditions(alone=1_000_000)
    with FaultProxy("127.0.0.1", server.port, conditions) as link:
        began = time.monotonic()
        assert talk(link, b"hello") == (ANSWER, "end")
    assert time.monotonic() - began >= len(ANSWER) / 1_000_000


def test_the_hazard_is_that_of_the_model_and_the_seed_decides():
    link = FaultProxy("127.0.0.1", 1, Conditions(hazard=0.1, seed=7))
    same = FaultProxy("127.0.0.1", 1, Conditions(hazard=0.1, seed=7))
    drawn = [link._next_break() for _ in range(4_000)]
    assert drawn == [same._next_break() for _ in range(4_000)]
    broken = sum(each.after < 10_000_000 for each in drawn) / len(drawn)
    assert abs(broken - 0.632) < 0.03  # 1 − exp(−0.1 · 10)


def test_a_port_that_is_taken_is_an_error(server):
    with pytest.raises(OSError, match="in use"):
        FaultProxy("127.0.0.1", 1, listen=("127.0.0.1", server.port)).start()


def test_what_says_nothing_for_too_long_is_cut():
    with Answering(9) as server, FaultProxy("127.0.0.1", server.port, Conditions(idle=0.2)) as link:
        with socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE) as client:
            client.sendall(b"half")
            assert client.recv(1) == b""
        assert link.figures.broken == 1
        server.wait_received()
        assert server.received == [b"half"]


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = [b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\n\r\n"]


@pytest.mark.parametrize(
    ("hold", "through"),
    [(1_000, [HEAD, b"", b"", b"".join(PIECES)]), (12, [HEAD, b"", PIECES[0] + PIECES[1], PIECES[2]])],
)
def test_an_answer_is_held_back_but_for_its_head_until_there_is_much_of_it_or_its_end(hold, through):
    link = FaultProxy("127.0.0.1", 1, Conditions(hold=hold))

    async def main():
        connection = _Connection(link, None, Mock(), Mock())
        return [connection._let_go(piece) for piece in (HEAD, *PIECES)]

    assert asyncio.run(main()) == through


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000


@pytest.mark.parametrize("size", [16_384, 10_000, 3_000])
def test_an_answer_of_another_form_is_not_held_back_in_however_many_pieces_it_comes(size):
    pieces = [LONG[at : at + size] for at in range(0, len(LONG), size)]

    async def main():
        connection = _Connection(FaultProxy("127.0.0.1", 1, Conditions(hold=4_096)), None, Mock(), Mock())
        return [connection._let_go(piece) for piece in pieces * 2]

    assert asyncio.run(main()) == pieces * 2


@pytest.mark.parametrize("hold", [12, 1_000])
def test_the_end_of_an_answer_is_seen_wherever_it_is_cut(hold):
    """Also where its beginning went through before; what comes next on the connection is held back again."""
    told = b"".join(PIECES)

    async def main():
        for cut in range(1, len(told)):
            connection = _Connection(FaultProxy("127.0.0.1", 1, Conditions(hold=hold)), None, Mock(), Mock())
            for _ in range(2):
                assert connection._let_go(HEAD + PIECES[0]) == HEAD
                came = [connection._let_go(piece) for piece in (told[:cut], told[cut:]) if piece]
                assert b"".join(came) == PIECES[0] + told

    asyncio.run(main())
