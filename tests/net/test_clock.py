"""The one sweep that all deadlines share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
import uvloop

from penstock.net.clock import SWEEP_INTERVAL, Clock


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_what_came_while_the_process_stood_still_is_read_before_anybody_is_found_late(new_loop):
    class Listener:
        heard = False
        heard_at_sweep = None

        def hear(self):
            self.heard = True

        def sweep(self, now):
            if self.heard_at_sweep is None:
                self.heard_at_sweep = self.heard

    async def main(ours, theirs, busy, waking):
        loop, clock, listener = asyncio.get_running_loop(), Clock(), Listener()

        def stand_still():
            loop.remove_reader(busy)
            theirs.send(b"in time")
            over = time.monotonic() + 3 * SWEEP_INTERVAL
            while time.monotonic() < over:
                pass

        loop.add_reader(ours, listener.hear)
        loop.add_reader(busy, stand_still)
        clock.add(listener)
        clock.start(loop)
        waking.send(b"!")
        async with asyncio.timeout(60):
            while listener.heard_at_sweep is None:
                await asyncio.sleep(0.001)
        assert listener.heard_at_sweep
        clock.stop()
        loop.remove_reader(ours)

    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(sock) for _ in range(2) for sock in socket.socketpair()]
        for sock in sockets:
            sock.setblocking(False)
        stack.enter_context(asyncio.Runner(loop_factory=new_loop)).run(main(*sockets))
