"""A Redis of a test's own is its own, wherever others listen."""

import socket

import pytest

from needing import needs_redis
from penstock.testing import RedisServer

pytestmark = needs_redis


def asked(server, command):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        sock.sendall(command + b"\r\n")
        return sock.recv(100)


def test_a_port_that_somebody_took_meanwhile_is_left_to_him():
    server = RedisServer()
    taken = server.port
    with socket.create_server(("127.0.0.1", taken)), server:
        assert server.port != taken
        assert server.url.endswith(f":{server.port}")
        assert asked(server, b"PING") == b"+PONG\r\n"


def test_one_that_is_started_anew_is_where_it_was_and_knows_nothing():
    with RedisServer() as server:
        port = server.port
        assert asked(server, b"SET k v") == b"+OK\r\n"
        server.kill()
        server.start()
        assert (server.port, asked(server, b"GET k")) == (port, b"$-1\r\n")


def test_a_port_that_was_asked_for_and_is_taken_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        with pytest.raises(RuntimeError, match="in use"):
            RedisServer(port=holder.getsockname()[1]).start()


def test_an_option_that_there_is_not_is_told():
    with pytest.raises(RuntimeError, match="does not start"):
        RedisServer("--no-such-option", "1").start()
