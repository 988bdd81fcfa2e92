"""A real local model behind a link that is cut after each of an answer's tokens, and who then goes on with it."""

import asyncio
import contextlib
import itertools

import msgspec
import pytest
from continuing import CHAT, QUICK, check_form, events_of, text_of
from serving import call, config, on_uvloop, rows, serving

from penstock.config.model import LocalConfig, UpstreamConfig
from penstock.engine.serve import EngineService, load
from penstock.lab.faults import Break, FaultProxy, Kind
from penstock.lab.serve import bind
from penstock.messages import Outcome

pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is not installed")

TOKENS = 12
ASKED = {
    "model": "m",
    "messages": [{"role": "user", "content": "漢字 🙂 What is json.dumps?"}],
    "max_tokens": TOKENS,
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "stream_options": {"include_usage": True},
}
STEP = 150  # bytes; an event is longer than that
MODEL = LocalConfig(threads=1, exact=True, slots=4, cache_bytes=16_000_000, prefix_cache=False)


@contextlib.asynccontextmanager
async def engine():
    service = EngineService(lambda: load(MODEL), MODEL, ("m",))
    sock = bind("127.0.0.1", 0)
    await service.start(sock)
    await service.engine.loaded()
    try:
        yield sock.getsockname()[1]
    finally:
        await service.close()


async def answered(port, breaks=(), others=()):
    """What a caller gets of the model at ``port``, text and tokens; the ledger; bytes of the model's own answer.

    :param others: ports of other models, which are asked where the first one cannot be reached any more
    """
    with FaultProxy("127.0.0.1", port, breaks=breaks) as link:
        settings = config(link.url, *(f"http://127.0.0.1:{other}" for other in others), retry=QUICK)
        upstreams = {
            name: UpstreamConfig(kind="local", base_url=upstream.base_url)
            for name, upstream in settings.upstreams.items()
        }
        async with serving(msgspec.structs.replace(settings, upstreams=upstreams)) as (gateway, door):
            answer = await call(door, ASKED)
            events = events_of(answer)
            check_form(CHAT, events[:-2] + events[-1:])  # the last but one has the usage alone
            told = text_of(CHAT, events), events[-2]["usage"]["completion_tokens"]
            return told, rows(gateway), link.figures.bytes_down


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same", "another"])
def test_an_answer_that_is_cut_at_any_token_is_the_uncut_one(elsewhere):
    async def main():
        async with engine() as first, engine() as second:
            uncut, _, size = await answered(first)
            assert uncut[1] == TOKENS
            cuts = set()
            for after in range(STEP, size, STEP):
                # Nobody gets through to the first one again, where another one is to go on.
                dead = itertools.repeat(Break(Kind.RESET, 1, "up")) if elsewhere else ()
                broken = itertools.chain([Break(Kind.RESET, after, "down")], dead)
                told, ledger, _ = await answered(first, broken, [second] if elsewhere else [])
                assert told == uncut
                begun, last = ledger[0], ledger[-1]
                cuts.add(begun.usage.output_tokens)
                if 0 < begun.usage.output_tokens < TOKENS:
                    assert (begun.outcome, last.outcome) == (Outcome.PARTIAL, Outcome.CONTINUED)
                    assert last.upstream == ("up1" if elsewhere else "up0")
                    assert begun.usage.output_tokens + last.usage.output_tokens == TOKENS
            assert cuts >= set(range(1, TOKENS)), "not every place was tried"

    on_uvloop(lambda: asyncio.wait_for(main(), 300))
