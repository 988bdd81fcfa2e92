"""Calls that are under way when a gateway hears what time it is for all who share its cache."""

import asyncio
import time

import pytest
from keeping import ASKED, settings
from serving import COMPLETION, asked, call, on_uvloop, plain, serving, until

from penstock.cache.cache import EVERYTHING
from penstock.cache.shared_clock import SharedClock
from penstock.testing import ScriptedUpstream, Step

HOUR = 3_600.0


def heard(clock):
    """The server, whose clock is right, has told its time."""
    now = clock.monotonic()
    clock.heard(time.time(), now, now, 0.0)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
@pytest.mark.parametrize(("purged", "times"), [(True, 2), (False, 1)])
def test_what_was_asked_before_another_machine_purged_is_no_answer_whenever_the_time_was_agreed(
    ahead, purged, times
):
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain(COMPLETION), Step.REQUEST, plain(COMPLETION)]
        async with ScriptedUpstream([script]) as upstream, serving(settings(upstream.url)) as (gateway, port):
            cache, clock = gateway.cache, SharedClock(lambda: time.time() + ahead)
            cache._clock, cache.now, cache.memory._now = clock, clock.now, clock.now
            clock.agreed = cache._agreed
            first = asyncio.ensure_future(call(port, ASKED))
            await until(lambda: asked(upstream) == 1)
            heard(clock)
            if purged:
                cache._learn({EVERYTHING: clock.latest()})
            go_on.set()
            assert (await first).status == 200
            await call(port, ASKED)
            assert asked(upstream) == times

    on_uvloop(main)
