"""A Redis server that the pool's script is run in, at times of the test's own, beside the pool in Python."""

import contextlib
import math
import socket

import hiredis

from penstock.flow import redis_board
from penstock.flow._sharing_script import EXCHANGE
from penstock.flow.sharing import Lease
from penstock.testing.redis import RedisServer

EXACT = {"others", "places", "day", "day_free", "month", "month_free"}
FIGURES = [field for field in Lease.__struct_fields__ if field not in EXACT]


TIMED = EXCHANGE.replace(b"redis.call('TIME')", b"{ARGV[#ARGV], '0'}")
"""The script that is used, but for where it takes the time from."""


@contextlib.contextmanager
def asking():
    """A Redis server, and what asks it."""
    with RedisServer() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        reader = hiredis.Reader()

        def ask(*command):
            sock.sendall(hiredis.pack_command(command))
            while (answer := reader.gets()) is False:
                reader.feed(sock.recv(65_536))
            assert not isinstance(answer, Exception), answer
            return answer

        yield ask


def exchanged(ask, member, reports, now, *, rejoins=False):
    """What the script answers."""
    command = redis_board.command(member.encode(), b"{t}", reports, rejoins=rejoins)
    return redis_board.read(ask(b"EVAL", TIMED, *command, repr(now).encode()))


def assert_alike(there, here):
    """Both pools lease the same."""
    assert there.members == here.members
    for one, other in zip(there.leases, here.leases, strict=True):
        for figure in EXACT:
            assert getattr(one, figure) == getattr(other, figure), (figure, one, other)
        for figure in FIGURES:
            assert math.isclose(getattr(one, figure), getattr(other, figure), rel_tol=1e-6, abs_tol=1e-3), (
                figure,
                one,
                other,
            )
