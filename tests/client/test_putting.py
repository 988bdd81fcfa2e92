"""What becomes of a file that is being put, when it is interrupted or nobody is there."""

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
