from __future__ import annotations

import socket

import pytest

from penstock.admin.address import Address, bind_exclusively, bind_shared, parse_address
from penstock.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address", "reachable", "loopback"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080", True),
        ("localhost:0", Address("localhost", 0), "localhost:0", True),
        ("[::1]:80", Address("::1", 80), "[::1]:80", True),
        (":8080", Address("", 8080), "127.0.0.1:8080", False),
        ("0.0.0.0:1", Address("0.0.0.0", 1), "127.0.0.1:1", False),
        ("[::]:1", Address("::", 1), "[::1]:1", False),
        ("gateway.internal:1", Address("gateway.internal", 1), "gateway.internal:1", False),
    ],
)
def test_an_address_is_read_and_shown(text, address, reachable, loopback):
    read = parse_address(text)
    assert read == address
    assert read.reachable == reachable
    assert read.loopback is loopback


@pytest.mark.parametrize("text", ["8080", "host", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:70000", "::1:80"])
def test_what_is_no_address_is_named_with_its_key(text):
    with pytest.raises(ConfigError, match=r"^control: "):
        parse_address(text, "control")


def test_shared_sockets_have_one_port_and_listen():
    sockets = bind_shared(Address("127.0.0.1", 0), 3)
    try:
        ports = {sock.getsockname()[1] for sock in sockets}
        assert len(ports) == 1
        assert 0 not in ports
        socket.create_connection(("127.0.0.1", ports.pop())).close()
    finally:
        for sock in sockets:
            sock.close()


def test_reserving_a_port_does_not_answer_there():
    (sock,) = bind_shared(Address("127.0.0.1", 0), 1, listening=False)
    with sock, pytest.raises(ConnectionRefusedError):
        socket.create_connection(sock.getsockname())


@pytest.mark.parametrize(
    "bind", [lambda address: bind_shared(address, 2), lambda address: bind_exclusively(address, "listen")]
)
def test_a_port_in_use_is_told_even_where_its_holder_would_share(bind):
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"listen: 127.0.0.1:{port} is in use"):
            bind(Address("127.0.0.1", port))


def test_a_port_that_was_in_use_a_moment_ago_can_be_bound():
    server = bind_exclusively(Address("127.0.0.1", 0), "listen")
    address = server.getsockname()
    client = socket.create_connection(address)
    server.setblocking(True)
    accepted, _ = server.accept()
    accepted.close()  # the side that closes first is in TIME_WAIT
    client.close()
    server.close()
    bind_exclusively(Address(*address), "listen").close()


@pytest.mark.parametrize(
    ("host", "words"),
    [("203.0.113.1", "is not an address of this machine"), ("no-such-host.invalid", "cannot be resolved")],
)
def test_a_host_that_is_not_ours_is_told(host, words):
    with pytest.raises(ConfigError, match=words):
        bind_exclusively(Address(host, 0), "listen")


def test_the_ipv6_wildcard_serves_ipv4_too():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with bind_exclusively(Address("::", 0), "listen") as sock:
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])).close()
