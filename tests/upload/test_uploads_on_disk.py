"""The store of uploads on a disk that refuses, and while its threads work."""

import asyncio
import errno
import hashlib
import os
import time

import pytest
from appending import content_of, new_upload, send
from places import Place

from held import cancelled, held
from penstock.errors import Forbidden, StorageFull
from penstock.upload import block_files, writer
from penstock.upload.asked import MAX_BLOCK
from penstock.upload.stores.sqlite import SQLiteIndex


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def run(main):
    return asyncio.run(main)


def test_a_full_disk_loses_nothing_that_was_confirmed(place, monkeypatch):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"safe" * 1_000)
            written = 0

            def full(file, data):
                nonlocal written
                written += len(data)
                if written > 2_000_000:
                    file.write(data[:10])
                    raise OSError(errno.ENOSPC, "full")
                file.write(data)

            monkeypatch.setattr(block_files, "write_all", full)
            with pytest.raises(StorageFull):
                await send(store, upload, 4_000, os.urandom(3_000_000))
            monkeypatch.undo()
            assert (await store.get("t", upload.id)).offset == 4_000
            assert len(place.files()) == 1
            await send(store, upload, 4_000, b"rest", closes=True)
            assert await content_of(store, upload) == b"safe" * 1_000 + b"rest"

    run(main())


def test_a_disk_that_does_not_sync_confirms_nothing(place, monkeypatch):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)

            def broken(descriptor):
                raise OSError(errno.EIO, "broken")

            monkeypatch.setattr(block_files.os, "fsync", broken)
            with pytest.raises(Exception, match="cannot be reached"):
                await send(store, upload, 0, b"abc")
            monkeypatch.undo()
            assert (await store.get("t", upload.id)).offset == 0
            assert place.files() == []

    run(main())


def test_every_block_is_on_the_disk_before_one_of_them_is_entered(place, monkeypatch):
    """However many there are, and of an append in which few bytes come there are no more files open than may be."""
    content = os.urandom(writer.STRIDE + 100_000)
    cuts = [16_384] * (len(content) // 16_384)
    seen = []
    sync, enter = block_files.os.fsync, SQLiteIndex._enter

    def synced(descriptor):
        seen.append("sync")
        sync(descriptor)

    def entered(index, db, addition, sealed):
        assert seen.count("sync") >= sum(isinstance(each, int) and each for each in seen) + len(sealed)
        seen.append(len(sealed))
        return enter(index, db, addition, sealed)

    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            monkeypatch.setattr(block_files.os, "fsync", synced)
            monkeypatch.setattr(SQLiteIndex, "_enter", entered)
            _, append = await store.append("t", upload.id, lambda: None)
            append.offsets.begin(0, closes=True)
            append.expect(None, MAX_BLOCK, None, cuts)
            for start in range(0, len(content), 300_000):
                await append.write(content[start : start + 300_000])
                assert len(append._unsynced) < writer.MAX_UNSYNCED
            assert await append.finish()
            await append.close()
            assert await content_of(store, upload) == content
            assert sum(each for each in seen if isinstance(each, int)) == len(cuts) + 1

    run(main())


def test_files_that_nobody_knows_go_after_a_while(place):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            for name, age in (("left-behind", 4_000), ("under-way", 10)):
                path = place.folder / "blocks" / name
                path.write_bytes(b"x")
                os.utime(path, (time.time() - age,) * 2)
            known = next(name for name in place.files() if name not in {"left-behind", "under-way"})
            os.utime(place.folder / "blocks" / known, (time.time() - 4_000,) * 2)
            assert await store.expire() == 1
            assert place.files() == sorted([known, "under-way"])

    run(main())


@pytest.mark.parametrize("step", ["_write", "_seal", "sync", "_enter"])
def test_a_cancelled_append_ends_with_what_its_thread_is_doing(place, monkeypatch, step):
    place_of = {"_enter": SQLiteIndex, "sync": block_files.BlockWriter}
    gates = held(monkeypatch, place_of.get(step, writer.Writer), step)
    content = os.urandom(20_000_000)

    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await cancelled(asyncio.create_task(send(store, upload, 0, content)), *gates)
            offset = (await store.settle("t", upload.id)).offset
            assert offset > 0
            assert await content_of(store, upload) == content[:offset]
            assert len(place.files()) == -(-offset // writer.STRIDE)

    run(main())


def test_a_cancelled_block_is_entered_with_its_file_and_a_refused_one_leaves_none(place, monkeypatch):
    def sealed(store, content):
        block = block_files.BlockWriter(store.block_files)
        return block.finish(content)

    async def main():
        async with place.store(tenant_bytes=10_000) as store:
            with monkeypatch.context() as patch:
                gates = held(patch, SQLiteIndex, "_add")
                await cancelled(asyncio.create_task(store.put_block("t", sealed(store, b"block"))), *gates)
            assert await store.blocks("t", [(hashlib.sha256(b"block").digest(), 5)]) == b"block"
            with pytest.raises(Forbidden):
                await store.put_block("t", sealed(store, bytes(20_000)))
            assert len(place.files()) == 1

    run(main())
