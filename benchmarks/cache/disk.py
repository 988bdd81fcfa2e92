"""What the disk tier could stand on: LMDB, SQLite, and libraries for caches on a disk.

``python -m benchmarks.cache.disk`` needs the packages ``lmdb``, ``diskcache``, ``cachelib`` and ``rocksdict`` and
nothing else.  What is counted is processor time, of all threads: of an entry that is put with 63 others, of one that is
found, of one that is not there, and of both where four processes do so at the same time; the median of the rounds, in
which the candidates take turns.  A look-up is without the way to a thread and back, which is the same for all.

Then a process that writes is killed, ten times, and another one looks for what was written by then.  At last damage is
done to a copy: the process that reads that says what it finds, or what becomes of it is the result.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import cachelib
import diskcache
import lmdb
import rocksdict

ENTRIES, SIZE, BATCH, LOOK_UPS = 20_000, 2_000, 64, 20_000
PROCESSES, KILLS = 4, 10
_PAGE = 4_096
_ROOM = 1 << 30
_TEXT = random.Random(7).randbytes(1 << 20)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def value(number: int) -> bytes:
    """Of an entry: it cannot be compressed, and no other has it."""
    begin = number * 7_919 % (len(_TEXT) - SIZE)
    return key(number) + _TEXT[begin : begin + SIZE - 32]


class Store(Protocol):
    def __init__(self, path: Path) -> None: ...
    def put(self, numbers: range) -> None: ...
    def get(self, number: int) -> bytes | None: ...
    def close(self) -> None: ...


class LMDB:
    def __init__(self, path: Path) -> None:
        self.database = lmdb.open(str(path), subdir=False, map_size=_ROOM, lock=True)

    def put(self, numbers: range) -> None:
        with self.database.begin(write=True) as transaction:
            for number in numbers:
                transaction.put(key(number), value(number))

    def get(self, number: int) -> bytes | None:
        with self.database.begin() as transaction:
            return transaction.get(key(number))

    def close(self) -> None:
        self.database.close()


class SQLite:
    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None, timeout=60)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS entries (row INTEGER PRIMARY KEY, key BLOB UNIQUE, sealed BLOB)"
        )

    def put(self, numbers: range) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        for number in numbers:
            self.database.execute(
                "INSERT OR REPLACE INTO entries (key, sealed) VALUES (?, ?)", (key(number), value(number))
            )
        self.database.execute("COMMIT")

    def get(self, number: int) -> bytes | None:
        row = self.database.execute("SELECT sealed FROM entries WHERE key = ?", (key(number),)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.database.close()


class DiskCache:
    """SQLite beneath: a table of its own, with triggers that count."""

    def __init__(self, path: Path) -> None:
        self.cache = diskcache.Cache(str(path), size_limit=_ROOM, eviction_policy="least-recently-stored")

    def put(self, numbers: range) -> None:
        with self.cache.transact(retry=True):
            for number in numbers:
                self.cache.set(key(number), value(number), retry=True)

    def get(self, number: int) -> bytes | None:
        return self.cache.get(key(number), retry=True)

    def close(self) -> None:
        self.cache.close()


class CacheLib:
    """A file for each entry."""

    def __init__(self, path: Path) -> None:
        self.cache = cachelib.FileSystemCache(str(path), threshold=0, default_timeout=0)

    def put(self, numbers: range) -> None:
        for number in numbers:
            self.cache.set(key(number).hex(), value(number))

    def get(self, number: int) -> bytes | None:
        return self.cache.get(key(number).hex())

    def close(self) -> None:
        pass


class RocksDB:
    def __init__(self, path: Path) -> None:
        self.database = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))

    def put(self, numbers: range) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for number in numbers:
            batch.put(key(number), value(number))
        self.database.write(batch)

    def get(self, number: int) -> bytes | None:
        return self.database.get(key(number))

    def close(self) -> None:
        self.database.close()


KINDS: dict[str, type[Store]] = {
    "LMDB": LMDB,
    "SQLite": SQLite,
    "diskcache": DiskCache,
    "cachelib": CacheLib,
    "RocksDB": RocksDB,
}


# ---- processor time ----


def timed(act: Callable[[], int]) -> float:
    """µs of each of so many things that were done."""
    began = time.process_time()
    count = act()
    return (time.process_time() - began) / count * 1e6


def filled(store: Store, first: int = 0, count: int = ENTRIES) -> int:
    for begin in range(first, first + count, BATCH):
        store.put(range(begin, min(begin + BATCH, first + count)))
    return count


def looked_up(store: Store, numbers: Iterator[int], *, is_there: bool) -> int:
    for number in numbers:
        if (store.get(number) is None) is is_there:
            raise RuntimeError(f"{store!r}: entry {number} should{' not' * (not is_there)} be there")
    return LOOK_UPS


def alone(kind: type[Store], path: Path) -> tuple[float, float, float]:
    """µs of an entry put, found, and not found."""
    store = kind(path)
    rand = random.Random(1)
    there = [rand.randrange(ENTRIES) for _ in range(LOOK_UPS)]
    absent = [rand.randrange(1 << 60, 1 << 61) for _ in range(LOOK_UPS)]
    put = timed(lambda: filled(store))
    found = timed(lambda: looked_up(store, iter(there), is_there=True))
    missed = timed(lambda: looked_up(store, iter(absent), is_there=False))
    store.close()
    return put, found, missed


def together(name: str, path: Path) -> float | str:
    """µs of an entry put and found, by each of several processes; or what one of them says."""
    running = [child(name, path, "both", number) for number in range(PROCESSES)]
    told = [one.communicate(timeout=600) for one in running]
    for one, (_, said) in zip(running, told, strict=True):
        if one.returncode:
            return said.splitlines()[-1][:80]
    return sum(float(out) for out, _ in told) / PROCESSES


def both(kind: type[Store], path: Path, number: int) -> float:
    store = kind(path)
    count = ENTRIES // PROCESSES
    first = number * count

    def act() -> int:
        for begin in range(first, first + count, BATCH):
            numbers = range(begin, min(begin + BATCH, first + count))
            store.put(numbers)
            for each in numbers:
                assert store.get(each) == value(each)
        return count

    taken = timed(act)
    store.close()
    return taken


# ---- kills, and damage ----


def child(name: str, path: Path, act: str, number: int = 0) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "benchmarks.cache.disk", "--act", act, "--kind", name]
    return subprocess.Popen(
        [*line, "--path", str(path), "--number", str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_on(kind: type[Store], path: Path, first: int) -> None:
    """Put one batch after the other, and say after each how far it has come."""
    store = kind(path)
    while True:
        store.put(range(first, first + BATCH))
        first += BATCH
        print(first, flush=True)


def read_all(kind: type[Store], path: Path, count: int) -> str:
    """What of so many entries is not there, is another, or cannot be looked up."""
    store = kind(path)
    missing = wrong = errors = 0
    for number in range(count):
        try:
            found = store.get(number)
        except Exception:  # each has its own
            errors += 1
            continue
        missing += found is None
        wrong += found is not None and found != value(number)
    return f"{missing:,} missing, {wrong:,} wrong, {errors:,} errors"


def killed(name: str, path: Path) -> str:
    rand = random.Random(3)
    told = 0
    for _ in range(KILLS):
        writer = child(name, path, "write", told)
        assert writer.stdout is not None
        for _ in range(rand.randrange(5, 60)):
            line = writer.stdout.readline()
            if not line:
                return f"cannot go on after {told:,}: {last_word(writer)}"
            told = int(line)
        time.sleep(rand.random() / 1_000)
        writer.send_signal(signal.SIGKILL)
        for line in writer.communicate()[0].splitlines():
            told = int(line)
    return f"of {told:,}: {fate(name, path, told)}"


def fate(name: str, path: Path, count: int = ENTRIES) -> str:
    """What a process says that reads all."""
    reader = child(name, path, "read", count)
    out, said = reader.communicate(timeout=600)
    if reader.returncode < 0:
        return f"**killed by {signal.Signals(-reader.returncode).name}**"
    return out.strip() if reader.returncode == 0 else "refused: " + said.splitlines()[-1][:60]


def last_word(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate()
    return said.splitlines()[-1][:80]


def damaged(path: Path, how: str) -> None:
    """Change one bit for each page that a store has, or cut its largest file to half."""
    files = [file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    if how == "cut to half":
        largest = max(files, key=lambda file: file.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)
        return
    rand = random.Random(how)
    for file in files:
        data = bytearray(file.read_bytes())
        first = min(2 * _PAGE, len(data) // 2)  # the head of a large file stays
        for _ in range(-(-len(data) // _PAGE)):
            if data:
                data[rand.randrange(first, len(data))] ^= 1 << rand.randrange(8)
        file.write_bytes(data)


def fates(name: str, path: Path) -> Iterator[str]:
    copy = path.with_name("copy")
    for how in ("one bit a page", "cut to half"):
        for suffix in ("", "-wal", "-shm", "-lock"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                old = copy.with_name("copy" + suffix)
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
        damaged(copy, how)
        yield fate(name, copy)


def used(path: Path) -> float:
    """MB of the disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks for file in files) * 512 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--act", choices=["both", "write", "read"], help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.act == "write":
        write_on(KINDS[given.kind], given.path, given.number)
    elif given.act == "read":
        print(read_all(KINDS[given.kind], given.path, given.number))
    elif given.act == "both":
        print(both(KINDS[given.kind], given.path, given.number))
    else:
        compare(given.rounds)


def compare(rounds: int) -> None:
    costs: dict[str, list[tuple[float, ...]]] = {name: [] for name in KINDS}
    shared: dict[str, list[float | str]] = {name: [] for name in KINDS}
    for _ in range(rounds):
        for name, kind in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                costs[name].append(alone(kind, Path(folder) / "alone"))
                shared[name].append(together(name, Path(folder) / "together"))
    print(f"{ENTRIES:,} entries of {SIZE:,} bytes, {rounds} rounds; load {os.getloadavg()[0]:.1f}\n")
    print(
        f"| | put, µs | found | absent | {PROCESSES} processes: put and found | MB | killed {KILLS} times "
        "| one bit a page | cut to half |\n|---|--:|--:|--:|--:|--:|---|---|---|"
    )
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cache"
            store = kind(path)
            filled(store)
            store.close()
            size, after = used(path), " | ".join(fates(name, path))
            told = killed(name, Path(folder) / "killed")
        put, found, absent = (statistics.median(each) for each in zip(*costs[name], strict=True))
        said = [each for each in shared[name] if isinstance(each, str)]
        both_ways = said[0] if said else f"{statistics.median(map(float, shared[name])):.1f}"
        print(
            f"| {name} | {put:.1f} | {found:.1f} | {absent:.1f} | {both_ways} | {size:.0f} | {told} | {after} |"
        )


if __name__ == "__main__":
    main()
