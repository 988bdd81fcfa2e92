"""An upstream of the benchmarks that is slow, and counts: one task a connection, one call at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


class SlowUpstream(ABC):
    """Its subclasses say how slow; ``present`` calls are there now."""

    def __init__(self) -> None:
        self.present = 0
        self._serving: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Nobody asks any more."""
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes on this connection until it ends."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(length_of(head))
                    self.present += 1
                    try:
                        await self._answer(writer)
                    finally:
                        self.present -= 1
        finally:
            await closed(writer)

    @abstractmethod
    async def _answer(self, writer: asyncio.StreamWriter) -> None: ...


def plain(headers: bytes = b"") -> bytes:
    """A whole answer; ``headers`` are lines with their ends."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (
        headers,
        len(ANSWER),
        ANSWER,
    )


def length_of(head: bytes) -> int:
    """How long the body is that follows."""
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other side has done."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def status_of(port: int, body: bytes) -> int:
    """The status of the answer to one call of ours, on a connection of its own.

    :raises OSError: the connection broke
    :raises EOFError: it was closed before the answer's end
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(length_of(head))
        return int(head.split()[1])
    finally:
        await closed(writer)
