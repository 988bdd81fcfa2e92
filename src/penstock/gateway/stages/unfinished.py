"""An answer that broke: where it stands, whether it lacks more than its end, and who can go on with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from penstock.errors import HandedOver, UpstreamBroken
from penstock.gateway.stages.candidate import Candidate, has_room
from penstock.generation.log import Generation
from penstock.messages import Call, Event, Usage
from penstock.upstream.ladder import How, Point, rungs
from penstock.upstream.streamed import StreamTransfer
from penstock.upstream.transfer import Transfer
from penstock.wire import delivered
from penstock.wire.conversation import Finished, PartEnded
from penstock.wire.demand import demand

log = logging.getLogger("penstock.gateway")


class Step(msgspec.Struct, frozen=True, eq=False):
    """One way to go on with a broken answer."""

    candidate: Candidate
    how: How


class TakenUp(NamedTuple):
    """An answer that a process was receiving which is no more, from a run that its upstream keeps.

    :param transfer: reads on there
    :param enter_died: enters in the ledger what that process had received, if nobody reads on
    :param enter_whole: says that a row is open which will have all of the run, and that process's is to have nothing
    """

    candidate: Candidate
    transfer: StreamTransfer
    enter_died: Callable[[], object]
    enter_whole: Callable[[], object]


async def is_ours(generation: Generation) -> bool:
    """Whether it is this process's to go on with, as far as its store tells in time."""
    return generation.journal is None or await generation.journal.wait_confirmed()


def is_read_on(generation: Generation, transfer: Transfer) -> bool:
    """Whether another process may read on in the upstream's run; one that only ended it there has ended that, too."""
    is_kept = isinstance(transfer, StreamTransfer) and transfer.run is not None
    return is_kept and generation.readable > 0 and isinstance(generation.error, HandedOver)


def point_of(call: Call, generation: Generation, prompt: Usage | None) -> Point | None:
    """Where it broke; None: nothing can be added to what is there.

    It has an encoder that goes on with the log, so it is good for one try.

    :param prompt: what the prompt cost, if the upstream that began the answer has told
    """
    if call.endpoint.opaque:
        return None
    try:
        has = delivered.read(call.endpoint, generation.events, include_usage=call.include_usage)
    except UpstreamBroken as unreadable:
        log.info("%s: %s", generation.id, unreadable.message)
        return None
    wanted = demand(call.endpoint, call.fields)
    return Point(has, wanted, delivered.token_ids(call.endpoint, generation.events), prompt)


def close(call: Call, generation: Generation, now: float) -> bool:
    """End a log that lacks nothing but its end: every finish reason came, so no word is missing.

    :returns: whether it was
    """
    missing = delivered.closing(
        call.endpoint,
        generation.events,
        demand(call.endpoint, call.fields).choices,
        generation.usage or Usage(),
        include_usage=call.include_usage,
    )
    if missing is None:
        return False
    generation.append(missing, now)
    return True


def stop_at_limit(
    call: Call, generation: Generation, point: Point, now: float, *, ours: bool = False
) -> bool:
    """End a log that has as many tokens as its caller allows: there is nothing left to ask for.

    :param ours: whether a figure of ours will do, which may be too high, for want of the upstream's own:
        where nothing is left but to ask for one token, which is likely to be one too many
    :returns: whether it was
    """
    used, limit = generation.usage, call.max_output_tokens
    if limit is None or point.demand.choices != 1:
        return False
    told = used is not None and not used.estimated
    if used is not None and not (used.output_tokens >= limit if told else ours):
        return False
    has = point.delivered
    if used is None or not told:  # only what the log itself says is known
        if has.output_tokens < limit or not (has.exact or ours):
            return False
        known = used or has.prompt or point.prompt or Usage()
        used = msgspec.structs.replace(known, output_tokens=has.output_tokens, estimated=not has.exact)
    frames: list[Event] = []
    if has.said and not has.said[-1].ended:
        frames += has.encoder.feed(PartEnded())
    frames += has.encoder.feed(Finished("length", used))
    generation.append(frames, now)
    return True


def steps(
    call: Call,
    point: Point,
    candidates: Sequence[Candidate],
    begun_by: str,
    slow: tuple[str, str] | None,
    now: float,
) -> list[Step]:
    """Every way to go on with an answer as it stands, in the order in which they are tried.

    :param begun_by: the model that began it
    :param slow: upstream and model that were silent or slow; None: nobody was
    """
    point = _as_asked(call, point, candidates)
    usual: list[Step] = []
    late: list[Step] = []  # who was slow had its time; who is full would make the caller wait
    for candidate in candidates:
        upstream = candidate.upstream
        if upstream.departure is not None:
            continue
        ways = rungs(
            point,
            upstream.encoder.endpoint_for_more(call),
            upstream.capabilities(candidate.model),
            same_model=candidate.model == begun_by,
            prompt=candidate.continuation.prompt,
        )
        waits = slow == (upstream.name, candidate.model) or not has_room(candidate, now)
        (late if waits else usual).extend(Step(candidate, how) for how in ways)
    return usual + late


def _as_asked(call: Call, point: Point, candidates: Sequence[Candidate]) -> Point:
    """The same answer comes again only where what makes it the same is said: with ``leave_out`` it may not be."""
    unsaid = {name for one in candidates for name in one.upstream.config.leave_out}
    if unsaid.isdisjoint(call.fields):
        return point
    before = point.demand
    asked = demand(call.endpoint, {name: each for name, each in call.fields.items() if name not in unsaid})
    return msgspec.structs.replace(
        point,
        demand=msgspec.structs.replace(
            before,
            deterministic=before.deterministic and asked.deterministic,
            greedy=before.greedy and asked.greedy,
        ),
    )
