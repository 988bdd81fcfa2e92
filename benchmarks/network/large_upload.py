"""One gigabyte through a gateway that is killed twice on the way: ``python -m benchmarks.network.large_upload``.

``penstock put`` sends a file of noise; the gateway, supervisor and worker, gets SIGKILL when a third and when two
thirds have arrived, and is started again.  Told are what the gateway's processes held at their highest (VmHWM), whether
the file came out with the same SHA-256, and how often the connection was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.testing._ports import free_port

KILLS = (1 / 3, 2 / 3)
LOOK = 0.02  # seconds between two looks at how much has arrived
BLOCK = 1_000_000


def noise(path, size):
    """A file, and its SHA-256."""
    whole, draw = hashlib.sha256(), random.Random(1)
    with path.open("wb") as file:
        for begin in range(0, size, BLOCK):
            block = draw.randbytes(min(BLOCK, size - begin))
            whole.update(block)
            file.write(block)
    return whole.hexdigest()


def highest(pid):
    """Bytes that a process held at its highest."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) << 10


def arrived(folder):
    """Bytes below a folder."""
    found = 0
    for each in folder.rglob("*"):
        try:
            found += each.stat().st_size
        except FileNotFoundError:  # it was moved in between
            pass
    return found


def measure(size, folder):
    """What is told of one transfer."""
    source, kept = folder / "noise.bin", folder / "kept"
    must = noise(source, size)
    supervisors, workers, told = [], [], ""
    with SimulatorProcess() as simulator:
        settings = {
            "listen": f"127.0.0.1:{free_port()}",
            "workers": 1,
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}]}},
            "files": {"directory": str(kept), "max_file_bytes": max(2 * size, 1 << 30)},
        }
        gateway = GatewayProcess(settings, folder).start()

        def seen():
            """What its processes hold, while they are there."""
            (worker,) = gateway.worker_pids()
            supervisors.append(highest(gateway.pid))
            workers.append(highest(worker))
            return gateway.pid, worker

        began = time.monotonic()
        words = [sys.executable, "-m", "penstock", "put", str(source), "--url", gateway.url]
        sender = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for part in KILLS:
                while sender.poll() is None and arrived(kept) < size * part:
                    time.sleep(LOOK)
                assert sender.poll() is None, "it was done before the gateway could be killed"
                for pid in seen():
                    os.kill(pid, signal.SIGKILL)
                gateway.stop()
                gateway = GatewayProcess(settings, folder).start()
            name, told = sender.communicate()
            seconds = time.monotonic() - began
            came = hashlib.sha256()
            with httpx2.stream("GET", f"{gateway.url}/v1/files/{name.strip()}/content", timeout=60) as answer:
                for piece in answer.iter_bytes():
                    came.update(piece)
            seen()
        finally:
            sender.kill()
            sender.wait()
            gateway.stop()
    return {
        "size": size,
        "killed": len(KILLS),
        "equal": came.hexdigest() == must,
        "worker_bytes": max(workers),
        "supervisor_bytes": max(supervisors),
        "connections_lost": told.count("going on where it was"),
        "seconds": seconds,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000_000, help="bytes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.size, Path(folder))
    print(
        f"{found['size']:,} bytes in {found['seconds']:.0f} s, gateway killed {found['killed']} times: "
        f"digest {'equal' if found['equal'] else 'NOT equal'}; "
        f"at the highest the worker held {found['worker_bytes'] / 2**20:.0f} MiB, "
        f"the supervisor {found['supervisor_bytes'] / 2**20:.0f} MiB"
    )
    return found


if __name__ == "__main__":
    main()
