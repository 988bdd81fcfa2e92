"""How often an answer that broke is gone on with."""

import asyncio

import msgspec
from continuing import CHAT, CLOCKS, QUICK, error_of, events_of, text_of
from serving import DONE, STREAM_END, STREAM_HEAD, call, config, delta, frame, on_uvloop, serving, until

from penstock.config.model import CapabilitiesConfig, ContinuationConfig
from penstock.testing import ScriptedUpstream, Step

BODY = {"model": "m", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
BROKE = frame({"error": {"message": "no", "type": "insufficient_quota", "code": "insufficient_quota"}})
AGAIN = [Step.REQUEST, STREAM_HEAD + delta("b", "stop") + DONE + STREAM_END]


def test_an_upstream_that_it_is_of_no_use_to_ask_again_costs_no_try():
    """Its account is empty, so that only another one can go on."""

    async def main():
        delivered = asyncio.Event()
        first = [Step.REQUEST, STREAM_HEAD + delta("a"), delivered, BROKE]
        async with ScriptedUpstream([first]) as empty, ScriptedUpstream([AGAIN]) as other:
            settings = config(
                empty.url,
                other.url,
                retry=QUICK,
                timeouts=CLOCKS,
                continuation=ContinuationConfig(attempts=1),
            )
            able = CapabilitiesConfig(prefill="continue_final_message")
            for name, upstream in settings.upstreams.items():
                settings.upstreams[name] = msgspec.structs.replace(upstream, capabilities=able)
            async with serving(settings) as (gateway, port):
                calling = asyncio.ensure_future(call(port, BODY, CHAT))
                await until(lambda: any(one.readable for one in gateway.pipeline.registry))
                delivered.set()
                return await calling

    events = events_of(on_uvloop(main))
    assert (text_of(CHAT, [each for each in events if "error" not in each]), error_of(events)) == ("ab", None)
