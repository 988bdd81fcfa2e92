"""What the ledger costs on the way of a call: CPU of the event loop's thread for each attempt, opened and settled.

    python benchmarks/ledger.py [--rounds 30] [--attempts 2000] [--directory DIR]

Three rows: the book in memory alone; with the file that is written behind; and with the queue that keeps rows
when the process is killed, as it is.  They take turns, in ``--rounds`` rounds; the median and the best of them
are shown, in microseconds.  Between rounds the writer's thread writes what waits, which is not measured: on a
machine with other load the best is nearer to the truth.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from penstock.ledger.ledger import Ledger
from penstock.ledger.prices import Price, PriceTable
from penstock.ledger.sqlite import SQLiteStore
from penstock.messages import Attempt, Outcome, Usage

RESERVED = Usage(300, 500, estimated=True)
USED = Usage(310, 42, cached_input_tokens=128)


class Unqueued(SQLiteStore):
    """Rows wait in memory only."""

    def _make_queue(self) -> str:
        return ""


def attempts(numbers: Iterator[int], how_many: int) -> list[Attempt]:
    made = []
    for number in numbers:
        generation = f"gen_{number:032x}"
        made.append(
            Attempt(
                f"{generation}/1",
                generation,
                1,
                "acme",
                "production",
                "standard",
                "chat",
                "gpt-4o-mini",
                "openai",
                "gpt-4o-mini-2024-07-18",
                time.time(),
                RESERVED,
            )
        )
        if len(made) == how_many:
            break
    return made


def cost(ledger: Ledger, made: list[Attempt]) -> float:
    """Microseconds for each."""
    began = time.thread_time()
    for attempt in made:
        ledger.open(attempt)
        attempt.outcome = Outcome.COMPLETED
        attempt.usage = USED
        attempt.status = 200
        attempt.first_token = 0.123
        attempt.duration = 1.234
        ledger.settle(attempt)
    return (time.thread_time() - began) / len(made) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--attempts", type=int, default=2_000, help="in each round")
    parser.add_argument("--directory", type=Path, help="where the files are made; a temporary one by default")
    how = parser.parse_args()
    prices = PriceTable([Price(models=("*",), input=1, output=2)])
    with tempfile.TemporaryDirectory(dir=how.directory) as folder:
        kinds: dict[str, Callable[[], SQLiteStore | None]] = {
            "in memory": lambda: None,
            "written behind": lambda: Unqueued(Path(folder) / "behind.sqlite").start(),
            "with the queue": lambda: SQLiteStore(Path(folder) / "queued.sqlite").start(),
        }
        ledgers = {name: Ledger(prices, make()) for name, make in kinds.items()}
        costs: dict[str, list[float]] = {name: [] for name in kinds}
        numbers = count(1)
        for _ in range(how.rounds):
            for name, ledger in ledgers.items():
                made = attempts(numbers, how.attempts)
                costs[name].append(cost(ledger, made))
                if isinstance(ledger.store, SQLiteStore):
                    assert ledger.store.flush(60)
        for ledger in ledgers.values():
            if isinstance(ledger.store, SQLiteStore):
                ledger.store.close()
    print(f"Python {platform.python_version()}, {how.rounds} rounds of {how.attempts} attempts")
    print(f"{'':16}  median   best   (µs of the event loop's thread for each attempt)")
    for name, each in costs.items():
        print(f"{name:16}  {statistics.median(each):6.2f} {min(each):6.2f}")


if __name__ == "__main__":
    main()
