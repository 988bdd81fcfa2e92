"""Small files of each kind, and what the present version says of what is in one.

The texts beside this file (``batches-1.sql``: a file of batches of version 1) are what SQLite tells of files that were
written here.  They stay as they are: they are what a version left.  For a kind that has a new version,

::

    python tests/kept/kept_files.py

writes its text; it leaves those alone that are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from penstock.batches.batch import Batch
from penstock.batches.repeated import Naming
from penstock.batches.store import BatchStore
from penstock.config.model import CanaryConfig
from penstock.flow.canary import Trials
from penstock.generation.conversations import Item
from penstock.generation.store import End, Ending, Failure, Record, Write
from penstock.generation.store import Naming as Called
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.stores.sqlite_conversations import SQLiteConversations
from penstock.messages import Usage
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.file_index import Query, StoredFile
from penstock.upload.index import Addition, Limits, Sealed, Upload
from penstock.upload.offsets import Phase
from penstock.upload.stores.sqlite import SQLiteIndex
from penstock.upload.stores.sqlite_files import SQLiteFileIndex
from penstock.webhooks.outbox import Outbox

FOLDER = Path(__file__).parent
NOW = 1_790_000_000.0
_LATER = NOW + 1e9
_LIMITS = Limits(1 << 20, 10, 1e9, 1e9, 1e9, lambda: NOW)


class Kind(NamedTuple):
    """One kind of file: fills a new one at a path, and tells what is in one that somebody filled.

    The path ends in the kind's name and ``.sqlite``.
    """

    fill: Callable[[Path], Awaitable[None]]
    told: Callable[[Path], Awaitable[object]]


# ---- batches ----

_BATCH = Batch(
    "batch_1", "t", "k", (), "/v1/chat/completions", "file-1", "24h", NOW, _LATER, "file-2", "file-3"
)
_NAMING = Naming("name", "fingerprint", is_key=True, is_retry=False)


async def _fill_batches(path: Path) -> None:
    store = BatchStore(path.parent)
    await store.start()
    await store.add(_BATCH, _NAMING)
    await store.close()


async def _batches_told(path: Path) -> object:
    store = BatchStore(path.parent)
    await store.start()
    told = await store.open_batches(), await store.named(_NAMING, NOW)
    await store.close()
    return told


# ---- files ----


async def _fill_files(path: Path) -> None:
    index = SQLiteFileIndex(path)
    await index.insert("t", StoredFile("file-1", 5, NOW, None, "in.jsonl", "batch"), 4_096, (), None)
    await index.insert(
        "t", StoredFile("file-2", 7, NOW, _LATER, "out.jsonl", "batch_output"), 4_096, (), None
    )
    await index.close()


async def _files_told(path: Path) -> object:
    index = SQLiteFileIndex(path)
    told = await index.page("t", Query(NOW, "", "", 10, newest_first=False)), await index.used("t")
    await index.close()
    return told


# ---- uploads ----

_UPLOAD = Upload(
    id="upload_1",
    owner="t",
    dialect=UploadDialect.RUFH,
    target=b"{}",
    created=NOW,
    expires=_LATER,
    max_size=100,
    length=9,
    offset=0,
    phase=Phase.OPEN,
    epoch=1,
    name="name",
    fingerprint="fingerprint",
    concat=Concat.NONE,
    parts="",
    parent="",
)


async def _fill_uploads(path: Path) -> None:
    index = SQLiteIndex(path, _LIMITS)
    await index.create(_UPLOAD)
    await index.enter(Addition("upload_1", "t", 1, 0, 9, complete=False), [Sealed("f1", b"d" * 32, 4)])
    await index.close()


async def _uploads_told(path: Path) -> object:
    index = SQLiteIndex(path, _LIMITS)
    told = await index.get("t", "upload_1"), await index.files("upload_1"), await index.held("t")
    await index.close()
    return told


# ---- webhooks ----

_URL = "https://hooks.example.com/"


async def _fill_webhooks(path: Path) -> None:
    outbox = Outbox(path)
    await outbox.put("evt_1", "t", [_URL], b"{}", NOW)
    await outbox.put("evt_2", "t", [_URL], b"{}", NOW)
    (taken,) = await outbox.take(NOW, 1, {}, 4)
    await outbox.settle(taken, None)
    await outbox.close()


async def _webhooks_told(path: Path) -> object:
    outbox = Outbox(path)
    await outbox.put("evt_1", "t", [_URL], b"{}", NOW)  # sent, and not to be sent again
    told = await outbox.take(NOW + 3_600, 10, {}, 4)
    await outbox.close()
    return told


# ---- conversations ----


def _conversations(path: Path) -> SQLiteConversations:
    return SQLiteConversations(path, kept_for=1e9, stored_bytes=1 << 20, longest=1 << 20, now=lambda: NOW)


async def _fill_conversations(path: Path) -> None:
    conversations = _conversations(path)
    await conversations.create(
        "t", b'{"a":"b"}', [Item(f"msg_{n}", b'{"id":"msg_%d"}' % n) for n in range(2)]
    )
    await conversations.close()


async def _conversations_told(path: Path) -> object:
    with contextlib.closing(sqlite3.connect(path)) as db:
        ((conversation,),) = db.execute("SELECT id FROM conversations").fetchall()
    conversations = _conversations(path)
    found = await conversations.get("t", conversation)
    told = found.created, found.metadata, await conversations.items("t", conversation)
    await conversations.close()
    return told


# ---- generations ----

_RUNNING, _FINISHED, _BROKEN = "gen_running", "gen_finished", "gen_broken"
_LARGE = b'data: {"text": "' + b"again and " * 420 + b'"}'  # is compressed
_EVENTS = [b"zero", b"", "zw\u00f6lf".encode(), bytes(range(256)), _LARGE, b"five"]


def _record(generation_id: str, **more: object) -> Record:
    given: dict[str, object] = {
        "id": generation_id,
        "tenant": "t",
        "key_name": "k",
        "tier": "standard",
        "model": "m",
        "stream": True,
        "endpoint": "/v1/chat/completions",
        "body": b'{"model":"m"}',
        "created": NOW,
        "expires_at": _LATER,
        "headers": ((b"accept", b"text/event-stream"),),
        "owner": "one",
    }
    return Record(**{**given, **more})  # type: ignore[arg-type]


async def _fill_generations(path: Path) -> None:
    store = SQLiteStore(path, 1 << 20)
    await store.renew("one", NOW)
    running, finished = _record(_RUNNING, background=True), _record(_FINISHED, name="n", fingerprint=b"f")
    called = Called("t", "n", b"f", NOW, _LATER, 5.0)
    await store.write(
        [
            Write(_RUNNING, 1, 0, _EVENTS[:3], begin=running),
            Write(_FINISHED, 1, 0, _EVENTS[:1], begin=finished, naming=called),
            Write(_BROKEN, 1, 0, _EVENTS[:2], begin=_record(_BROKEN)),
        ]
    )
    ending = Ending(headers=((b"x-request-id", b"7"),), usage=Usage(5, 6), cost=7, attempts=1)
    broken = Ending(
        usage=Usage(5, 2), attempts=2, seams=1, failure=Failure("upstream_broken", "it broke", status=502)
    )
    await store.write(
        [
            Write(_FINISHED, 1, 1, _EVENTS[1:], end=End(ending, _LATER)),
            Write(_BROKEN, 1, 2, [], end=End(broken, _LATER)),
        ]
    )
    # It goes from hand to hand, so some of its events are where they are to stay, and some not yet.
    await store.take_over(_RUNNING, "two", NOW + 1)
    await store.renew("two", _LATER)
    await store.write([Write(_RUNNING, 2, 3, _EVENTS[3:])])
    await store.close()


async def _generations_told(path: Path) -> object:
    store = SQLiteStore(path, 1 << 20)
    told = [
        (await store.load(name), await store.events(name, 0, 1 << 20), await store.tail({name: 2}))
        for name in (_RUNNING, _FINISHED, _BROKEN)
    ]
    claim = await store.claim("t", "n", b"", "other", now=NOW, until=_LATER)
    expired = await store.expired(NOW, 10), await store.expired(_LATER, 10)
    await store.close()
    assert [events for _, events, _ in told] == [_EVENTS, _EVENTS, _EVENTS[:2]]
    return told, claim, expired


# ---- trials of new versions of models ----


async def _fill_trials(path: Path) -> None:
    trials = Trials(path, lambda: NOW)
    await trials.decide("m", "identity", CanaryConfig(version="2"), "promote", "by hand", wholly=False)
    await trials.close()


async def _trials_told(path: Path) -> object:
    trials = Trials(path, lambda: NOW)
    trial = await trials.read("m", "identity")
    await trials.close()
    return trial.phase, trial.step, trial.epoch, trial.reason, trial.decided, trial.hand


KINDS = {
    "batches": Kind(_fill_batches, _batches_told),
    "files": Kind(_fill_files, _files_told),
    "uploads": Kind(_fill_uploads, _uploads_told),
    "webhooks": Kind(_fill_webhooks, _webhooks_told),
    "conversations": Kind(_fill_conversations, _conversations_told),
    "generations": Kind(_fill_generations, _generations_told),
    "trials": Kind(_fill_trials, _trials_told),
}


def text_of(path: Path) -> str:
    """A file as statements that make it again, its mark with it."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        marks = [f"PRAGMA {name} = {number(db, name)};" for name in ("application_id", "user_version")]
        return "\n".join([*db.iterdump(), *marks, ""])


def number(db: sqlite3.Connection, pragma: str) -> int:
    (found,) = db.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)


def made_of(text: str, path: Path) -> Path:
    """The file that a text tells of."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(text)
    return path


def main() -> None:
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.sqlite")
            asyncio.run(kind.fill(path))
            with contextlib.closing(sqlite3.connect(path)) as db:
                target = FOLDER / f"{name}-{number(db, 'user_version')}.sql"
            if not target.exists():
                target.write_text(text_of(path))


if __name__ == "__main__":
    main()
