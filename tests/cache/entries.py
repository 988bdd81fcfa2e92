"""Entries and keys for tests, and what a tier has."""

import asyncio
import hashlib
import socket

from penstock.cache.entry import Entry
from penstock.messages import Usage

NOW = 1_700_000_000.0


def a_key(name):
    return hashlib.sha256(str(name).encode()).digest()


def got(tier, key):
    """What a tier, or its guard, has under a key."""
    found = asyncio.get_running_loop().create_future()

    def then(answer):
        if found.done():
            return
        if isinstance(answer, OSError):
            found.set_exception(answer)
        else:
            found.set_result(answer)

    tier.get(key, then)
    return found


def an_entry(text="hello", *, now=NOW, ttl=300.0, **more):
    members = {
        "endpoint": "chat",
        "model": "m",
        "upstream": "u",
        "upstream_model": "um",
        "stream": False,
        "include_usage": False,
        "running_usage": False,
        "headers": ((b"x-request-id", b"r1"),),
        "events": (text.encode() if isinstance(text, str) else text,),
        "usage": Usage(7, 3),
        "cost": 5,
        "asked": now,
        "stored": now,
        "fresh_until": now + ttl,
        "kept_until": now + ttl,
        "tags": ("tenant:a",),
    }
    return Entry(**{**members, **more})


def emptied(server):
    """A Redis server that has forgotten what other tests told it."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"FLUSHALL\r\n")
        assert sock.recv(100) == b"+OK\r\n"
    return server


class Wall:
    """A clock on the wall that stands still."""

    def __init__(self, now=NOW):
        self.time = now

    def __call__(self):
        return self.time
