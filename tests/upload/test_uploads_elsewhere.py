"""Uploads in servers that are slow, full, gone, or come back; and what nobody has entered there."""

import asyncio
import os

import pytest
from appending import content_of, new_upload, send
from places import OnRedis, OnS3, redis

from needing import needs_redis
from penstock.errors import StorageFull, StorageUnavailable
from penstock.testing import RedisServer
from penstock.upload.asked import MAX_BLOCK
from penstock.upload.block_files import BlockWriter
from penstock.upload.stores import s3 as s3_module
from penstock.upload.stores.s3 import PIECE


class Gate:
    """A way to a server, which can be shut (nobody answers), stuck (nobody says anything), or answer by itself."""

    def __init__(self, port):
        self.behind = port
        self.state = "open"
        self.tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        there = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if self.state == "shut":
                    return
                if self.state == "stuck":
                    await asyncio.Event().wait()
                if isinstance(self.state, bytes):
                    writer.write(self.state)
                    continue
                there = await asyncio.open_connection("127.0.0.1", self.behind)
                there[1].write(head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + body)
                writer.write(await there[0].read())
                there[1].close()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            if there is not None:
                there[1].close()


class Through(OnS3):
    def __init__(self, folder, server, gate):
        super().__init__(folder, server, budget=3.0)
        self.gate = gate

    def contents(self, disk):
        made = self.server.url
        self.server.url = self.gate.url
        try:
            return super().contents(disk)
        finally:
            self.server.url = made


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("shut", StorageUnavailable),
        ("stuck", StorageUnavailable),
        (b"HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 0\r\n\r\n", StorageFull),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", StorageUnavailable),
    ],
)
def test_storage_that_fails_loses_nothing_that_was_confirmed(tmp_path, s3_server, state, error):
    async def main():
        async with Gate(s3_server.port) as gate:
            place = Through(tmp_path, s3_server, gate)
            async with place.store() as store:
                upload = await new_upload(store)
                content = os.urandom(1_300_000)
                await send(store, upload, 0, content[:700_000])
                gate.state = state
                with pytest.raises(error) as told:
                    await send(store, upload, 700_000, content[700_000:])
                assert "127.0.0.1" not in str(told.value)
                assert (await store.settle("t", upload.id)).offset == 700_000
                assert place.written() == []
                gate.state = "open"
                assert await send(store, upload, 700_000, content[700_000:], closes=True)
                assert await store.whole(upload.id) == content

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 10, PIECE - 1, PIECE + 1, 1 << 40])
def test_an_object_of_another_size_than_was_sent_is_not_read(tmp_path, s3_server, size):
    lie = (
        b"HTTP/1.1 200 OK\r\netag: x\r\nlast-modified: Sun, 22 Nov 2026 15:00:00 GMT\r\n"
        b"content-length: %d\r\n\r\n" % size
    ) + bytes(min(size, PIECE + 1))

    async def main():
        async with Gate(s3_server.port) as gate:
            async with Through(tmp_path, s3_server, gate).store() as store:
                upload = await new_upload(store)
                content = os.urandom(PIECE + 10)
                await send(store, upload, 0, content, closes=True)
                gate.state = lie
                with pytest.raises(StorageUnavailable):
                    await store.whole(upload.id)
                with pytest.raises(StorageUnavailable):
                    await content_of(store, upload)
                gate.state = "open"
                assert await store.whole(upload.id) == content

    asyncio.run(main())


@pytest.mark.parametrize("spoiled", ["a bit", "an older one", "the other of its block"])
def test_an_object_of_the_right_size_with_other_bytes_is_not_read(tmp_path, s3_server, spoiled):
    async def main():
        place = OnS3(tmp_path, s3_server)
        async with place.store() as store:
            content = os.urandom(2 * PIECE)
            upload = await new_upload(store)
            await send(store, upload, 0, content, closes=True)
            objects = [f"some/folder/{name}" for name in place.objects()]
            (first, second), client = sorted(objects), s3_server.client()
            found = {key: client.get_object(Bucket=place.bucket, Key=key)["Body"].read() for key in objects}
            other = {
                "a bit": bytes([found[first][0] ^ 1]) + found[first][1:],
                "an older one": os.urandom(PIECE + 32),
                "the other of its block": found[second],
            }[spoiled]
            client.put_object(Bucket=place.bucket, Key=first, Body=other)
            with pytest.raises(StorageUnavailable):
                await store.whole(upload.id)
            with pytest.raises(StorageUnavailable):
                await content_of(store, upload)
            client.put_object(Bucket=place.bucket, Key=first, Body=found[first])
            assert await store.whole(upload.id) == content

    asyncio.run(main())


def test_objects_of_a_version_that_knew_no_digests_are_read(tmp_path, s3_server, monkeypatch):
    async def main():
        place = OnS3(tmp_path, s3_server)
        async with place.store() as store:
            content = os.urandom(PIECE + 10)
            with monkeypatch.context() as before:
                before.setattr(s3_module, "_DIGESTED", "")
                before.setattr(s3_module, "_DIGEST", 0)
                before.setattr(s3_module.S3Contents, "_digest", lambda *_: b"")
                upload = await new_upload(store)
                await send(store, upload, 0, content, closes=True)
            assert await store.whole(upload.id) == content
            assert await content_of(store, upload) == content

    asyncio.run(main())


def test_a_block_that_has_become_shorter_is_not_here(tmp_path, s3_server):
    lie = (
        b"HTTP/1.1 200 OK\r\netag: x\r\nlast-modified: Sun, 22 Nov 2026 15:00:00 GMT\r\n"
        b"content-length: 2\r\n\r\nab"
    )

    async def main():
        async with Gate(s3_server.port) as gate:
            async with Through(tmp_path, s3_server, gate).store() as store:
                block = BlockWriter(store.block_files)
                sealed = await store.block_files.run(lambda: block.finish(b"abc"))
                await store.put_block("t", sealed)
                wanted = [(sealed.digest, 3)]
                assert await store.blocks("t", wanted) == b"abc"
                gate.state = lie
                with pytest.raises(StorageUnavailable):
                    await store.blocks("t", wanted)

    asyncio.run(main())


def test_a_gateway_starts_without_its_storage_and_finds_it_when_it_is_there(tmp_path, s3_server):
    async def main():
        async with Gate(s3_server.port) as gate:
            gate.state = "shut"
            place = Through(tmp_path, s3_server, gate)
            async with place.store() as store:
                upload = await new_upload(store)
                with pytest.raises(StorageUnavailable):
                    await send(store, upload, 0, b"abc")
                gate.state = "open"
                await send(store, upload, 0, b"abc")
                assert await content_of(store, upload) == b"abc"

    asyncio.run(main())


def test_objects_that_nobody_has_entered_go_after_a_while(tmp_path, s3_server, monkeypatch):
    place = OnS3(tmp_path, s3_server)
    guests = ["a guest", "0" * 32 + "-99999999999.0", "0" * 32 + "-0.0"]  # who has got a name like ours, too
    for guest in guests:
        s3_server.client().put_object(Bucket=place.bucket, Key=f"some/folder/{guest}", Body=b"x")

    async def main():
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"abc")
            block = BlockWriter(store.block_files)
            sealed = await store.block_files.run(lambda: block.finish(bytes(1_500_000)))
            await store.block_files.keep([sealed])
            assert len(place.objects()) == len(guests) + 1 + 3
            assert await store.expire() == 0
            monkeypatch.setattr(s3_module, "ORPHANED", -60.0)
            assert await store.expire() == 0  # it was looked through just now
            store.block_files._old_next = 0.0
            assert await store.expire() == 1
            assert len(place.objects()) == len(guests) + 1
            assert await content_of(store, upload) == b"abc"

    asyncio.run(main())


@needs_redis
def test_what_redis_holds_and_nobody_has_entered_expires_by_itself(tmp_path):
    async def main(server):
        place = OnRedis(tmp_path, server)
        async with place.store() as store:
            block = BlockWriter(store.block_files)
            sealed = await store.block_files.run(lambda: block.finish(bytes(700_000)))
            await store.block_files.keep([sealed])
            key = f"{place.prefix}content:{sealed.file}"
            assert 0 < int(redis(server, "ttl", key)) <= 3_600
            assert await store.put_block("t", await rewritten(store, sealed))
            (other,) = [name for name in place.files() if name != sealed.file]
            assert int(redis(server, "ttl", f"{place.prefix}content:{other}")) == -1

    with RedisServer() as server:
        asyncio.run(main(server))


async def rewritten(store, sealed):
    block = BlockWriter(store.block_files)
    return await store.block_files.run(lambda: block.finish(bytes(sealed.size)))


@needs_redis
def test_redis_that_does_not_answer_loses_nothing_that_was_confirmed(tmp_path):
    async def main(server):
        place = OnRedis(tmp_path, server, budget=3.0)
        async with place.store() as store:
            upload = await new_upload(store)
            content = os.urandom(1_300_000)
            await send(store, upload, 0, content[:700_000])
            server.freeze()
            with pytest.raises(StorageUnavailable):
                await send(store, upload, 700_000, content[700_000:])
            server.thaw()
            offset = (await once_it_is_back(lambda: store.settle("t", upload.id))).offset
            assert offset >= 700_000
            assert await content_of(store, upload) == content[:offset]
            assert await send(store, upload, offset, content[offset:], closes=True)
            assert await store.whole(upload.id) == content

    with RedisServer() as server:
        asyncio.run(main(server))


async def once_it_is_back(ask):
    for _ in range(2_000):
        try:
            return await ask()
        except StorageUnavailable:
            await asyncio.sleep(0.02)
    raise AssertionError("it does not come back")


@needs_redis
def test_redis_that_is_full_says_so_and_keeps_what_it_has(tmp_path):
    async def main(server):
        place = OnRedis(tmp_path, server)
        async with place.store() as store:
            upload = await new_upload(store)
            await send(store, upload, 0, b"safe" * 1_000)
            with pytest.raises(StorageFull):
                await send(store, upload, 4_000, os.urandom(9_000_000))
            offset = (await store.settle("t", upload.id)).offset
            assert (await content_of(store, upload))[:4_000] == b"safe" * 1_000
            assert len(await content_of(store, upload)) == offset
            await store.give_up("t", upload.id)

    with RedisServer("--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as server:
        asyncio.run(main(server))


@needs_redis
def test_redis_that_is_killed_in_mid_append_has_what_was_confirmed(tmp_path):
    async def main(server):
        place = OnRedis(tmp_path, server)
        async with place.store() as store:
            upload = await new_upload(store)
            content = os.urandom(9_000_000)
            _, writer = await store.append("t", upload.id, lambda: None)
            writer.offsets.begin(0)
            writer.expect(None, MAX_BLOCK)
            while (await store.get("t", upload.id)).offset == 0:
                at = writer.offsets.offset + writer.offsets.unconfirmed
                await writer.write(content[at : at + 500_000])
            confirmed = (await store.get("t", upload.id)).offset
            server.kill()
            await writer.close()
            server.start()
            found = (await once_it_is_back(lambda: store.settle("t", upload.id))).offset
            assert found >= confirmed
            assert await content_of(store, upload) == content[:found]
            assert await send(store, upload, found, content[found:], closes=True)
            assert await store.whole(upload.id) == content

    options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with RedisServer(*options) as server:
        asyncio.run(main(server))
