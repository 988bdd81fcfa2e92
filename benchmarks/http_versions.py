"""What a large body and a long stream cost by HTTP/1.1, 2 and 3, without any link: CPU of the gateway and of curl.

``python -m benchmarks.http_versions``; the least of ``--rounds``, by curl, whose HTTP/3 is written in C.  It needs
Linux's ``/proc``, the extra ``http3``, ``pycurl`` with HTTP/3, and the ``openssl`` command.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import pycurl

from penstock.testing import GatewayProcess, SimulatorProcess

MB = 1_000_000
VERSIONS = {
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "2": pycurl.CURL_HTTP_VERSION_2_0,
    "3": 31,  # HTTP/3 only
}


def certificate(folder):
    files = {"certificate": str(folder / "certificate.pem"), "key": str(folder / "key.pem")}
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    told = ["-keyout", files["key"], "-out", files["certificate"], "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*words, *told], check=True, capture_output=True)
    return files


def asked(**more):
    return json.dumps({"messages": [{"role": "user", "content": "?"}], **more}).encode()


def bodies():
    text = base64.b64encode(random.Random(1).randbytes(5 * MB * 3 // 4)).decode()
    yield "5 MB up", asked(model="sim:tokens=8", messages=[{"role": "user", "content": text}])
    yield "15,000 events down", asked(model="sim:tokens=15000", stream=True)


def call(url, version, body):
    handle, answer = pycurl.Curl(), io.BytesIO()
    handle.setopt(pycurl.URL, url + "/v1/chat/completions")
    handle.setopt(pycurl.SSL_VERIFYPEER, 0)
    handle.setopt(pycurl.SSL_VERIFYHOST, 0)
    handle.setopt(pycurl.PROXY, "")
    handle.setopt(pycurl.HTTP_VERSION, VERSIONS[version])
    handle.setopt(pycurl.HTTPHEADER, ["Expect:", "Content-Type: application/json"])
    handle.setopt(pycurl.POSTFIELDS, body)
    handle.setopt(pycurl.WRITEFUNCTION, answer.write)
    handle.perform()
    assert handle.getinfo(pycurl.RESPONSE_CODE) == 200, answer.getvalue()
    handle.close()


def theirs(pid):
    """Seconds of CPU of a process and its children."""
    ticks, processes = 0, [pid]
    while processes:
        each = processes.pop()
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        processes += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


def ours():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(gateway, version, body):
    before = theirs(gateway.pid), ours(), time.perf_counter()
    call(gateway.url, version, body)
    after = theirs(gateway.pid), ours(), time.perf_counter()
    return tuple(now - then for then, now in zip(before, after, strict=True))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args(arguments).rounds
    print("| | | gateway, s of CPU | curl, s of CPU | s |\n|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as name, SimulatorProcess() as simulator:
        folder = Path(name)
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.url}},
            "models": {"sim*": {"candidates": [{"upstream": "sim"}]}},
            "listener": {"max_body_bytes": 64 * MB},
            "tls": certificate(folder),
        }
        with GatewayProcess(settings, folder, options=["--http3"]) as gateway:
            for what, body in bodies():
                for version in VERSIONS:
                    least = min(measured(gateway, version, body) for _ in range(rounds))
                    print(
                        f"| {what} | {version} | {' | '.join(f'{each:.2f}' for each in least)} |", flush=True
                    )
    print("load average", os.getloadavg())


if __name__ == "__main__":
    main()
