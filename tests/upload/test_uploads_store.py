"""The store of uploads, wherever its index and its blocks are: crashes, others who append, time, quotas."""

import asyncio
import contextlib
import hashlib
import os
import time
import tracemalloc

import msgspec
import pytest
from appending import content_of, new_upload, send
from places import OnRedis, OnRedisAndS3, OnS3, Place, Wall

from needing import needs_redis
from penstock.errors import (
    BadRequest,
    BlocksLacking,
    BodyTooLarge,
    Conflict,
    Forbidden,
    Gone,
    KeyReused,
    NotFound,
    RateLimited,
    StorageUnavailable,
)
from penstock.upload.asked import MAX_BLOCK, Concat
from penstock.upload.block_files import BlockWriter
from penstock.upload.digests import Digest
from penstock.upload.index import new_upload_id
from penstock.upload.offsets import Phase


@pytest.fixture(
    params=[
        "disk",
        pytest.param("redis", marks=needs_redis),
        "s3",
        pytest.param("redis+s3", marks=needs_redis),
    ]
)
def place(request, tmp_path):
    match request.param:
        case "redis":
            return OnRedis(tmp_path, request.getfixturevalue("redis_server"))
        case "s3":
            return OnS3(tmp_path, request.getfixturevalue("s3_server"))
        case "redis+s3":
            return OnRedisAndS3(tmp_path, *map(request.getfixturevalue, ("redis_server", "s3_server")))
    return Place(tmp_path)


def run(main):
    return asyncio.run(main)


def test_an_append_becomes_the_blocks_that_it_asks_for_however_it_comes(place):
    """What is confirmed in its middle divides one of them; those behind it lie where they lay."""
    content = os.urandom(100_000)
    cuts = 20_000, 30_000, 40_000

    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            writer.expect(None, MAX_BLOCK, None, cuts)
            await writer.write(content[:45_000])
            await writer.settle()
            await writer.write(content[45_000:])
            assert await writer.finish()
            await writer.close()
            kept = (0, 20_000), (20_000, 45_000), (45_000, 50_000), (50_000, 90_000), (90_000, 100_000)
            wanted = [(hashlib.sha256(content[begin:end]).digest(), end - begin) for begin, end in kept]
            assert await store.blocks("t", wanted) == content
            with pytest.raises(BlocksLacking):
                await store.blocks("t", [(hashlib.sha256(content[20_000:50_000]).digest(), 30_000)])

    run(main())


@pytest.mark.parametrize(
    ("cuts", "pause_at", "as_told"),
    [
        ((20_000, 30_000, 50_000), None, True),
        ((20_000, 30_000), None, True),  # what goes beyond is cut as without
        ((20_000, 30_000, 50_000), 50_000, True),
        ((20_000, 30_000, 50_000), 45_000, False),
        ((20_000, 30_000, 60_000), None, False),
        ((20_000, 30_000, 50_000, 1), None, False),
    ],
)
def test_an_append_knows_whether_it_became_the_blocks_that_it_asked_for(place, cuts, pause_at, as_told):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            writer.expect(None, MAX_BLOCK, None, cuts)
            if pause_at:
                await writer.write(bytes(pause_at))
                await writer.settle()
            await writer.write(bytes(100_000 - (pause_at or 0)))
            assert await writer.finish()
            assert writer.cut_as_told is as_told
            await writer.close()

    run(main())


def test_what_was_confirmed_is_there_after_a_restart(place):
    content = os.urandom(5_000_000)

    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            assert not await send(store, upload, 0, content[:3_000_000])
        async with place.store() as store:
            assert await send(store, upload, 3_000_000, content[3_000_000:], closes=True)
            assert await content_of(store, upload) == content
            assert await store.whole(upload.id) == content
            found = await store.get("t", upload.id)
            assert (found.phase, found.length) == (Phase.COMPLETE, 5_000_000)

    run(main())


def test_memory_stays_small_whatever_the_size(place):
    piece = bytes(65_536)

    async def main():
        async with place.store(tenant_bytes=1 << 30) as store:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            tracemalloc.start()
            for number in range(1_000):
                await writer.write(piece[:-4] + number.to_bytes(4, "big"))
            await writer.finish()
            await writer.close()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 2 << 20
            assert (await store.get("t", upload.id)).offset == 65_536_000

    run(main())


def test_a_break_keeps_what_came_without_a_digest_and_nothing_with_one(place):
    async def main():
        async with place.store() as store:
            for digest, kept in ((None, 700_000), (Digest("sha256", bytes(32)), 0)):
                upload = await new_upload(store)
                _, writer = await store.append("t", upload.id, lambda: None)
                writer.offsets.begin(0, closes=True)
                writer.expect(digest, MAX_BLOCK)
                await writer.write(bytes(700_000))
                await writer.close()  # the request broke
                assert (await store.get("t", upload.id)).offset == kept
            assert len(place.files()) == 1

    run(main())


def test_long_appends_are_confirmed_on_the_way(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            upload = await new_upload(store)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0, closes=True)
            for _ in range(10):
                await writer.write(os.urandom(1_000_000))
            seen = (await other.get("t", upload.id)).offset
            assert 5_000_000 <= seen <= 10_000_000
            await writer.close()

    run(main())


def test_who_knows_the_name_of_anothers_upload_ends_no_append_to_it(place):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            cut = []
            _, writer = await store.append("t", upload.id, lambda: cut.append("cut"))
            for begun in (store.settle, store.give_up, lambda *who: store.append(*who, lambda: None)):
                async with asyncio.timeout(10):
                    with pytest.raises(NotFound):
                        await begun("another", upload.id)
            await writer.close()
            assert cut == []

    run(main())


def test_what_a_silent_append_has_sent_is_confirmed(place):
    async def main():
        async with place.store() as store:
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
            assert not await writer.finish()
            await writer.close()
            assert await content_of(store, upload) == b"abcdef"

    run(main())


def test_another_process_that_appends_is_shut_out(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            upload = await new_upload(store)
            _, hanging = await store.append("t", upload.id, lambda: None)
            hanging.offsets.begin(0)
            await hanging.write(b"old")
            assert (await other.settle("t", upload.id)).offset == 0
            with pytest.raises(Conflict) as told:
                await hanging.finish()
            assert told.value.code == "superseded"
            await hanging.close()
            await send(other, upload, 0, b"new")
            assert await content_of(store, upload) == b"new"
            assert len(place.files()) == 1

    run(main())


@pytest.mark.parametrize("end", ["its time is over", "another process gives it up"])
def test_who_appends_to_what_is_gone_meanwhile_is_told_so(place, end):
    """And not that somebody else goes on with it."""
    wall = Wall()

    async def main():
        async with place.store(now=wall) as store, place.store(on="other", now=wall) as other:
            upload = await new_upload(store)
            _, hanging = await store.append("t", upload.id, lambda: None)
            hanging.offsets.begin(0)
            await hanging.write(b"old")
            if end == "its time is over":
                wall.time += 101
            else:
                await other.give_up("t", upload.id)
            with pytest.raises(Gone):
                await hanging.finish()
            await hanging.close()
            assert place.files() == []

    run(main())


def test_of_two_processes_that_append_at_once_one_counts(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            upload = await new_upload(store)
            results = await asyncio.gather(
                send(store, upload, 0, b"a" * 1_000_000),
                send(other, upload, 0, b"b" * 1_000_000),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["Conflict", "bool"]
            assert len(set(await content_of(store, upload))) == 1

    run(main())


def test_everything_goes_when_its_time_is_over(place):
    wall = Wall()

    async def main():
        async with place.store(now=wall) as store:
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
            assert place.files() == []
            wall.time += 101
            await store.expire()
            with pytest.raises(NotFound):
                await store.get("t", upload.id)

    run(main())


def test_a_complete_upload_is_kept_for_its_answer_only(place):
    wall = Wall()

    async def main():
        async with place.store(now=wall) as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc", closes=True)
            wall.time += 9
            assert (await store.get("t", upload.id)).phase is Phase.COMPLETE
            wall.time += 2
            with pytest.raises(Gone):
                await store.get("t", upload.id)

    run(main())


def test_the_same_content_is_kept_once_and_counts_once(place):
    async def main():
        async with place.store(tenant_bytes=1_500_000) as store:
            content = os.urandom(1_000_000)
            for _ in range(3):
                upload = await new_upload(store)
                await send(store, upload, 0, content)
                assert await content_of(store, upload) == content
            assert len(place.files()) == 1
            other = await new_upload(store)
            with pytest.raises(Forbidden):
                await send(store, other, 0, os.urandom(1_000_000))
            assert len(place.files()) == 1

    run(main())


def test_a_cancelled_append_leaves_no_half_of_a_block(place):
    async def main():
        async with place.store() as store:
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


def test_a_creation_finds_the_upload_of_its_name(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            upload = await new_upload(store, name="k", fingerprint="f")
            found, new = await other.create(await new_upload_like(upload, fingerprint="f"))
            assert (found, new) == (upload, False)
            with pytest.raises(KeyReused):
                await other.create(await new_upload_like(upload, fingerprint="g"))
            await store.give_up("t", upload.id)
            assert (await new_upload(other, name="k", fingerprint="g")).id != upload.id

    run(main())


async def new_upload_like(upload, *, fingerprint):
    return msgspec.structs.replace(upload, id=new_upload_id(), fingerprint=fingerprint)


def test_what_an_upload_is_comes_back_as_it_was(place):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store, name="null", length=7)
            strange = msgspec.structs.replace(
                upload,
                id=new_upload_id(),
                name="\u00fc 1",
                target=bytes(range(256)),
                owner="t/\u00fc",
                answer=b"\0",
            )
            await store.create(strange)
            assert await store.get("t", upload.id) == upload
            assert await store.get("t/\u00fc", strange.id) == strange
            await store.remember(upload.id, b"{}")
            assert (await store.get("t", upload.id)).answer == b"{}"

    run(main())


def test_only_so_many_uploads_of_an_owner_are_open(place):
    async def main():
        async with place.store(max_open=2) as store:
            uploads = [await new_upload(store) for _ in range(2)]
            with pytest.raises(RateLimited):
                await new_upload(store)
            await new_upload(store, owner="other")
            await send(store, uploads[0], 0, b"abc", closes=True)
            await new_upload(store)
            await store.give_up("t", uploads[1].id)
            await new_upload(store)
            with pytest.raises(RateLimited):
                await new_upload(store)

    run(main())


def test_nobody_has_what_is_anothers(place):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            wanted = [(hashlib.sha256(b"abc").digest(), 3)]
            for step in (store.get, store.settle, store.give_up):
                with pytest.raises(NotFound):
                    await step("other", upload.id)
                with pytest.raises(NotFound):
                    await step("t", "upload_none")
            with pytest.raises(BlocksLacking):
                await store.blocks("other", wanted)
            assert await store.blocks("t", wanted) == b"abc"

    run(main())


def test_a_block_that_was_sent_need_not_be_sent_again(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            content = os.urandom(2_500_000)
            name = hashlib.sha256(content).digest()
            with pytest.raises(BlocksLacking) as told:
                await store.blocks("t", [(name, len(content))])
            assert told.value.lacking == [name.hex()]
            for at, new in ((store, True), (other, False)):
                block = BlockWriter(at.block_files)
                sealed = await at.block_files.run(lambda block=block: block.finish(content))
                assert await at.put_block("t", sealed) is new
            assert len(place.files()) == 1
            assert await other.blocks("t", [(name, len(content))] * 2) == content * 2
            with pytest.raises(BadRequest):
                await other.blocks("t", [(name, 1)])

    run(main())


def test_old_blocks_make_room_but_not_those_that_uploads_have(place):
    wall = Wall()

    async def put(store, content):
        block = BlockWriter(store.block_files)
        return await store.put_block("t", await store.block_files.run(lambda: block.finish(content)))

    async def main():
        contents = [bytes([number]) * 400_000 for number in range(4)]
        named = [[(hashlib.sha256(content).digest(), len(content))] for content in contents]
        async with place.store(tenant_bytes=1_000_000, now=wall) as store:
            for content in contents[:2]:
                await put(store, content)
                wall.time += 1
            await store.blocks("t", named[0])  # used last
            await put(store, contents[2])
            with pytest.raises(BlocksLacking):
                await store.blocks("t", named[1])
            upload = await new_upload(store)
            await send(store, upload, 0, contents[0])
            await send(store, upload, 400_000, contents[3])  # instead of the third one
            with pytest.raises(Forbidden):
                await put(store, contents[2])
            with pytest.raises(Forbidden):
                await store.check_room("t", 300_000)
            await store.check_room("t", 200_000)
            assert await content_of(store, upload) == contents[0] + contents[3]
            assert len(place.files()) == 2
            await store.give_up("t", upload.id)
            await store.check_room("t", 1_000_000)
            await put(store, contents[2])
            assert len(place.files()) == 2

    run(main())


def test_parts_are_put_together_and_not_copied(place):
    async def main():
        async with place.store(on="other") as other, place.store() as store:
            parts = [await new_upload(store, concat=Concat.PARTIAL) for _ in range(2)]
            await send(store, parts[0], 0, b"abc", closes=True)
            await send(store, parts[1], 0, b"def")
            final = await new_upload_to_be(store)
            with pytest.raises(Conflict, match="complete"):
                await store.concatenate(final, [part.id for part in parts])
            await send(store, parts[1], 3, b"ghi", closes=True)
            names = [parts[1].id, parts[0].id, parts[1].id]
            for wrong in ({"length": 14}, {"max_size": 14}):
                with pytest.raises((Conflict, BodyTooLarge)):
                    await store.concatenate(msgspec.structs.replace(final, **wrong), names)
            with pytest.raises(NotFound):
                await store.concatenate(final, ["upload_none"])
            before = place.files()
            made = await store.concatenate(final, names)
            assert (made.phase, made.offset, made.length) == (Phase.COMPLETE, 15, 15)
            assert made == await other.get("t", final.id)
            assert await content_of(other, made) == b"defghiabcdefghi"
            assert await store.concatenate(await new_upload_like(final, fingerprint=""), names) == made
            with pytest.raises(KeyReused):
                await store.concatenate(await new_upload_like(final, fingerprint="g"), names)
            for part in parts:
                await store.give_up("t", part.id)
            assert await content_of(store, made) == b"defghiabcdefghi"
            assert place.files() == before

    run(main())


async def new_upload_to_be(store):
    upload = await new_upload(store, concat=Concat.FINAL)
    await store.give_up("t", upload.id)
    return msgspec.structs.replace(upload, id=new_upload_id(), name="final")


def test_parts_of_an_upload_end_with_it(place):
    async def main():
        async with place.store() as store:
            whole = await new_upload(store, length=6)
            parts = [await new_upload(store, concat=Concat.PARTIAL, parent=whole.id) for _ in range(2)]
            for part in parts:
                await send(store, part, 0, b"abc", closes=True)
            stray = await new_upload(store, concat=Concat.PARTIAL)
            await send(store, stray, 0, b"abc", closes=True)
            with pytest.raises(Conflict):
                await store.concatenate(whole, [parts[0].id, stray.id], parent=whole.id)
            made = await store.concatenate(whole, [part.id for part in parts], parent=whole.id)
            assert await content_of(store, made) == b"abcabc"
            with pytest.raises(Conflict) as told:
                await store.concatenate(whole, [part.id for part in parts], parent=whole.id)
            assert told.value.code == "upload_ended"
            await store.give_up("t", whole.id)
            for part in parts:
                with pytest.raises(Gone):
                    await store.get("t", part.id)
            await store.get("t", stray.id)

    run(main())


def test_an_upload_that_was_verified_is_complete_unless_somebody_came(place):
    async def main():
        async with place.store() as store, place.store(on="other") as other:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            seen = await store.get("t", upload.id)
            await other.settle("t", upload.id)
            with pytest.raises(Conflict):
                await store.complete(seen)
            await store.complete(await store.get("t", upload.id))
            found = await other.get("t", upload.id)
            assert (found.phase, found.length) == (Phase.COMPLETE, 3)

    run(main())


def test_nothing_stays_on_a_disk_but_where_it_is_kept(place):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, os.urandom(9_000_000))
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(9_000_000)
            writer.expect(Digest("sha256", bytes(32)), MAX_BLOCK)
            await writer.write(bytes(700_000))
            await writer.close()
            kept = place.files()
            assert len(place.written()) == (len(kept) if type(place) is Place else 0)

    run(main())


def test_what_was_entered_is_kept_also_if_the_answer_was_lost(place, monkeypatch):
    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            index = type(store._index)
            for step in ("enter", "add"):
                do = getattr(index, step)

                async def lost(*args, do=do):
                    await do(*args)
                    raise StorageUnavailable("no answer")

                monkeypatch.setattr(index, step, lost)
            with pytest.raises(StorageUnavailable):
                await send(store, upload, 3, b"def")
            block = BlockWriter(store.block_files)
            with pytest.raises(StorageUnavailable):
                await store.put_block("t", await store.block_files.run(lambda: block.finish(b"block")))
            monkeypatch.undo()
            assert (await store.settle("t", upload.id)).offset == 6
            assert await content_of(store, upload) == b"abcdef"
            assert await store.blocks("t", [(hashlib.sha256(b"block").digest(), 5)]) == b"block"
            assert await send(store, upload, 6, b"ghi", closes=True)
            assert await store.whole(upload.id) == b"abcdefghi"

    run(main())
