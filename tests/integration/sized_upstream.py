"""An upstream whose events are as large as its caller asks: a chat completion's last message says how large."""

from __future__ import annotations

import asyncio
import json
import threading

_TEXT = "Wasser läuft durch das Druckrohr, 水は水圧管を流れる, 🐟 swims along. "


def texts(sizes):
    """What the upstream says: pieces of so many characters, none of which is like another."""
    return [(f"{number}:" + _TEXT * (size // len(_TEXT) + 1))[:size] for number, size in enumerate(sizes)]


def frames(sizes):
    """The events of an answer, as they come from the upstream."""
    base = {"id": "chatcmpl-sized", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def frame(delta, finish=None):
        chunk = {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"

    said = [frame({"content": text}) for text in texts(sizes)]
    return [frame({"role": "assistant", "content": ""}), *said, frame({}, "stop"), b"data: [DONE]\n\n"]


def asking(sizes, key):
    """Messages that ask for such an answer; ``key`` tells it from others."""
    return [{"role": "user", "content": json.dumps({"sizes": sizes, "key": key})}]


class SizedUpstream:
    """A server in a thread of its own; a context manager.

    :param pause: seconds between two events
    """

    def __init__(self, pause=0.001):
        self.pause = pause
        self.url = ""
        self.calls = 0
        self.sent = set()  # keys of answers that have been sent whole
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server = None

    def __enter__(self):
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _start(self):
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _stop(self):
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                await self._answer(writer, json.loads(body["messages"][-1]["content"]))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer, asked):
        self.calls += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for frame in frames(asked["sizes"]):
            writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await writer.drain()
            await asyncio.sleep(self.pause)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.sent.add(asked["key"])
