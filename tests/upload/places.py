"""Where uploads can be: each with what a test asks of it beside its store."""

import contextlib
import re
import subprocess
import sys
import time

import boto3

from penstock.testing._ports import free_port
from penstock.upload.index import Limits
from penstock.upload.stores.disk import Disk
from penstock.upload.stores.redis import PREFIX, RedisContents, RedisIndex
from penstock.upload.stores.redis_clock import RedisClock
from penstock.upload.stores.s3 import S3Contents
from penstock.upload.stores.sqlite import SQLiteIndex
from penstock.upload.uploads import UploadStore

PATIENT = 60.0  # seconds: what is tested is not how quick a busy machine is
_SERVE = "import sys, moto.server; moto.server.main(['-p', sys.argv[1]])"


class Wall:
    def __init__(self):
        self.time = time.time()

    def __call__(self):
        return self.time


class S3Server:
    """moto's S3, in a process of its own."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([sys.executable, "-c", _SERVE, str(self.port)], **quiet)
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(Exception):
                self.client().list_buckets()
                return
            time.sleep(0.05)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def client(self):
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.url, **keys)

    def bucket(self, name):
        self.client().create_bucket(Bucket=name)
        return name


class Place:
    """This machine's disk."""

    def __init__(self, folder):
        self.folder = folder / "kept"

    def index(self, disk, limits):
        return SQLiteIndex(self.folder / "uploads.sqlite", limits)

    def contents(self, disk):
        return None

    def spool(self, on):
        return "blocks"

    @contextlib.asynccontextmanager
    async def store(self, *, on="", **more):
        """:param on: of which machine; those have separate disks where something is shared"""
        limits = Limits(
            **{
                "tenant_bytes": 64 << 20,
                "max_open": 10,
                "kept_for": 100.0,
                "completed_kept_for": 10.0,
                "blocks_kept_for": 50.0,
                "now": Wall(),
                **more,
            }
        )
        disk = Disk(self.folder / self.spool(on))
        store = UploadStore(disk, self.index(disk, limits), limits, self.contents(disk))
        await store.start()
        try:
            yield store
        finally:
            await store.close()

    def files(self):
        """Of the blocks that are kept."""
        return sorted(path.name for path in (self.folder / "blocks").iterdir())

    def written(self):
        """What lies on any machine's disk."""
        return [path for folder in self.folder.glob("blocks*") for path in folder.iterdir()]


class OnRedis(Place):
    """Everything in a server; machines share no disk."""

    def __init__(self, folder, server, *, budget=PATIENT):
        super().__init__(folder)
        self.server = server
        self.prefix = f"{folder.name}:{PREFIX}"
        self.budget = budget

    def index(self, disk, limits):
        return RedisIndex(
            self.server.url, limits, kept=True, clock=RedisClock(), prefix=self.prefix, budget=self.budget
        )

    def spool(self, on):
        return f"blocks{on}"

    def contents(self, disk):
        return RedisContents(self.server.url, disk, prefix=self.prefix, budget=self.budget)

    def files(self):
        return sorted(key.rpartition(":")[2] for key in self.keys() if ":content:" in key)

    def keys(self):
        keys = redis(self.server, "--raw", "keys", "*").decode(errors="replace").split("\n")
        return [key for key in keys if key.startswith(self.prefix)]


class OnS3(Place):
    """The blocks in a bucket, the index in a file."""

    def __init__(self, folder, server, *, budget=PATIENT):
        super().__init__(folder)
        self.server = server
        self.bucket = server.bucket(re.sub("[^a-z0-9]", "-", folder.name.lower())[-50:] + "-b")
        self.budget = budget

    def spool(self, on):
        return f"blocks{on}"

    def contents(self, disk):
        return S3Contents(
            disk,
            self.bucket,
            prefix="some/folder",
            endpoint=self.server.url,
            region="us-east-1",
            access_key="key",
            secret_key="secret",
            budget=self.budget,
        )

    def objects(self):
        found = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix="some/folder/")
        return {each["Key"].rpartition("/")[2]: each["Size"] for each in found.get("Contents", [])}

    def files(self):
        return sorted({name.partition(".")[0] for name in self.objects()})


class OnRedisAndS3(OnS3):
    """The blocks in a bucket, the index in a server."""

    def __init__(self, folder, server, s3, *, budget=PATIENT):
        super().__init__(folder, s3, budget=budget)
        self.redis = server

    def index(self, disk, limits):
        return RedisIndex(
            self.redis.url,
            limits,
            kept=False,
            clock=RedisClock(),
            prefix=f"{self.folder.parent.name}:{PREFIX}",
            budget=self.budget,
        )


def redis(server, *words):
    return subprocess.check_output(["redis-cli", "-p", str(server.port), *words])
