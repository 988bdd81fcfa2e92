"""Two network namespaces with a link between them that is far, narrow and loses packets: real TCP over real packets.

The link is one process with a TUN device in each namespace.  A packet leaves when the link has carried those
before it, is dropped if the queue is full, by chance, or because it is too large (and nobody is told), and arrives ``delay`` later.  Needs root, and Linux's
``tun``; no netem.  ``python -m benchmarks.network.tunnel NAME`` is that process; it ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
MTU = 1_500
ADDRESSES = {"client": "10.77.0.1", "server": "10.77.0.2"}
_QUEUE_SECONDS = 0.1  # that a packet waits for the link at most


def names(name):
    return {side: f"{name}-{side}" for side in ADDRESSES}


@contextmanager
def namespaces(name, *, delay, rate, loss=0.0, seed=1, largest=MTU, congestion=""):
    """Two namespaces, linked; what to put before a command to run it in each.

    :param delay: seconds, one way
    :param rate: bytes per second, each way
    :param loss: share of the packets
    :param largest: bytes of a packet that gets through; both sides believe that ``MTU`` do
    :param congestion: how TCP answers to losses, such as ``cubic``; empty: as on this machine
    """
    spaces = names(name)
    link = None
    try:
        for space in spaces.values():
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
        words = [sys.executable, "-m", "benchmarks.network.tunnel", name]
        link = subprocess.Popen(
            [*words, str(delay), str(rate), str(loss), str(seed), str(largest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert link.stdout.readline() == "ready\n"
        for side, space in spaces.items():
            other = ADDRESSES["server" if side == "client" else "client"]
            _ip("-n", space, "addr", "add", ADDRESSES[side], "peer", other, "dev", "tun0")
            _ip("-n", space, "link", "set", "tun0", "up", "mtu", str(MTU), "txqueuelen", "1000")
            if congestion:  # by the route, as a namespace may not choose all that the machine has
                _ip("-n", space, "route", "replace", other, "dev", "tun0", "congctl", congestion)
        yield {side: ["ip", "netns", "exec", space] for side, space in spaces.items()}
    finally:
        if link is not None:
            link.stdin.close()
            link.wait(10)
            link.stdout.close()
        for space in spaces.values():
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _tun(space):
    """A TUN device in this namespace, as a descriptor that can be used from anywhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{space}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        if libc.setns(own, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        return device
    finally:
        os.close(own)
        os.close(there)


def carry(name, delay, rate, loss, seed, largest):
    """Be the link."""
    client, server = (_tun(space) for space in names(name).values())
    other = {client: server, server: client}
    free = {client: 0.0, server: 0.0}
    rand = random.Random(seed).random
    waiting = []
    number = 0
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(waiting)
            try:
                os.write(device, packet)
            except (BlockingIOError, OSError):
                pass  # its queue is full, or the device is not up yet
        wait = max(waiting[0][0] - now, 0) if waiting else None
        readable, _, _ = select.select([client, server, sys.stdin], [], [], wait)
        if sys.stdin in readable:
            return
        for device in readable:
            for _ in range(64):
                try:
                    packet = os.read(device, 65_536)
                except (BlockingIOError, OSError):
                    break
                now = time.monotonic()
                begins = max(free[device], now)
                if len(packet) > largest or begins - now > _QUEUE_SECONDS or (loss and rand() < loss):
                    continue
                free[device] = begins + len(packet) / rate
                number += 1
                heapq.heappush(waiting, (free[device] + delay, number, other[device], packet))


if __name__ == "__main__":
    carry(sys.argv[1], *map(float, sys.argv[2:5]), *map(int, sys.argv[5:]))
