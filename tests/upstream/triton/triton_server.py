"""Starts tritonserver on free ports, and ends it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 60.0


def free_ports(count):
    """Ports that were free a moment ago; tritonserver cannot be given sockets."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class TritonServer:
    """One server with the models of a repository."""

    def __init__(self, repository, folder, *options):
        self._folder = Path(folder)
        package = Path(importlib.util.find_spec("pytriton").submodule_search_locations[0])
        self._home = package / "tritonserver"
        self._repository = repository
        self._options = options
        self.http, self.grpc, self.metrics_port = free_ports(3)
        self._process = None
        self._log = self._folder / "tritonserver.log"

    def __enter__(self):
        environ = {
            **os.environ,
            # Its stub takes the first libpython that it finds, which may be another one's.
            "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
            # The stub finds its packages by the first Python on the path; with another one's numpy, if that is
            # numpy 2, it takes every tensor for an empty one.
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._home / "bin" / "tritonserver",
                    f"--model-repository={self._repository}",
                    f"--backend-directory={self._home / 'backends'}",
                    f"--http-port={self.http}",
                    f"--grpc-port={self.grpc}",
                    f"--metrics-port={self.metrics_port}",
                    "--http-address=127.0.0.1",
                    "--grpc-address=127.0.0.1",
                    *self._options,
                ],
                env=environ,
                stdout=log,
                stderr=log,
            )
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def wait_ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                assert self._process.poll() is None, self._log.read_text()[-3000:]
                assert time.monotonic() < end, self._log.read_text()[-3000:]
                time.sleep(0.1)

    @property
    def pid(self):
        return self._process.pid

    @property
    def url(self):
        return f"http://127.0.0.1:{self.grpc}"

    def metrics(self):
        """Triton's own count, by metric and model."""
        found = {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("nv_inference") and 'model="' in line:
                    name, _, rest = line.partition("{")
                    model = rest.partition('model="')[2].partition('"')[0]
                    found[name, model] = float(line.rpartition(" ")[2])
        return found

    def kill(self):
        self._process.kill()
        self._process.wait(PATIENCE)

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(PATIENCE)
