"""Machines that share a Redis server keep uploads and files for as long as its clock says, whatever their own do."""

import asyncio
import time

import pytest

from penstock.config.load import parse
from penstock.errors import StorageUnavailable
from penstock.gateway import parts
from penstock.upload.asked import Concat, UploadDialect
from penstock.upload.index import Upload
from penstock.upload.offsets import Phase
from penstock.upload.stores import redis_clock
from penstock.upload.stores.redis import redis_client
from penstock.upload.stores.redis_clock import RedisClock

HOUR = 3_600.0
LIFE = 60.0  # seconds, of what is kept here
PATIENT = 60.0
SERVER = time.time  # the server is on this machine


def machine(server, folder, ahead, monkeypatch):
    """Uploads and files as a machine has them whose clock is not that of the server."""
    folder.mkdir()
    text = f"""
upstreams: {{own: {{kind: sim}}}}
models: {{"*": {{candidates: [{{upstream: own}}]}}}}
files: {{directory: {folder}, shared: true, kept_for: {LIFE:g}}}
uploads: {{redis: "{server.url}", kept_for: {LIFE:g}}}
"""
    with monkeypatch.context() as patched:
        patched.setattr(
            redis_clock.RedisClock.__init__, "__defaults__", (lambda: SERVER() + ahead, time.monotonic)
        )
        return parts.upload_store(parse(text)), parts.file_store(parse(text))


def an_upload(store):
    """As a request makes it."""
    now = store.now()
    return Upload(
        *("upload_1", "t", UploadDialect.RUFH, b"{}", now, now + store.kept_for, 100, 9, 0, Phase.OPEN, 1),
        *(None, "fingerprint", Concat.NONE, "", ""),
    )


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_what_one_machine_keeps_another_keeps_as_long_whose_clock_is_wrong(
    redis_server, tmp_path, monkeypatch, ahead
):
    async def main():
        right = machine(redis_server, tmp_path / "right", 0.0, monkeypatch)
        wrong = machine(redis_server, tmp_path / "wrong", ahead, monkeypatch)
        for uploads, files in (right, wrong):
            await uploads.start()
            await files.start()
        for (uploads, files), (others, other_files) in ((right, wrong), (wrong, right)):
            upload = an_upload(uploads)
            assert abs(upload.created - SERVER()) < LIFE / 2
            await uploads.create(upload)
            incoming = await files.receive("t", 1)
            await incoming.write(b"x")
            file = await incoming.finish("x", "batch", None)
            await others.expire()
            await other_files.expire()
            assert await others.get("t", upload.id) == upload
            assert (await other_files.get("t", file.id)).expires == file.expires
            await others.give_up("t", upload.id)
        for uploads, files in (right, wrong):
            await uploads.close()
            await files.close()

    asyncio.run(main())


def test_it_is_heard_again_after_some_seconds_and_counted_on_in_between(redis_server):
    async def main():
        passed = 0.0
        clock = RedisClock(lambda: 7.0, lambda: passed)
        client = redis_client(redis_server.url, PATIENT)
        assert clock.now() == 7.0
        before = SERVER()
        await clock.hear(client)
        heard = clock.now()
        assert before <= heard <= SERVER()
        passed = 9.0
        await clock.hear(client)
        assert clock.now() == heard + 9.0
        passed = 11.0
        await clock.hear(client)
        assert heard <= clock.now() <= SERVER()
        await client.close()
        passed = 30.0
        with pytest.raises(StorageUnavailable):
            await clock.hear(redis_client("redis://127.0.0.1:1", 1.0))

    asyncio.run(main())
