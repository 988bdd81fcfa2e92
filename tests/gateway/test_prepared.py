"""Kept answers as the bytes that go out: those that a reading writes, however they are made."""

import msgspec
import pytest
from gateway_doubles import a_call
from keeping import answering, gateway_of
from serving import COMPLETION, DONE, delta, on_uvloop

from penstock.cache.entry import Entry
from penstock.gateway import prepared as module
from penstock.gateway.prepared import prepared
from penstock.messages import Endpoint, Usage

KEY = b"k" * 32
EVENTS = tuple(
    chunk.partition(b"\r\n")[2].removesuffix(b"\r\n")
    for chunk in (delta("h"), delta("i"), delta("", "stop", usage=(3, 2)), DONE)
)
PLAIN = (msgspec.json.encode(COMPLETION),)


def an_answer(events, *, stream, headers=(), **more):
    return Entry(
        "chat", "m", "u", "um", stream, more.get("include_usage", False), False, tuple(headers), events,
        Usage(3, 2), 0, 1.0, 2.0, 300.0, 300.0, (),
    )  # fmt: skip


def through_a_reading(monkeypatch, *what):
    with monkeypatch.context() as patch:
        patch.setattr(module, "shows_as_made", lambda *_: False)
        return prepared(*what)


def parts(answer):
    """Fields in any order, and the body; the one that writes may add its own at the end or at the beginning."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return sorted(head.split(b"\r\n")), body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(
    "headers",
    [(), ((b"x-request-id", b"r1"),), ((b"x-a", b"1"), (b"x-a", b"2"))],
    ids=["none", "one", "one twice"],
)
def test_an_answer_in_the_form_in_which_it_was_made_is_the_one_that_a_reading_gives(
    stream, pieces, headers, monkeypatch
):
    events = EVENTS if stream else PLAIN
    if not stream and pieces > 1:
        events = (events[0][:7], events[0][7:9], events[0][9:])
    elif stream:
        events = events[-pieces:]

    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            call = msgspec.structs.replace(a_call(), stream=stream)
            what = gateway.pipeline.lookup, call, KEY, an_answer(events, stream=stream, headers=headers)
            answer = prepared(*what)
            assert parts(answer) == parts(through_a_reading(monkeypatch, *what))
            assert answer.count(b"x-a: ") == (2 if len(headers) == 2 else 0)

    on_uvloop(main)


def test_an_answer_that_is_too_long_is_not_prepared():
    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            long = an_answer((b"x" * (module.MOST_BYTES + 1),), stream=False)
            assert prepared(gateway.pipeline.lookup, a_call(), KEY, long) is None

    on_uvloop(main)


@pytest.mark.parametrize(("pieces", "is_prepared"), [(2_000, True), (20_000, False)])
def test_a_stream_is_folded_at_once_for_a_plain_caller_unless_that_takes_long(pieces, is_prepared):
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'

    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            entry = an_answer((*[piece] * pieces, *EVENTS), stream=True)
            answer = prepared(gateway.pipeline.lookup, a_call(), KEY, entry)
            assert (answer is not None) == is_prepared
            if answer is not None:
                assert b'"content":"%b' % (b"a" * pieces) in answer

    on_uvloop(main)


def test_an_answer_that_cannot_be_told_in_the_form_that_is_wanted_is_not_prepared():
    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            broken = an_answer((b"no JSON",), stream=False)
            call = msgspec.structs.replace(a_call(), stream=True)
            assert prepared(gateway.pipeline.lookup, call, KEY, broken) is None

    on_uvloop(main)


@pytest.mark.parametrize("told", [(True, False), (False, True)])
def test_usage_is_told_as_the_caller_wants_it(told, monkeypatch):
    wants, has = told

    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            call = msgspec.structs.replace(a_call(), stream=True, include_usage=wants)
            what = gateway.pipeline.lookup, call, KEY, an_answer(EVENTS, stream=True, include_usage=has)
            assert prepared(*what) == through_a_reading(monkeypatch, *what)

    on_uvloop(main)


@pytest.mark.parametrize("endpoint", [Endpoint.MODERATIONS, Endpoint.RERANK])
def test_what_is_relayed_as_bytes_keeps_its_own_type(endpoint, monkeypatch):
    async def main():
        async with gateway_of([answering()]) as (gateway, _, _, _):
            call = msgspec.structs.replace(a_call(), endpoint=endpoint)
            kept = an_answer(PLAIN, stream=False, headers=((b"content-type", b"application/json; x=1"),))
            answer = prepared(gateway.pipeline.lookup, call, KEY, kept)
            assert answer.count(b"content-type: ") == 1
            assert b"content-type: application/json; x=1\r\n" in answer

    on_uvloop(main)
