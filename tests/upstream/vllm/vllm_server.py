"""A vLLM server as a process of its own, which computes on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from penstock.testing._ports import free_port

PATIENCE = 600.0  # it compiles and imports for a minute where nothing else is going on
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


class VllmServer:
    """One model, under the name ``tiny``."""

    def __init__(self, model, folder, *options):
        self.port = free_port()
        self._log = Path(folder) / "vllm.log"
        # Not by its command, which wants to know the version of a package by the name of vllm.
        self._command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={model}"]
        self._command += [f"--port={self.port}", "--host=127.0.0.1", "--served-model-name=tiny"]
        self._command += ["--enforce-eager", "--dtype=float32", "--max-model-len=512", "--max-num-seqs=8"]
        self._command += options

    def __enter__(self):
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **QUIET},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_ready()
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *_):
        self._end(signal.SIGTERM)

    def _wait_ready(self):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                assert self._process.poll() is None, self._log.read_text()[-3000:]
                assert time.monotonic() < end, self._log.read_text()[-3000:]
                time.sleep(0.2)

    def _end(self, how):
        """With the engine, which is a process of its own in the server's group."""
        group = self._process.pid
        try:
            os.killpg(group, how)
            self._process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait(60)
