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
