"""Where files can be: each with what a test asks of it beside its store."""

import contextlib
import logging
import re

from places import PATIENT, redis

from penstock.upload.disk_threads import DiskThreads
from penstock.upload.files import FileStore
from penstock.upload.stores.block_shelf import BlockShelf
from penstock.upload.stores.disk import Disk
from penstock.upload.stores.redis import RedisContents
from penstock.upload.stores.redis_clock import RedisClock
from penstock.upload.stores.redis_files import PREFIX, RedisFileIndex
from penstock.upload.stores.s3 import S3Contents
from penstock.upload.stores.sqlite_files import LocalShelf, SQLiteFileIndex


class Wall:
    def __init__(self):
        self.time = 1_000_000.0

    def __call__(self):
        return self.time


class Files:
    """On this machine's disk."""

    def __init__(self, folder):
        self.folder = folder

    def directory(self, on):
        return self.folder / "kept"

    def made_of(self, directory, threads):
        return SQLiteFileIndex(directory / "files.sqlite"), LocalShelf(directory / "content", threads)

    @contextlib.asynccontextmanager
    async def store(self, *, on="", **more):
        """:param on: of which machine; those have separate disks where files are shared"""
        settings = {
            "max_file_bytes": 1 << 20,
            "tenant_bytes": 4 << 20,
            "kept_for": 100.0,
            "now": Wall(),
            **more,
        }
        directory = self.directory(on)
        threads = DiskThreads(directory, "files", logging.getLogger("penstock.files"))
        store = FileStore(directory, threads, *self.made_of(directory, threads), **settings)
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def written(self):
        """The names of all files on any machine's disk."""
        return sorted(
            path.name for path in self.folder.rglob("*") if path.is_file() and "sqlite" not in path.name
        )

    def kept(self):
        """How many contents there are, anywhere."""
        return len(self.written())


class FilesOnRedis(Files):
    def __init__(self, folder, server):
        super().__init__(folder)
        self.server = server
        self.prefix = f"{folder.name}:{PREFIX}"

    def directory(self, on):
        return self.folder / f"kept{on}"

    def index(self, *, kept):
        return RedisFileIndex(
            self.server.url, kept=kept, clock=RedisClock(), prefix=self.prefix, budget=PATIENT
        )

    def made_of(self, directory, threads):
        disk = Disk(directory / "leaving")
        contents = RedisContents(self.server.url, disk, prefix=self.prefix, budget=PATIENT)
        return self.index(kept=True), BlockShelf(disk, contents)

    def kept(self):
        return len(self.keys("content:*")) + len(self.written())

    def keys(self, of="*"):
        found = redis(self.server, "--raw", "--scan", "--pattern", f"{self.prefix}{of}")
        return found.decode().split()


class FilesOnRedisAndS3(FilesOnRedis):
    def __init__(self, folder, server, s3):
        super().__init__(folder, server)
        self.s3 = s3
        self.bucket = s3.bucket(re.sub("[^a-z0-9]", "-", folder.name.lower())[-50:] + "-f")

    def made_of(self, directory, threads):
        disk = Disk(directory / "leaving")
        contents = S3Contents(
            disk,
            self.bucket,
            prefix="some/files",
            endpoint=self.s3.url,
            region="us-east-1",
            access_key="key",
            secret_key="secret",
            budget=PATIENT,
        )
        return self.index(kept=False), BlockShelf(disk, contents)

    def kept(self):
        found = self.s3.client().list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return len({each["Key"].rpartition(".")[0] for each in found}) + len(self.written())
