"""What is asked of the kernel about a socket, over real ones."""

import contextlib
import socket

import pytest

from penstock.net import _sockets

FULL = 1 << 20


class Transport:
    """As much of one as is asked: its socket, and what it has not given to the kernel yet."""

    def __init__(self, sock, waiting=0):
        self.sock = sock
        self.waiting = waiting

    def get_extra_info(self, name):
        return self.sock if name == "socket" else None

    def get_write_buffer_size(self):
        return self.waiting


@pytest.fixture
def ends():
    """Both ends of a TCP connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(socket.create_connection(listener.getsockname()))
        theirs = stack.enter_context(listener.accept()[0])
        yield ours, theirs


def filled(sock):
    """Write as much as the kernel takes; how much that was."""
    sock.setblocking(False)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sock.send(bytes(FULL))
    return size


def test_what_the_kernel_holds_is_untaken_beside_what_the_transport_does(ends):
    ours, theirs = ends
    written = filled(ours)
    left = _sockets.untaken(Transport(ours, waiting=100))
    assert 100 < left <= written + 100
    theirs.recv(1 << 16)
    assert _sockets.untaken(Transport(ours)) == _sockets.untaken(Transport(ours, waiting=7)) - 7


def test_without_an_open_socket_only_the_transport_knows_what_is_untaken(ends):
    assert _sockets.untaken(Transport(None, waiting=3)) == 3
    ours, _ = ends
    filled(ours)
    ours.close()
    assert _sockets.untaken(Transport(ours, waiting=3)) == 3


def test_a_client_that_has_closed_has_hung_up_behind_bytes_that_nobody_reads(ends):
    ours, theirs = ends
    assert not _sockets.hung_up(Transport(ours))
    theirs.sendall(b"unread")
    theirs.close()
    assert _sockets.hung_up(Transport(ours))


def test_bytes_that_the_loop_has_not_given_us_are_readable(ends):
    ours, theirs = ends
    assert not _sockets.readable(Transport(ours))
    theirs.sendall(b"a")
    assert _sockets.readable(Transport(ours))


def test_nothing_is_known_of_a_transport_without_an_open_socket(ends):
    ours, theirs = ends
    theirs.sendall(b"a")
    theirs.close()
    ours.close()
    for transport in (Transport(None), Transport(ours)):
        assert not _sockets.readable(transport)
        assert not _sockets.hung_up(transport)


def test_a_close_that_is_made_a_reset_is_no_end_to_who_reads(ends):
    ours, theirs = ends
    _sockets.reset_on_close(Transport(ours))
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)


def test_who_has_no_connection_that_could_be_reset_is_left_alone(ends):
    ours, _ = ends
    ours.close()
    _sockets.reset_on_close(Transport(ours))
    _sockets.reset_on_close(Transport(None))
    one, other = socket.socketpair()
    with one, other:
        _sockets.reset_on_close(Transport(one))
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == bytes(8)
