"""The generations of one worker, by id, and the bound on what they may hold together."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.errors import Overloaded
from penstock.generation.log import Account, Generation
from penstock.messages import Call


class Registry:
    """Generations from their start until they have ended and their last reader has left.

    :param max_bytes: all logs together, with the requests that they answer; past it :meth:`create` refuses
    :param max_answer_bytes: one log
    """

    def __init__(self, max_bytes: int, max_answer_bytes: int) -> None:
        self.account = Account(max_bytes)
        self.max_answer_bytes = max_answer_bytes
        self._generations: dict[str, Generation] = {}

    def __repr__(self) -> str:
        return f"<Registry of {len(self)} generations, {self.account}>"

    def __len__(self) -> int:
        return len(self._generations)

    def __iter__(self) -> Iterator[Generation]:
        return iter(list(self._generations.values()))

    def get(self, generation_id: str) -> Generation | None:
        return self._generations.get(generation_id)

    def create(self, call: Call) -> Generation:
        """A new log for a call.

        :raises Overloaded: the logs in flight and their requests hold ``max_bytes`` already
        """
        if self.account.held >= self.account.limit:
            raise Overloaded("too much is in flight at this gateway", retry_after=1.0)
        generation = Generation(
            call.id,
            endpoint=call.endpoint,
            tenant=call.tenant.name,
            model=call.model,
            stream=call.stream,
            started=call.received,
            max_bytes=self.max_answer_bytes,
            account=self.account,
            release=self._release,
            prompt_bytes=len(call.body),
        )
        self._generations[generation.id] = generation
        return generation

    def _release(self, generation: Generation) -> None:
        self._generations.pop(generation.id, None)
