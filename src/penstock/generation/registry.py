"""The generations of one worker: those that run, and those that have ended and stay readable.

What runs is bounded by ``max_bytes`` all together: past it, nothing new is begun.  What has ended is kept for
``kept_for`` seconds, in at most ``kept_bytes``; the one that ended first makes room.

A generation is found by its id, or by a **name** that somebody has bound to it: an idempotency key, the shape of
a request that may be repeated, a response's id.  Several may have one name.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator

from penstock.errors import Draining, Gone, HandedOver, Overloaded
from penstock.generation.log import Account, Generation, State
from penstock.messages import Call

OVERHEAD = 2_048  # bytes of a generation beside its events and its request
MAX_REMEMBERED = 10_000  # ids of which it is still known that they were there once, or half as many
_FAILED = State.FAILED


class Registry:
    """An owner of generations.

    :param max_bytes: all that run, with the requests that they answer; past it :meth:`create` refuses
    :param max_answer_bytes: one log
    :param now: the worker's monotonic clock
    :param kept_for: seconds after its end for which a log stays readable; 0: not at all
    :param kept_bytes: all that have ended
    """

    def __init__(
        self,
        max_bytes: int,
        max_answer_bytes: int,
        now: Callable[[], float],
        *,
        kept_for: float = 0.0,
        kept_bytes: int = 0,
    ) -> None:
        self.account = Account(max_bytes)
        self.max_answer_bytes = max_answer_bytes
        self.kept_for = kept_for
        self.kept_bytes = kept_bytes
        self.kept = 0  # bytes
        self._now = now
        self._running: dict[str, Generation] = {}  # and those that have ended and are being read
        self._ended: dict[str, Generation] = {}
        # The same in the order of their ends.  A dictionary looks for its first key among all that were deleted
        # before it, which with thousands of them takes microseconds.
        self._order: deque[Generation] = deque()
        self._deserted: dict[Generation, float] = {}  # until when somebody may come back
        self._patient = True
        self.give_up: Callable[[Generation], None] = Generation.abandon  # what nobody is waited for any more
        # Dictionaries, for thousands may have one name: requests that end alike do.
        self._names: dict[Hashable, dict[Generation, None]] = {}
        self._gone: dict[str, str] = {}  # id to tenant, of those that went last
        self._gone_before: dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"<Registry of {len(self)} running, {len(self._ended)} kept in {self.kept} bytes, {self.account}>"
        )

    def __len__(self) -> int:
        """How many run or are being read."""
        return len(self._running)

    def __iter__(self) -> Iterator[Generation]:
        """Those that run or are being read."""
        return iter(list(self._running.values()))

    @property
    def ended(self) -> int:
        """How many have ended and are kept."""
        return len(self._ended)

    def get(self, generation_id: str) -> Generation | None:
        return self._running.get(generation_id) or self._ended.get(generation_id)

    def was_there(self, generation_id: str, tenant: str) -> bool:
        """Whether this tenant had such a generation, which has been forgotten since."""
        return (self._gone.get(generation_id) or self._gone_before.get(generation_id)) == tenant

    def create(self, call: Call) -> Generation:
        """A new log for a call.

        :raises Overloaded: what runs holds ``max_bytes`` already
        """
        if self.account.held >= self.account.limit:
            raise Overloaded("too much is in flight at this gateway", retry_after=1.0)
        generation = Generation(  # by position: by name it takes twice as long
            call.id,
            call.endpoint,
            call.tenant.name,
            call.model,
            call.stream,
            call.received,
            self.max_answer_bytes,
            self.account,
            self,
            call,
        )
        self._running[generation.id] = generation
        return generation

    # ---- names ----

    def bind(self, generation: Generation, name: Hashable) -> None:
        """Let a generation be found by a name for as long as it is known here."""
        bound = self._names.setdefault(name, {})
        if generation not in bound:
            bound[generation] = None
            generation.names.append(name)

    def unbind(self, generation: Generation, name: Hashable) -> None:
        """Undo :meth:`bind`; nothing happens if it was not bound."""
        bound = self._names.get(name)
        if bound is None or generation not in bound:
            return
        generation.names.remove(name)
        del bound[generation]
        if not bound:
            del self._names[name]

    def named(self, name: Hashable) -> Collection[Generation]:
        """All of this name, the oldest first."""
        return self._names.get(name, ())

    # ---- Owner ----

    def deserted(self, generation: Generation) -> None:
        if generation.grace == math.inf or (generation.grace > 0 and self._waits_for(generation)):
            self._deserted[generation] = self._now() + generation.grace
        else:
            self.give_up(generation)

    def waiting(self) -> list[Generation]:
        """Those that run without a reader, and are given up unless one comes back in time."""
        return [generation for generation, until in self._deserted.items() if until < math.inf]

    def rejoined(self, generation: Generation) -> None:
        self._deserted.pop(generation, None)

    def released(self, generation: Generation) -> None:
        if self._running.get(generation.id) is not generation:
            return  # it was read once more, or another of its id has taken its place
        del self._running[generation.id]
        self._deserted.pop(generation, None)
        if not self.kept_for or not _worth_keeping(generation):
            self._forget(generation)
            return
        if not generation.names and not generation.background:
            generation.body = b""  # only a repetition would be compared with it
        self._ended[generation.id] = generation
        self._order.append(generation)
        self.kept += _weight(generation)
        generation.ended = self._now()
        while self.kept > self.kept_bytes:
            self._drop(self._order.popleft())

    def sweep(self, now: float) -> None:
        """Give up what nobody has come back for, and forget what has been kept long enough."""
        order = self._order
        while order and now - order[0].ended >= self.kept_for:
            self._drop(order.popleft())
        if self._deserted:
            for generation, until in list(self._deserted.items()):
                if now >= until:
                    self.wait_no_longer(generation)

    def wait_no_longer(self, generation: Generation) -> None:
        """Give up what runs without a reader, now; nothing happens if it has one, or is being given up already.

        What runs on without a reader by intention is left alone.
        """
        if self._deserted.get(generation, math.inf) < math.inf:
            del self._deserted[generation]
            self.give_up(generation)

    def hurry(self) -> None:
        """Wait for nobody any more: this process is going away.

        What runs without a reader by intention runs on; and what outlives this process does for as long as ever, for
        its readers may come back to another one.
        """
        self._patient = False
        for generation, until in list(self._deserted.items()):
            if until < math.inf and not self._waits_for(generation):
                del self._deserted[generation]
                generation.abandon()

    def _waits_for(self, generation: Generation) -> bool:
        return self._patient or generation.journal is not None

    def drop(self, generation_id: str) -> None:
        """Forget an ended generation now; nothing happens if it is not kept."""
        generation = self._ended.get(generation_id)
        if generation is not None:
            self._order.remove(generation)
            self._drop(generation)

    def delete(self, generation: Generation) -> None:
        """The same, also of one that runs or is being read: nobody finds it any more, and it will not be kept."""
        self.drop(generation.id)
        if self._running.pop(generation.id, None) is not None:
            self._deserted.pop(generation, None)
            self._note_gone(generation)

    def _drop(self, generation: Generation) -> None:
        del self._ended[generation.id]
        self.kept -= _weight(generation)
        self._note_gone(generation)

    def _note_gone(self, generation: Generation) -> None:
        gone = self._gone
        gone[generation.id] = generation.tenant
        if len(gone) >= MAX_REMEMBERED // 2:  # by halves: to find the oldest one each time would take longer
            self._gone_before, self._gone = gone, {}
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        names, generation.names = generation.names, []
        for name in names:
            bound = self._names[name]
            if len(bound) > 1:
                del bound[generation]
            else:
                del self._names[name]


def _worth_keeping(generation: Generation) -> bool:
    """Whether anybody can come back for it: an answer that streams has told its id, and a name is known to the
    caller.  A refusal need not be repeated, it can be asked for again, unless nobody has seen it yet.
    """
    if isinstance(generation.error, HandedOver):
        return False  # the store has it, and perhaps it goes on elsewhere
    if isinstance(generation.error, Gone):
        return False
    if generation.abandoned and (generation.restored or isinstance(generation.error, Draining)):
        return False  # it was only read here, or begun: the same
    if generation.background:
        return True
    if generation.state is _FAILED and not generation.events:
        return False
    return generation.stream or bool(generation.names)


def _weight(generation: Generation) -> int:
    return OVERHEAD + generation.size + len(generation.body) + len(generation.whole)
