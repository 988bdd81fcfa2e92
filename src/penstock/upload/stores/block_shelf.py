"""The bytes of files where those of uploads are: in Redis, or in a bucket, so that any machine has them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import BinaryIO

from penstock.errors import PenstockError
from penstock.sqlite_files import private_opener
from penstock.upload.contents import Contents
from penstock.upload.file_index import Parts
from penstock.upload.index import Sealed
from penstock.upload.local_files import write_all
from penstock.upload.stores.disk import Disk

BLOCK_SIZE = 4_194_304  # bytes
_PIECE = 262_144  # bytes that are copied at a time


class BlockShelf:
    """A :class:`~penstock.upload.file_index.Shelf` that cuts a file into blocks.

    :param disk: where a block lies on its way
    """

    def __init__(self, disk: Disk, contents: Contents) -> None:
        self._disk = disk
        self._contents = contents

    def __repr__(self) -> str:
        return f"<BlockShelf in {self._contents}>"

    async def open(self) -> None:
        await self._disk.open()
        await self._contents.open()

    async def close(self) -> None:
        await self._contents.close()
        await self._disk.close()

    async def keep(self, file_id: str, path: Path) -> Parts:  # noqa: ARG002 - an interface
        taken: list[str] = []
        at = 0
        try:
            while True:
                name, start = secrets.token_hex(16), at
                size = await self._disk.run(partial(self._cut, path, start, name))
                if not size:
                    return tuple(taken)
                at += size
                # Its digest is nobody's question: a file has one owner, and is asked for by its id.
                taken += [block.file for block in await self._contents.keep([Sealed(name, b"", size)])]
        except BaseException:
            with contextlib.suppress(PenstockError):  # nobody knows them, and so they go some time
                await self._contents.remove(taken)
            raise

    def _cut(self, path: Path, start: int, name: str) -> int:
        """In a thread: copy a block; how long it is."""
        left = BLOCK_SIZE
        with path.open("rb", buffering=0) as source:
            source.seek(start)
            piece = source.read(_PIECE)
            if not piece:
                return 0
            path = self._disk.directory / name
            with open(path, "xb", buffering=0, opener=private_opener) as target:
                while piece:
                    write_all(target, piece)
                    left -= len(piece)
                    piece = source.read(min(_PIECE, left))
        return BLOCK_SIZE - left

    async def pieces(self, file_id: str, parts: Parts) -> AsyncGenerator[bytes, None]:  # noqa: ARG002 - an interface
        for part in parts:
            async with aclosing(self._contents.pieces(part)) as pieces:
                async for piece in pieces:
                    yield piece

    async def fetch(self, file_id: str, parts: Parts, target: Path) -> None:
        file: BinaryIO = await self._disk.run(lambda: target.open("xb", buffering=0))
        try:
            async with aclosing(self.pieces(file_id, parts)) as pieces:
                async for piece in pieces:
                    await self._disk.run(partial(write_all, file, piece))
            await self._disk.run(lambda: os.fsync(file.fileno()))
        except BaseException:
            await self._disk.run(target.unlink)
            raise
        finally:
            file.close()

    async def remove(self, file_id: str, parts: Parts) -> None:  # noqa: ARG002 - an interface
        await self.remove_names(parts)

    async def old(self) -> list[str]:
        await self._disk.remove(await self._disk.old())  # whatever is old there was never taken
        return await self._contents.old()

    async def remove_names(self, names: Sequence[str]) -> None:
        if names:
            await self._contents.remove(names)
