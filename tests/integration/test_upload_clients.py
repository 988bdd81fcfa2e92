"""Independent clients against the gateway, unchanged, with a network that cuts: tuspy and aiotus."""

import asyncio
import gc
import hashlib
import os
import random
import signal
import socket
import threading
from pathlib import Path

import aiotus
import httpx
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from penstock.testing import GatewayProcess, SimulatorProcess

FILE = 3_000_000

# tuspy leaves files and connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(config(simulator, folder), folder) as running,
    ):
        yield running


def config(simulator, folder, **more):
    return {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
        "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
        "files": {"directory": str(folder / "kept"), "max_file_bytes": 2_000_000_000},
        "workers": 2,
        **more,
    }


@pytest.fixture(autouse=True)
def _swept():
    """What tuspy leaves behind is collected where it is expected."""
    yield
    gc.collect()


class Cutter:
    """A TCP relay that resets a connection after a drawn number of bytes from the client."""

    def __init__(self, url, seed, least, most):
        host, _, port = url.removeprefix("http://").partition(":")
        self.target = (host, int(port))
        self.random = random.Random(seed)
        self.span = (least, most)
        self.cuts = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.ready = threading.Event()
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *exc):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()

    def _run(self):
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self):
        self.stop = asyncio.Event()
        self.tasks = set()
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.ready.set()
        await self.stop.wait()
        server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _relay(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        budget = self.random.randint(*self.span)
        there, back = await asyncio.open_connection(*self.target)
        try:
            returning = asyncio.create_task(self._copy(there, writer))
            while data := await reader.read(65_536):
                back.write(data[:budget])
                await back.drain()
                budget -= len(data)
                if budget <= 0:
                    self.cuts += 1
                    linger = (1).to_bytes(4, "little") + bytes(4)
                    for each in (writer, back):
                        each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
            else:
                await returning
            returning.cancel()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            back.transport.abort()

    async def _copy(self, reader, writer):
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass


def content_of(gateway, name):
    listed = httpx.get(f"{gateway.base_url}/files").json()["data"]
    (file,) = [each for each in listed if each["filename"] == name]
    return httpx.get(f"{gateway.base_url}/files/{file['id']}/content").content


def written(folder, name, size=FILE):
    path = folder / name
    path.write_bytes(random.Random(name).randbytes(size))
    return path


@pytest.mark.parametrize("checksum", [False, True])
def test_tuspy_through_cuts(gateway, tmp_path, checksum):
    path = written(tmp_path, f"tuspy-{checksum}")
    with (
        Cutter(gateway.url, seed=checksum, least=200_000, most=1_500_000) as network,
        path.open("rb") as file,
    ):
        client = TusClient(f"{network.url}/v1/files")
        uploader = client.uploader(
            file_stream=file,
            chunk_size=500_000,
            upload_checksum=checksum,
            metadata={"filename": path.name},
            retries=20,
            retry_delay=0.01,
        )
        uploader.upload()
        assert network.cuts
    assert content_of(gateway, path.name) == path.read_bytes()


def test_tuspy_goes_on_in_another_process_of_its_own(gateway, tmp_path):
    path = written(tmp_path, "tuspy-again")
    client = TusClient(f"{gateway.url}/v1/files")
    with path.open("rb") as file:
        first = client.uploader(file_stream=file, chunk_size=700_000, metadata={"filename": path.name})
        first.upload_chunk()
    with path.open("rb") as file:
        second = client.uploader(file_stream=file, chunk_size=700_000, url=first.url)
        assert second.offset == 700_000
        second.upload()
        assert content_of(gateway, path.name) == path.read_bytes()
        with pytest.raises(TusCommunicationError):
            client.uploader(file_stream=file, url=first.url[:-1] + "x").offset  # noqa: B018 - asks for it


def test_aiotus_through_cuts(gateway, tmp_path):
    path = written(tmp_path, "aiotus")
    retry = aiotus.RetryConfiguration(retry_attempts=20, max_retry_period_seconds=0.01)

    async def main(url):
        with path.open("rb") as file:
            return await aiotus.upload(
                f"{url}/v1/files", file, {"filename": path.name.encode()}, config=retry, chunksize=400_000
            )

    with Cutter(gateway.url, seed=3, least=200_000, most=900_000) as network:
        assert asyncio.run(main(network.url)) is not None
        assert network.cuts
    assert content_of(gateway, path.name) == path.read_bytes()


def test_aiotus_sends_parts_side_by_side(gateway, tmp_path):
    parts = [written(tmp_path, f"part-{number}", 300_000 + number) for number in range(3)]

    async def main():
        files = [path.open("rb") for path in parts]
        try:
            return await aiotus.upload_multiple(
                f"{gateway.url}/v1/files", files, {"filename": b"aiotus-parts"}, chunksize=100_000
            )
        finally:
            for file in files:
                file.close()

    assert asyncio.run(main()) is not None
    assert content_of(gateway, "aiotus-parts") == b"".join(path.read_bytes() for path in parts)


@pytest.fixture
def started():
    """Starts gateways, which have ended at the end whatever became of the test."""
    gateways = []

    def start(*args):
        gateways.append(GatewayProcess(*args))
        return gateways[-1].start()

    yield start
    for each in gateways:
        each.stop()


@pytest.mark.slow  # two gateways start and are killed, and 100 MB are hashed and synced
def test_killed_twice_in_mid_upload_a_file_arrives_whole(tmp_path, started):
    size, chunk = 100_000_000, 4_000_000
    draw = random.Random(7)
    pieces = [draw.randbytes(chunk) for _ in range(size // chunk)]
    whole = hashlib.sha256(b"".join(pieces)).hexdigest()
    where, offset, confirmed = "", 0, 0
    with SimulatorProcess() as simulator:
        for life in range(3):
            running = started(config(simulator, tmp_path, workers=1), tmp_path)
            with httpx.Client(base_url=running.url) as client:
                if not where:
                    made = client.post("/v1/files", headers={"upload-complete": "?0", "content-type": "x/y"})
                    where = "/v1/uploads/" + made.headers["location"].rpartition("/")[2]
                (pid,) = running.worker_pids()
                killer = None
                try:
                    for number in range(len(pieces)):
                        if number * chunk < offset:
                            continue
                        if life < 2 and number == (life + 1) * 8:
                            killer = threading.Timer(0.01, _kill, (running.pid, pid))
                            killer.start()
                        last = number == len(pieces) - 1
                        answer = client.patch(
                            where,
                            content=pieces[number],
                            headers={
                                "upload-offset": str(number * chunk),
                                "upload-complete": "?1" if last else "?0",
                                "content-type": "application/partial-upload",
                            },
                        )
                        assert answer.status_code in {200, 204}, answer.text
                        confirmed = int(answer.headers["upload-offset"])
                except httpx.TransportError:
                    assert killer is not None
                if killer is not None:
                    killer.join()
                    running.stop()
            if life < 2:
                running = started(config(simulator, tmp_path, workers=1), tmp_path)
                head = httpx.head(running.url + where)
                offset = int(head.headers["upload-offset"])
                assert offset >= confirmed, "what was confirmed is lost"
                if offset % chunk:  # a part of a chunk was confirmed on the way: the rest of it
                    rest = pieces[offset // chunk][offset % chunk :]
                    fields = {
                        "upload-offset": str(offset),
                        "upload-complete": "?0",
                        "content-type": "application/partial-upload",
                    }
                    assert httpx.patch(running.url + where, content=rest, headers=fields).status_code == 204
                    offset += len(rest)
                running.stop()
            else:
                told = httpx.get(f"{running.url}/v1/files/{answer.json()['id']}/content").content
                assert hashlib.sha256(told).hexdigest() == whole
                status = Path(f"/proc/{pid}/status").read_text()
                assert int(status.partition("VmHWM:")[2].split()[0]) < 150 << 10  # KiB, at its highest
                running.stop()


def _kill(*pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
