"""What becomes of a file that is being put, when it is interrupted or nobody is there."""

import subprocess
import sys
from types import SimpleNamespace

import httpx2
import pytest

from penstock.client import _blocks, putting


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(putting.LEAST_TOLD))
    return path


def nobody(request):
    raise httpx2.ConnectError("nobody is there", request=request)


def test_who_interrupts_while_blocks_are_named_is_told_of_no_other_error(file, monkeypatch):
    def interrupted(_block):
        raise KeyboardInterrupt

    monkeypatch.setattr(_blocks, "hashlib", SimpleNamespace(sha256=interrupted))
    with httpx2.Client(transport=httpx2.MockTransport(nobody)) as client, pytest.raises(KeyboardInterrupt):
        putting.put(client, "http://a:1", file)


class Watch:
    """A clock that only waiting moves, and what the test says takes long."""

    def __init__(self):
        self.seconds = 1_000.0

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


def test_to_cut_a_long_file_takes_nothing_from_the_patience(file, monkeypatch):
    watch, breaks = Watch(), []
    cuts = putting._cuts

    def slowly(content):
        watch.seconds += 100
        return cuts(content)

    monkeypatch.setattr(putting, "time", watch)
    monkeypatch.setattr(putting, "_cuts", slowly)
    with httpx2.Client(transport=httpx2.MockTransport(nobody)) as client, pytest.raises(putting.PutError):
        putting.put(client, "http://a:1", file, on_break=breaks.append)
    assert breaks
    assert watch.seconds > 1_160


def test_a_file_that_becomes_shorter_meanwhile_is_an_error_and_no_crash(tmp_path):
    """As a log that is cut off where it is; in a process of its own, which a signal would end."""
    path = tmp_path / "file"
    path.write_bytes(bytes(40_000_000))
    done = subprocess.run(
        [sys.executable, "-c", SHORTER, path], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "the file has become shorter while it was sent\n"), (
        done.stderr
    )


SHORTER = """
import os, pathlib, sys
import httpx2
from penstock.client import putting

path = pathlib.Path(sys.argv[1])
sent = 0

def gateway(request):
    global sent
    if request.method == "POST" and "vnd.penstock" in request.headers["content-type"]:
        return httpx2.Response(415)
    if request.method == "POST":
        return httpx2.Response(201, headers={"location": "/u"})
    sent += len(request.read())
    os.truncate(path, 0)
    return httpx2.Response(204, headers={"upload-offset": str(sent)})

with httpx2.Client(transport=httpx2.MockTransport(gateway)) as client:
    try:
        putting.put(client, "http://a:1", path)
    except putting.PutError as error:
        print(error)
"""
