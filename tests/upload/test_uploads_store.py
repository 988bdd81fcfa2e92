"""The store of uploads: crashes, disks that refuse, other processes, time."""

import asyncio
import contextlib
import errno
import hashlib
import os
import time
import tracemalloc

import pytest
from held import cancelled, held

from penstock.errors import BlocksLacking, Conflict, Forbidden, Gone, NotFound, StorageFull
from penstock.upload import writer as module
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.digests import Digest
from penstock.upload.offsets import Phase
from penstock.upload.uploads import MAX_BLOCK, Upload, UploadStore, new_upload_id


class Wall:
    def __init__(self):
        self.time = time.time()

    def __call__(self):
        return self.time


@contextlib.asynccontextmanager
async def a_store(folder, **more):
    settings = {
        "tenant_bytes": 64 << 20,
        "max_open": 10,
        "kept_for": 100.0,
        "completed_kept_for": 10.0,
        "blocks_kept_for": 50.0,
        "now": Wall(),
        **more,
    }
    store = UploadStore(folder / "kept", **settings)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def new_upload(store, owner="t", name=None, length=None, max_size=1 << 30):
    upload = Upload(
        new_upload_id(), owner, UploadDialect.RUFH, b"", store.now(), store.now() + store.kept_for, max_size,
        length, 0, Phase.OPEN, 0, name, "", Concat.NONE, "", "",
    )  # fmt: skip
    return (await store.create(upload))[0]


async def send(store, upload, offset, content, *, closes=False, digest=None, step=100_000):
    _, writer = await store.append(upload.owner, upload.id, lambda: None)
    try:
        writer.offsets.begin(offset, closes=closes)
        writer.expect(digest, MAX_BLOCK)
        for start in range(0, len(content), step):
            await writer.write(content[start : start + step])
        return await writer.finish(at_once=True)
    finally:
        await writer.close()


async def content_of(store, upload):
    return b"".join([piece async for piece in store.pieces(upload.id)])


def files(folder):
    return sorted(path.name for path in (folder / "kept" / "blocks").iterdir())


def run(main):
    return asyncio.run(main)


def test_what_was_confirmed_is_there_after_a_restart(tmp_path):
    content = os.urandom(5_000_000)

    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)
            assert not await send(store, upload, 0, content[:3_000_000])
        async with a_store(tmp_path) as store:
            assert await send(store, upload, 3_000_000, content[3_000_000:], closes=True)
            assert await content_of(store, upload) == content
            assert await store.whole(upload.id) == content
            found = await store.get("t", upload.id)
            assert (found.phase, found.length) == (Phase.COMPLETE, 5_000_000)

    run(main())


def test_memory_stays_small_whatever_the_size(tmp_path):
    piece = bytes(65_536)

    async def main():
        async with a_store(tmp_path, tenant_bytes=1 << 30) as store:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            tracemalloc.start()
            for number in range(1_000):
                await writer.write(piece[:-4] + number.to_bytes(4, "big"))
            await writer.finish(at_once=True)
            await writer.close()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 2 << 20
            assert (await store.get("t", upload.id)).offset == 65_536_000

    run(main())


def test_a_break_keeps_what_came_without_a_digest_and_nothing_with_one(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            for digest, kept in ((None, 700_000), (Digest("sha256", bytes(32)), 0)):
                upload = await new_upload(store)
                _, writer = await store.append("t", upload.id, lambda: None)
                writer.offsets.begin(0, closes=True)
                writer.expect(digest, MAX_BLOCK)
                await writer.write(bytes(700_000))
                await writer.close()  # the request broke
                assert (await store.get("t", upload.id)).offset == kept
            assert len(files(tmp_path)) == 1

    run(main())


def test_long_appends_are_confirmed_on_the_way(tmp_path):
    async def main():
        async with a_store(tmp_path) as store, a_store(tmp_path) as other:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            for _ in range(10):
                await writer.write(os.urandom(1_000_000))
            seen = (await other.get("t", upload.id)).offset
            assert 5_000_000 <= seen <= 10_000_000
            await writer.close()

    run(main())


def test_what_a_silent_append_has_sent_is_confirmed(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0)
            await writer.write(b"abc")
            now = time.monotonic()
            store.sweep(now)
            assert (await store.get("t", upload.id)).offset == 0
            store.sweep(now + 1)
            while store._settling:
                await asyncio.wait(store._settling)
            assert (await store.get("t", upload.id)).offset == 3
            await writer.write(b"def")
            assert not await writer.finish(at_once=True)
            await writer.close()
            assert await content_of(store, upload) == b"abcdef"

    run(main())


def test_another_process_that_appends_is_shut_out(tmp_path):
    async def main():
        async with a_store(tmp_path) as store, a_store(tmp_path) as other:
            upload = await new_upload(store)
            _, hanging = await store.append("t", upload.id, lambda: None)
            hanging.offsets.begin(0)
            await hanging.write(b"old")
            assert (await other.settle("t", upload.id)).offset == 0
            with pytest.raises(Conflict) as told:
                await hanging.finish(at_once=True)
            assert told.value.code == "superseded"
            await hanging.close()
            await send(other, upload, 0, b"new")
            assert await content_of(store, upload) == b"new"
            assert len(files(tmp_path)) == 1

    run(main())


def test_of_two_processes_that_append_at_once_one_counts(tmp_path):
    async def main():
        async with a_store(tmp_path) as store, a_store(tmp_path) as other:
            upload = await new_upload(store)
            results = await asyncio.gather(
                send(store, upload, 0, b"a" * 1_000_000),
                send(other, upload, 0, b"b" * 1_000_000),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["Conflict", "bool"]
            assert len(set(await content_of(store, upload))) == 1

    run(main())


def test_a_full_disk_loses_nothing_that_was_confirmed(tmp_path, monkeypatch):
    async def main():
        async with a_store(tmp_path) as store:
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

            monkeypatch.setattr(module, "write_all", full)
            with pytest.raises(StorageFull):
                await send(store, upload, 4_000, os.urandom(3_000_000))
            monkeypatch.undo()
            assert (await store.get("t", upload.id)).offset == 4_000
            assert len(files(tmp_path)) == 1
            await send(store, upload, 4_000, b"rest", closes=True)
            assert await content_of(store, upload) == b"safe" * 1_000 + b"rest"

    run(main())


def test_a_disk_that_does_not_sync_confirms_nothing(tmp_path, monkeypatch):
    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)

            def broken(descriptor):
                raise OSError(errno.EIO, "broken")

            monkeypatch.setattr(module.os, "fsync", broken)
            with pytest.raises(Exception, match="cannot be reached"):
                await send(store, upload, 0, b"abc")
            monkeypatch.undo()
            assert (await store.get("t", upload.id)).offset == 0
            assert files(tmp_path) == []

    run(main())


def test_everything_goes_when_its_time_is_over(tmp_path):
    wall = Wall()

    async def main():
        async with a_store(tmp_path, now=wall) as store:
            upload = await new_upload(store, name="k")
            await send(store, upload, 0, b"abc")
            wall.time += 101
            with pytest.raises(Gone):
                await store.get("t", upload.id)
            assert (await new_upload(store, name="k")).id != upload.id
            await store.expire()
            with pytest.raises(Gone):  # its name is known for a while
                await store.get("t", upload.id)
            assert await store.blocks("t", [(hashlib.sha256(b"abc").digest(), 3)]) == b"abc"
            wall.time += 51
            assert await store.expire() == 1
            with pytest.raises(BlocksLacking):
                await store.blocks("t", [(hashlib.sha256(b"abc").digest(), 3)])
            assert files(tmp_path) == []
            wall.time += 101
            await store.expire()
            with pytest.raises(NotFound):
                await store.get("t", upload.id)

    run(main())


def test_a_complete_upload_is_kept_for_its_answer_only(tmp_path):
    wall = Wall()

    async def main():
        async with a_store(tmp_path, now=wall) as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc", closes=True)
            wall.time += 9
            assert (await store.get("t", upload.id)).phase is Phase.COMPLETE
            wall.time += 2
            with pytest.raises(Gone):
                await store.get("t", upload.id)

    run(main())


def test_files_that_nobody_knows_go_after_a_while(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            for name, age in (("left-behind", 4_000), ("under-way", 10)):
                path = tmp_path / "kept" / "blocks" / name
                path.write_bytes(b"x")
                os.utime(path, (time.time() - age,) * 2)
            known = next(name for name in files(tmp_path) if name not in {"left-behind", "under-way"})
            os.utime(tmp_path / "kept" / "blocks" / known, (time.time() - 4_000,) * 2)
            assert await store.expire() == 1
            assert files(tmp_path) == sorted([known, "under-way"])

    run(main())


def test_the_same_content_is_kept_once_and_counts_once(tmp_path):
    async def main():
        async with a_store(tmp_path, tenant_bytes=1_500_000) as store:
            content = os.urandom(1_000_000)
            for _ in range(3):
                upload = await new_upload(store)
                await send(store, upload, 0, content)
                assert await content_of(store, upload) == content
            assert len(files(tmp_path)) == 1
            other = await new_upload(store)
            with pytest.raises(Forbidden):
                await send(store, other, 0, os.urandom(1_000_000))
            assert len(files(tmp_path)) == 1

    run(main())


@pytest.mark.parametrize("step", ["_write", "_seal", "_enter"])
def test_a_cancelled_append_ends_with_what_its_thread_is_doing(tmp_path, monkeypatch, step):
    gates = held(monkeypatch, UploadStore if step == "_enter" else module.Writer, step)
    content = os.urandom(20_000_000)

    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)
            await cancelled(asyncio.create_task(send(store, upload, 0, content)), *gates)
            offset = (await store.settle("t", upload.id)).offset
            assert offset > 0
            assert await content_of(store, upload) == content[:offset]
            assert len(files(tmp_path)) == -(-offset // module.STRIDE)

    run(main())


def test_a_cancelled_block_is_entered_with_its_file_and_a_refused_one_leaves_none(tmp_path, monkeypatch):
    def sealed(store, content):
        block = module.BlockWriter(store)
        return block.finish(content)

    async def main():
        async with a_store(tmp_path, tenant_bytes=10_000) as store:
            with monkeypatch.context() as patch:
                gates = held(patch, UploadStore, "_add")
                await cancelled(asyncio.create_task(store.put_block("t", sealed(store, b"block"))), *gates)
            assert await store.blocks("t", [(hashlib.sha256(b"block").digest(), 5)]) == b"block"
            with pytest.raises(Forbidden):
                await store.put_block("t", sealed(store, bytes(20_000)))
            assert len(files(tmp_path)) == 1

    run(main())


def test_a_cancelled_append_leaves_no_half_of_a_block(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            upload = await new_upload(store)
            task = asyncio.create_task(send(store, upload, 0, os.urandom(20_000_000)))
            while (await store.get("t", upload.id)).offset == 0:
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            offset = (await store.settle("t", upload.id)).offset
            assert len(await content_of(store, upload)) == offset
            assert store._writers == {}

    run(main())
