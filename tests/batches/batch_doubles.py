"""A runner in the test's own loop: time stands still, and what the pipeline says is the test's affair."""

import asyncio
import contextlib
import json
import logging

from penstock.batches.batch import OPENAI, Batch, new_batch_id
from penstock.batches.runner import Runner
from penstock.batches.store import BatchStore
from penstock.config.model import BatchesConfig
from penstock.metrics import Registry
from penstock.testing import FakeClock
from penstock.upload.disk_threads import DiskThreads
from penstock.upload.file_index import new_file_id
from penstock.upload.files import FileStore
from penstock.upload.stores.sqlite_files import LocalShelf, SQLiteFileIndex

URL = "/v1/chat/completions"


class Wall:
    """Unix time."""

    def __init__(self):
        self.time = 1_700_000_000.0

    def __call__(self):
        return self.time


class Pipeline:
    """Answers each call when it is told to; ``say`` answers all that come, at once."""

    def __init__(self):
        self.asked = []  # exchanges, in the order in which they came
        self.tenants = []
        self.say = None

    def __call__(self, exchange, endpoint, tenant):
        assert exchange.path == endpoint.path
        self.asked.append(exchange)
        self.tenants.append(tenant)
        if self.say is not None:
            answer(exchange, *self.say(exchange))

    @property
    def open(self):
        return [exchange for exchange in self.asked if not exchange.started and not exchange.gone]

    def prompts(self):
        return [json.loads(exchange.whole_body())["prompt"] for exchange in self.asked]


def answer(exchange, status=200, value=None, headers=()):
    text = json.dumps({"said": "so"} if value is None else value).encode()
    exchange.respond(status, [(b"penstock-generation", b"gen_1"), *headers], text)


class World:
    """A directory, a clock, and any number of workers that share both."""

    def __init__(self, directory, **config):
        self.directory = directory / "kept"
        self.config = BatchesConfig(**config)
        self.clock = FakeClock()
        self.wall = Wall()
        self.told = []
        self.workers = []
        self.providers = None  # nobody hands lines on

    async def worker(self):
        worker = Worker(self)
        await worker.files.start()
        await worker.runner.start()
        self.workers.append(worker)
        return worker

    async def until(self, reached):
        """Let time pass until something is so."""
        async with asyncio.timeout(60):
            while not reached():
                self.clock.advance(0.1)
                await asyncio.sleep(0.001)

    async def settle(self):
        """Let what can happen without time passing happen."""
        for _ in range(30):
            await asyncio.sleep(0.001)


class Worker:
    def __init__(self, world):
        self.world = world
        self.pipeline = Pipeline()
        self.metrics = Registry()
        self.forgotten = []  # generations, by their ids
        threads = DiskThreads(world.directory, "files", logging.getLogger("penstock.files"))
        self.files = FileStore(
            world.directory,
            threads,
            SQLiteFileIndex(world.directory / "files.sqlite"),
            LocalShelf(world.directory / "content", threads),
            max_file_bytes=1 << 24,
            tenant_bytes=1 << 26,
            kept_for=0.0,
            now=world.wall,
        )
        self.runner = Runner(
            BatchStore(world.directory),
            self.files,
            self.pipeline,
            world.config,
            world.clock,
            self.metrics,
            announce=self._announce,
            forget=self.forgotten.append,
            longest_line=10_000,
            providers=world.providers,
            now=world.wall,
        )

    async def _announce(self, batch):
        self.world.told.append((batch.id, batch.status.value))

    async def begin(self, lines, *, tenant="t", window=86_400.0, **more):
        """A batch of these lines: texts as they are, anything else a prompt."""
        texts = [
            line
            if isinstance(line, str)
            else json.dumps({"custom_id": f"c{line}", "method": "POST", "url": URL, "body": {"prompt": line}})
            for line in lines
        ]
        incoming = await self.files.receive(tenant, 0)
        await incoming.write("\n".join(texts).encode())
        file = await incoming.finish("in.jsonl", "batch", None)
        now = self.world.wall()
        batch = Batch(
            id=new_batch_id(OPENAI),
            tenant=tenant,
            key_name="k",
            models=("m*",),
            endpoint=URL,
            input_file=file.id,
            window="24h",
            created=now,
            expires=now + window,
            output_file=new_file_id(),
            error_file=new_file_id(),
            **more,
        )
        await self.files.fetch(file.id, self.runner.store.input_of(batch))
        await self.runner.store.add(batch)
        self.runner.look_soon()
        return batch

    async def now(self, batch):
        return await self.runner.store.get(batch.tenant, OPENAI, batch.id)

    async def ended(self, batch):
        await self.world.until(lambda: batch.id in {told for told, _ in self.world.told})
        await self.world.until(lambda: batch.id not in self.runner._runs)
        return await self.now(batch)

    async def results(self, file_id, tenant="t"):
        await self.files.get(tenant, file_id)
        text = b"".join([piece async for piece in self.files.pieces(file_id)])
        return [json.loads(line) for line in text.splitlines()]

    async def die(self):
        """As a process does at kill -9: nothing more is done, and the kernel takes the locks back."""
        runner = self.runner
        runner._clock.remove(runner)
        for task in runner._tasks:
            task.cancel()
        if runner._tasks:
            await asyncio.wait(runner._tasks)
        await runner.store.close()
        await self.files.close()
        self.world.workers.remove(self)

    async def close(self):
        self.runner.stop()
        for exchange in self.pipeline.open:
            answer(exchange, 503, {"error": {"code": "draining"}})
        await self.runner.close()
        await self.files.close()


@contextlib.asynccontextmanager
async def a_world(directory, **config):
    world = World(directory, **config)
    try:
        yield world
    finally:
        for worker in list(world.workers):
            await worker.close()
