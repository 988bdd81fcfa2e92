"""The store of files: owners, quotas, pages, expiry, and disks that refuse."""

import asyncio
import errno
import os
import resource
import time

import pytest
from file_places import Files, FilesOnRedis, FilesOnRedisAndS3
from places import redis

from held import cancelled, held
from needing import needs_redis
from penstock.errors import BodyTooLarge, ConfigError, Forbidden, NotFound, StorageFull, StorageUnavailable
from penstock.testing import RedisServer
from penstock.upload import files as module
from penstock.upload.disk_threads import storage_error
from penstock.upload.files import LEAST_CHARGE
from penstock.upload.local_files import FileReader
from penstock.upload.stores import redis_files
from penstock.upload.stores import s3 as s3_module
from penstock.upload.stores.block_shelf import BlockShelf


@pytest.fixture(
    params=["disk", pytest.param("redis", marks=needs_redis), pytest.param("redis+s3", marks=needs_redis)]
)
def place(request, tmp_path):
    match request.param:
        case "disk":
            return Files(tmp_path)
        case "redis":
            return FilesOnRedis(tmp_path, request.getfixturevalue("redis_server"))
    servers = [request.getfixturevalue(f"{name}_server") for name in ("redis", "s3")]
    return FilesOnRedisAndS3(tmp_path, *servers)


def a_store(directory, **more):
    """On a disk."""
    return Files(directory).store(**more)


async def put(store, content=b"hello", tenant="t", filename="f.txt", purpose="batch", kept_for=None):
    incoming = await store.receive(tenant, 0)
    try:
        await incoming.write(content)
        return await incoming.finish(filename, purpose, kept_for)
    finally:
        await incoming.discard()


async def content_of(store, file):
    return b"".join([piece async for piece in store.pieces(file.id)])


def run(main):
    return asyncio.run(main)


def everything(directory):
    return sorted(path.name for path in directory.rglob("*") if path.is_file() and "sqlite" not in path.name)


def test_what_was_kept_is_there_after_a_restart(place):
    async def main():
        async with place.store() as store:
            file = await put(store, b"x" * 700_000)
        async with place.store() as store:
            assert await store.get("t", file.id) == file
            assert await content_of(store, file) == b"x" * 700_000
            assert place.kept() == 1
            await store.delete("t", file.id)
            assert place.kept() == 0
            with pytest.raises(NotFound):
                await store.get("t", file.id)

    run(main())


def test_what_belongs_to_another_is_not_there(place):
    async def main():
        async with place.store() as store:
            file = await put(store, tenant="alice")
            for attempt in (store.get("bob", file.id), store.delete("bob", file.id)):
                with pytest.raises(NotFound) as refused:
                    await attempt
                assert refused.value.code == "file_not_found"
            assert await store.page("bob") == ([], False)
            assert await content_of(store, file) == b"hello"

    run(main())


def test_ids_that_are_paths_lead_nowhere(place):
    async def main():
        async with place.store() as store:
            for name in (
                "../files.sqlite",
                "/etc/passwd",
                "",
                "x" * 10_000,
                "a\0b",
                "'; DROP TABLE files; --",
            ):
                with pytest.raises(NotFound):
                    await store.get("t", name)

    run(main())


def test_pages_follow_one_another_in_either_order(place):
    async def main():
        async with place.store() as store:
            ids = []
            for i in range(7):
                store._now.time += i % 2  # some in the same second
                ids.append((await put(store, purpose="batch" if i % 3 else "vision")).id)
            for newest_first in (True, False):
                seen, after = [], ""
                while True:
                    page, more = await store.page("t", after=after, limit=3, newest_first=newest_first)
                    seen += [file.id for file in page]
                    if not more:
                        break
                    after = seen[-1]
                assert sorted(seen) == sorted(ids)
                assert len(seen) == 7
            whole = await store.page("t")
            assert [file.created for file in whole[0]] == sorted((f.created for f in whole[0]), reverse=True)
            assert len((await store.page("t", purpose="vision"))[0]) == 3

    run(main())


def test_too_large_a_file_is_refused_while_it_comes(place):
    async def main():
        async with place.store() as store:
            with pytest.raises(BodyTooLarge):
                await put(store, bytes((1 << 20) + 1))
            with pytest.raises(BodyTooLarge):
                await store.receive("t", 100 << 20)
            assert place.kept() == 0
            assert store._coming == {}
            await put(store, bytes(1 << 20))

    run(main())


def test_a_tenant_keeps_no_more_than_it_may_also_with_several_files_on_their_way(place):
    async def main():
        async with place.store(tenant_bytes=3 * LEAST_CHARGE) as store:
            coming = [await store.receive("t", 0) for _ in range(3)]
            with pytest.raises(Forbidden) as refused:
                await store.receive("t", 0)
            assert refused.value.code == "storage_quota_exceeded"
            for incoming in coming:
                await incoming.write(b"tiny")
                await incoming.finish("f", "batch", None)  # even an empty file takes its block
            with pytest.raises(Forbidden):
                await put(store)
            await put(store, tenant="another")

    run(main())


def test_two_workers_together_keep_the_quota(place):
    async def main():
        async with (
            place.store(on="one", tenant_bytes=100_000) as one,
            place.store(on="two", tenant_bytes=100_000) as two,
        ):
            first, second = await one.receive("t", 0), await two.receive("t", 0)
            await first.write(bytes(60_000))
            await second.write(bytes(60_000))
            await first.finish("f", "batch", None)
            with pytest.raises(Forbidden):
                await second.finish("f", "batch", None)
            await second.discard()
            assert place.kept() == 1

    run(main())


def test_a_file_goes_when_its_time_has_come(place):
    async def main():
        async with place.store() as store:
            usual, longer = await put(store), await put(store, kept_for=200.0)
            store._now.time += 99.0
            assert len((await store.page("t"))[0]) == 2
            store._now.time += 2.0
            assert (await store.page("t"))[0] == [longer]
            with pytest.raises(NotFound):
                await store.get("t", usual.id)
            assert await store.expire() == 1
            assert place.kept() == 1

    run(main())


def test_a_file_without_an_end_stays(place):
    async def main():
        async with place.store(kept_for=0.0) as store:
            file = await put(store)
            assert file.expires is None
            store._now.time += 1e9
            assert await store.expire() == 0
            assert await store.get("t", file.id) == file

    run(main())


def test_what_a_killed_process_left_is_removed_after_a_while_and_nothing_else(tmp_path, monkeypatch):
    async def main():
        async with a_store(tmp_path, kept_for=0.0) as store:
            file = await put(store)
            under_way = await store.receive("t", 0)
            for place in ("incoming", "content"):
                (tmp_path / "kept" / place / "file-orphan").write_bytes(b"x")
            assert await store.expire() == 0
            monkeypatch.setattr(module, "ORPHANED", -1.0)  # everything is old
            await under_way.write(b"x")
            await store.expire()
            assert everything(tmp_path) == [file.id]
            await under_way.discard()

    run(main())


def test_a_file_may_be_entered_twice(place, tmp_path):
    """A batch's results, after a crash between two steps of entering them."""

    async def main():
        async with place.store(tenant_bytes=LEAST_CHARGE) as store:
            path = tmp_path / "results"
            path.write_bytes(b"results")
            file = store.described("file-fixed", 7, "r.jsonl", "batch_output", None)
            await put(store)  # the quota is used up
            os.link(path, tmp_path / "again")
            await store.enter("t", path, file, within_quota=False)
            assert not path.exists()
            await store.enter("t", tmp_path / "again", file, within_quota=False)
            await store.enter("t", path, file, within_quota=False)  # nothing is left to be done
            assert await content_of(store, file) == b"results"
            assert len((await store.page("t"))[0]) == 2

    run(main())


def test_a_disk_that_is_full_is_told_and_leaves_nothing_behind(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            incoming = await store.receive("t", 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # SIGXFSZ is ignored by Python
            try:
                with pytest.raises(StorageFull) as refused:
                    await incoming.write(bytes(600_000))
                assert refused.value.status == 507
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
                await incoming.discard()
            assert everything(tmp_path) == []
            await put(store)

    run(main())


def test_what_a_disk_says_is_told_without_its_paths():
    assert isinstance(storage_error(OSError(errno.ENOSPC, "No space", "/secret")), StorageFull)
    assert isinstance(storage_error(OSError(errno.EDQUOT, "Quota", "/secret")), StorageFull)
    other = storage_error(OSError(errno.EIO, "I/O error", "/secret"))
    assert isinstance(other, StorageUnavailable)
    assert "secret" not in other.message


def test_a_directory_that_cannot_be_used_is_a_mistake_of_the_configuration(tmp_path):
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(ConfigError):
        run(entered(a_store(tmp_path)))


async def entered(context):
    async with context:
        pass


def test_content_that_somebody_removed_is_told_as_such(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            file = await put(store)
            (tmp_path / "kept" / "content" / file.id).unlink()
            with pytest.raises(StorageUnavailable):
                await content_of(store, file)
            await store.delete("t", file.id)

    run(main())


def test_times_are_of_the_clock_that_was_given(tmp_path):
    async def main():
        async with a_store(tmp_path) as store:
            file = await put(store)
            assert (file.created, file.expires) == (1_000_000.0, 1_000_100.0)
            assert abs((tmp_path / "kept" / "content" / file.id).stat().st_mtime - time.time()) < 60

    run(main())


@pytest.mark.parametrize("step", ["_append", "_sync"])
def test_a_cancelled_sender_leaves_nothing_open_and_nothing_behind(tmp_path, monkeypatch, step):
    """An open file that nobody closes is a ResourceWarning, and so an error."""
    gates = held(monkeypatch, module.Incoming, step)

    async def main():
        async with a_store(tmp_path) as store:
            await cancelled(asyncio.create_task(put(store, bytes(600_000))), *gates)
            assert (await store.page("t"))[0] == [] or step == "_sync"
            assert len(everything(tmp_path)) == len((await store.page("t"))[0])

    run(main())


def test_a_cancelled_reader_closes_the_file_when_the_thread_has_read(tmp_path, monkeypatch):
    read = []
    gates = held(monkeypatch, FileReader, "read")
    close = FileReader.close
    monkeypatch.setattr(FileReader, "close", lambda self: (read.append(self._file.closed), close(self)))

    async def main():
        async with a_store(tmp_path) as store:
            file = await put(store, bytes(600_000))
            await cancelled(asyncio.create_task(content_of(store, file)), *gates)
            assert read == [False]

    run(main())


# ---- kept where several machines have them ----------------------------------------------------------

needs_sharing = pytest.mark.parametrize("place", ["redis", "redis+s3"], indirect=True)


@needs_redis
@needs_sharing
def test_what_one_machine_kept_another_has(place, tmp_path):
    content = os.urandom(10_000_001)  # in three blocks
    big = {"max_file_bytes": 16 << 20, "tenant_bytes": 64 << 20}

    async def main():
        async with place.store(on="one", **big) as one, place.store(on="two", **big) as two:
            file = await put(one, content, filename="ä .txt")
            assert await two.get("t", file.id) == file
            assert await content_of(two, file) == content
            await two.fetch(file.id, tmp_path / "fetched")
            assert (tmp_path / "fetched").read_bytes() == content
            (tmp_path / "fetched").unlink()
            assert place.written() == []  # it is on no machine's disk
            with pytest.raises(NotFound):
                await two.get("another", file.id)
            await two.delete("t", file.id)
            with pytest.raises(NotFound):
                await one.get("t", file.id)
            assert place.kept() == 0

    run(main())


@needs_redis
@needs_sharing
def test_nothing_is_left_of_files_that_went(place):
    async def main():
        async with place.store(on="one") as one, place.store(on="two") as two:
            for number in range(5):
                await put(one, tenant=f"t{number % 2}", kept_for=10.0)
            kept = await put(one, kept_for=0.0)
            one._now.time += 11.0
            two._now.time += 11.0
            assert sum(await asyncio.gather(one.expire(), two.expire())) == 5
            assert place.kept() == 1
            await two.delete("t", kept.id)
            assert place.keys() == []

    run(main())


@needs_redis
@needs_sharing
def test_pages_are_whole_however_little_is_looked_at_in_one_step(place, monkeypatch):
    monkeypatch.setattr(redis_files, "_SCANNED", 2)
    test_pages_follow_one_another_in_either_order(place)


@needs_redis
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_what_was_never_entered_goes_by_itself(place):
    """As after a crash between the two."""

    async def main():
        async with place.store(tenant_bytes=16 << 20) as store:
            path = place.folder / "results"
            path.write_bytes(b"x" * 5_000_000)
            await store._shelf.keep("file-1", path)
            keys = place.keys("content:*")
            assert len(keys) == 2
            for key in keys:
                assert 0 < int(redis(place.server, "ttl", key)) <= module.ORPHANED
            await store.enter("t", path, store.described("file-1", 5_000_000, "f", "batch", None))
            lives = [key for key in place.keys("content:*") if int(redis(place.server, "ttl", key)) == -1]
            assert len(lives) == 2

    run(main())


@needs_redis
@pytest.mark.parametrize("place", ["redis+s3"], indirect=True)
def test_what_was_never_entered_is_found_in_the_bucket(place, monkeypatch):
    async def main():
        async with place.store(kept_for=0.0) as store:
            file = await put(store)
            path = place.folder / "results"
            path.write_bytes(b"x" * 5_000_000)
            await store._shelf.keep("file-1", path)
            path.unlink()
            assert place.kept() == 3
            assert await store.expire() == 0
            monkeypatch.setattr(s3_module, "ORPHANED", -60.0)
            assert await store.expire() == 2
            assert place.kept() == 1
            assert await content_of(store, file) == b"hello"

    run(main())


@needs_redis
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_a_server_that_lost_a_block_is_not_told_as_a_file(place, monkeypatch):
    keep = BlockShelf.keep

    async def lossy(self, file_id, path):
        parts = await keep(self, file_id, path)
        redis(place.server, "del", *place.keys("content:*"))
        return parts

    monkeypatch.setattr(BlockShelf, "keep", lossy)

    async def main():
        async with place.store() as store:
            with pytest.raises(StorageUnavailable):
                await put(store)
            assert await store.page("t") == ([], False)
            assert place.keys() == []

    run(main())


@needs_redis
def test_while_the_server_is_gone_files_are_refused_and_then_are_there_again(tmp_path):
    async def main():
        with RedisServer() as server:
            place = FilesOnRedis(tmp_path, server)
            async with place.store() as store:
                file = await put(store)
                server.kill()
                for attempt in (put(store), store.get("t", file.id), store.page("t"), store.expire()):
                    with pytest.raises(StorageUnavailable):
                        await attempt
                server.start()  # empty, as it kept nothing on a disk
                while True:
                    try:
                        again = await put(store)
                    except StorageUnavailable:
                        await asyncio.sleep(0.01)
                    else:
                        break
                assert await content_of(store, again) == b"hello"
                assert (await store.page("t"))[0] == [again]

    run(main())
