"""Conversations in one SQLite file of this machine's workers, or in the memory of one."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from penstock.database import Database
from penstock.generation.conversations import (
    LEAST_CHARGE,
    Conversation,
    Item,
    charge_of,
    new_conversation_id,
    renamed,
    too_long,
    unknown_conversation,
    unknown_item,
)
from penstock.sqlite_files import Kind

_EXPIRY_INTERVAL = 60.0  # seconds
_SCHEMA = (
    """
CREATE TABLE conversations (
  id TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  created REAL NOT NULL,
  used REAL NOT NULL,
  bytes INTEGER NOT NULL,
  metadata BLOB NOT NULL
) WITHOUT ROWID""",
    "CREATE INDEX conversations_used ON conversations (used)",
    "CREATE INDEX conversations_of_owner ON conversations (owner, used)",
    """
CREATE TABLE items (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  conversation TEXT NOT NULL,
  id TEXT NOT NULL,
  body BLOB NOT NULL
)""",
    "CREATE UNIQUE INDEX items_by_id ON items (conversation, id)",
    "CREATE INDEX items_in_order ON items (conversation, position)",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID",
)


class SQLiteConversations:
    """:class:`~penstock.generation.conversations.Conversations` in a file.

    :param path: of the file; :data:`penstock.database.MEMORY`: there is none
    :param kept_for: seconds
    :param stored_bytes: what all may hold together
    :param longest: bytes of one conversation; a longer one could not be sent to anybody
    :param now: Unix time
    """

    def __init__(
        self,
        path: Path,
        *,
        kept_for: float,
        stored_bytes: int,
        longest: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = Database(path, application_id=Kind.CONVERSATIONS, schema=_SCHEMA)
        self._kept_for = kept_for
        self._stored_bytes = stored_bytes
        self._longest = longest
        self._now = now
        self._expired = 0.0

    def __repr__(self) -> str:
        return f"<SQLiteConversations in {self._database.path}>"

    async def close(self) -> None:
        await self._database.close()

    async def create(self, owner: str, metadata: bytes, items: Sequence[Item]) -> Conversation:
        now = self._now()
        conversation = Conversation(new_conversation_id(), now, metadata)

        def create(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, 0, ?)",
                (conversation.id, owner, now, now, metadata),
            )
            self._charge(db, conversation.id, owner, LEAST_CHARGE + len(metadata))
            self._append(db, conversation.id, owner, items)

        await self._database.write(create)
        return conversation

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        return await self._database.read(lambda db: self._found(db, owner, conversation_id))

    async def update(self, owner: str, conversation_id: str, metadata: bytes) -> Conversation:
        def update(db: sqlite3.Connection) -> Conversation:
            found = self._found(db, owner, conversation_id)
            db.execute("UPDATE conversations SET metadata = ? WHERE id = ?", (metadata, conversation_id))
            self._charge(db, conversation_id, owner, len(metadata) - len(found.metadata))
            return msgspec.structs.replace(found, metadata=metadata)

        return await self._database.write(update)

    async def delete(self, owner: str, conversation_id: str) -> None:
        def delete(db: sqlite3.Connection) -> None:
            self._found(db, owner, conversation_id)
            self._forget(db, conversation_id)

        await self._database.write(delete, frees=True)

    # ---- items ----

    async def add(
        self, owner: str, conversation_id: str, items: Sequence[Item], *, once: str = ""
    ) -> list[Item]:
        del once  # what raised was undone here, so whoever asks again asks for the first time

        def add(db: sqlite3.Connection) -> list[Item]:
            self._found(db, owner, conversation_id)
            return self._append(db, conversation_id, owner, items)

        return await self._database.write(add)

    async def items(self, owner: str, conversation_id: str) -> list[bytes]:
        def items(db: sqlite3.Connection) -> list[bytes]:
            self._found(db, owner, conversation_id)
            rows = db.execute(
                "SELECT body FROM items WHERE conversation = ? ORDER BY position", (conversation_id,)
            )
            return [body for (body,) in rows]

        return await self._database.read(items)

    async def page(
        self, owner: str, conversation_id: str, *, after: str, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool]:
        order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
        where, values = "conversation = ?", [conversation_id]
        if after:
            where += f" AND position {sign} (SELECT position FROM items WHERE conversation = ? AND id = ?)"  # noqa: S608 - only signs
            values += [conversation_id, after]
        statement = f"SELECT id, body FROM items WHERE {where} ORDER BY position {order} LIMIT ?"  # noqa: S608 - only names

        def page(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
            self._found(db, owner, conversation_id)
            return db.execute(statement, (*values, limit + 1)).fetchall()

        rows = await self._database.read(page)
        return [Item(*row) for row in rows[:limit]], len(rows) > limit

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        def item(db: sqlite3.Connection) -> Item:
            self._found(db, owner, conversation_id)
            return Item(item_id, self._body(db, conversation_id, item_id))

        return await self._database.read(item)

    async def remove(self, owner: str, conversation_id: str, item_id: str) -> Conversation:
        def remove(db: sqlite3.Connection) -> Conversation:
            found = self._found(db, owner, conversation_id)
            body = self._body(db, conversation_id, item_id)
            db.execute("DELETE FROM items WHERE conversation = ? AND id = ?", (conversation_id, item_id))
            self._charge(db, conversation_id, owner, -charge_of(body))
            return found

        return await self._database.write(remove, frees=True)

    # ---- in the database's thread ----

    def _found(self, db: sqlite3.Connection, owner: str, conversation_id: str) -> Conversation:
        row = db.execute(
            "SELECT id, created, metadata FROM conversations WHERE id = ? AND owner = ? AND used > ?",
            (conversation_id, owner, self._now() - self._kept_for),
        ).fetchone()
        if row is None:
            raise unknown_conversation(conversation_id)
        return Conversation(*row)

    @staticmethod
    def _body(db: sqlite3.Connection, conversation_id: str, item_id: str) -> bytes:
        row = db.execute(
            "SELECT body FROM items WHERE conversation = ? AND id = ?", (conversation_id, item_id)
        ).fetchone()
        if row is None:
            raise unknown_item(item_id)
        body: bytes = row[0]
        return body

    def _append(
        self, db: sqlite3.Connection, conversation_id: str, owner: str, items: Sequence[Item]
    ) -> list[Item]:
        added = []
        for item in items:
            there = db.execute(
                "SELECT 1 FROM items WHERE conversation = ? AND id = ?", (conversation_id, item.id)
            ).fetchone()
            if there:
                item = renamed(item)  # noqa: PLW2901
            db.execute(
                "INSERT INTO items (conversation, id, body) VALUES (?, ?, ?)",
                (conversation_id, item.id, item.body),
            )
            added.append(item)
        self._charge(db, conversation_id, owner, sum(charge_of(item.body) for item in added))
        now = self._now()
        db.execute("UPDATE conversations SET used = ? WHERE id = ?", (now, conversation_id))
        self._make_room(db, conversation_id, now)
        return added

    def _charge(self, db: sqlite3.Connection, conversation_id: str, owner: str, size: int) -> None:
        """:raises BodyTooLarge: the conversation is longer than it may be; the transaction is undone"""
        (held,) = db.execute(
            "UPDATE conversations SET bytes = bytes + ? WHERE id = ? RETURNING bytes", (size, conversation_id)
        ).fetchone()
        if size > 0 and held > self._longest:
            raise too_long(self._longest)
        db.execute(
            "INSERT INTO owners VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes",
            (owner, size),
        )

    def _make_room(self, db: sqlite3.Connection, needed: str, now: float) -> None:
        if now - self._expired > _EXPIRY_INTERVAL:
            self._expired = now
            old = db.execute("SELECT id FROM conversations WHERE used <= ?", (now - self._kept_for,))
            for (conversation_id,) in old.fetchall():
                self._forget(db, conversation_id)
        while db.execute("SELECT total(bytes) FROM owners").fetchone()[0] > self._stored_bytes:
            oldest = db.execute(
                "SELECT id FROM conversations WHERE id != ?"
                " AND owner = (SELECT owner FROM owners ORDER BY bytes DESC LIMIT 1) ORDER BY used LIMIT 1",
                (needed,),
            ).fetchone()
            if oldest is None:
                return
            self._forget(db, oldest[0])

    @staticmethod
    def _forget(db: sqlite3.Connection, conversation_id: str) -> None:
        db.execute("DELETE FROM items WHERE conversation = ?", (conversation_id,))
        owner, size = db.execute(
            "DELETE FROM conversations WHERE id = ? RETURNING owner, bytes", (conversation_id,)
        ).fetchone()
        db.execute("UPDATE owners SET bytes = bytes - ? WHERE owner = ?", (size, owner))
        db.execute("DELETE FROM owners WHERE owner = ? AND bytes <= 0", (owner,))
