"""How far a step is, told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Tell(Protocol):
    """Who is told."""

    def __call__(self, doing: str, done: int, total: int) -> None:
        """``done`` of ``total`` pieces of ``doing`` are behind us; 0 of 0: nobody knows how many there are."""


def nobody(doing: str, done: int, total: int) -> None:
    """Is told, and does not listen."""


@contextmanager
def bars() -> Iterator[Tell]:
    """A bar in the terminal, on standard error, for each thing that is being done."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                if not console.is_terminal:
                    console.print(doing, highlight=False)
                tasks[doing] = progress.add_task(doing, total=total or None)
            progress.update(tasks[doing], completed=done, total=total or None)

        yield tell
