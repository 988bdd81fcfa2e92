"""LMDB or SQLite for the disk tier: what a look-up costs, what a batch of entries costs, and what damage does.

``python -m benchmarks.cache.disk`` needs the package ``lmdb`` beside the test dependencies.  Each look-up is timed
alone in its thread, so without the way to that thread and back, which is the same for both.  Damage is done
to a copy that a process of its own reads: what becomes of that process is the result.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

ENTRIES, SIZE, BATCH = 20_000, 2_000, 64

_READ = {
    "LMDB": """
import lmdb, sys
with lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False) as database:
    bad = 0
    with database.begin() as transaction:
        for number in range({entries}):
            try:
                transaction.get(number.to_bytes(32, 'big'))
            except lmdb.Error:
                bad += 1
print(bad)
""",
    "SQLite": """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
bad = 0
for number in range({entries}):
    try:
        database.execute('SELECT sealed FROM entries WHERE key = ?', (number.to_bytes(32, 'big'),)).fetchone()
    except sqlite3.Error:
        bad += 1
print(bad)
""",
}


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class LMDB:
    def __init__(self, path: Path) -> None:
        self.database = lmdb.open(str(path), subdir=False, map_size=1 << 30, lock=True)

    def put(self, first: int, count: int) -> None:
        with self.database.begin(write=True) as transaction:
            for number in range(first, first + count):
                transaction.put(key(number), os.urandom(SIZE))

    def get(self, number: int) -> bytes | None:
        with self.database.begin() as transaction:
            return transaction.get(key(number))

    def close(self) -> None:
        self.database.close()


class SQLite:
    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute("CREATE TABLE entries (row INTEGER PRIMARY KEY, key BLOB UNIQUE, sealed BLOB)")

    def put(self, first: int, count: int) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        for number in range(first, first + count):
            self.database.execute(
                "INSERT OR REPLACE INTO entries (key, sealed) VALUES (?, ?)", (key(number), os.urandom(SIZE))
            )
        self.database.execute("COMMIT")

    def get(self, number: int) -> bytes | None:
        row = self.database.execute("SELECT sealed FROM entries WHERE key = ?", (key(number),)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.close()


def timed(act: Callable[[int], object], numbers: Iterator[int]) -> tuple[float, float]:
    """µs of CPU and of time of each."""
    count = 0
    cpu, wall = time.thread_time(), time.perf_counter()
    for number in numbers:
        act(number)
        count += 1
    return (time.thread_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut to half":
        os.truncate(path, len(data) // 2)
        return
    rand = random.Random(how)
    for _ in range(len(data) // 4_096):
        data[rand.randrange(8_192, len(data))] ^= 1 << rand.randrange(8)
    path.write_bytes(data)


def fate(kind: str, path: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", _READ[kind].format(entries=ENTRIES), str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if run.returncode < 0:
        return f"**killed by signal {-run.returncode}**"
    return (
        f"{run.stdout.strip()} errors" if run.returncode == 0 else "refused: " + run.stderr.splitlines()[-1]
    )


def main() -> None:
    print(f"{ENTRIES:,} entries of {SIZE:,} bytes; load {os.getloadavg()[0]:.1f}\n")
    print(
        "| | put, µs CPU / elapsed each, by 64 | get, µs CPU | absent, µs CPU | MB | one bit a page | cut to half |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind in (LMDB, SQLite):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "cache"
            database = kind(path)
            put_cpu, put = timed(functools.partial(database.put, count=BATCH), iter(range(0, ENTRIES, BATCH)))
            rand = random.Random(1)
            get, _ = timed(database.get, (rand.randrange(ENTRIES) for _ in range(50_000)))
            absent, _ = timed(database.get, (rand.randrange(1 << 60, 1 << 61) for _ in range(50_000)))
            database.close()
            fates = []
            for how in ("one bit a page", "cut to half"):
                copy = path.with_name("copy")
                for suffix in ("-wal", "-shm", "-lock"):
                    with contextlib.suppress(FileNotFoundError):
                        copy.with_name("copy" + suffix).unlink()
                shutil.copy(path, copy)
                damaged(copy, how)
                fates.append(fate(kind.__name__, copy))
            print(
                f"| {kind.__name__} | {put_cpu / BATCH:.1f} / {put / BATCH:.1f} | {get:.1f} | {absent:.1f} "
                f"| {path.stat().st_blocks * 512 / 1e6:.0f} | {' | '.join(fates)} |"
            )


if __name__ == "__main__":
    main()
