"""The form in which a body goes out."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import zstandard

from penstock.client._coded import CodedBody
from penstock.client._peers import Peer
from penstock.client.statistics import Counters
from penstock.messages import Endpoint

MB = 1_000_000
USUAL = 3  # level of zstd, of callers who compress by themselves


def source_code(size):
    """What a programmer sends: the source of Python's own library, file after file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    whole = "".join(each.read_text(errors="ignore") for each in files)
    return (whole * (size // len(whole) + 1))[:size]


def test_blocks_that_are_compressed_by_themselves_are_no_longer_than_one_stream():
    question = [{"role": "user", "content": source_code(5 * MB)}]
    body = json.dumps({"model": "m", "messages": question}).encode()
    peer = Peer("http", "gateway", 0, is_gateway=True)
    sent = CodedBody(body, Endpoint.CHAT, {}, MB, Counters(None)).to(peer, 0.0)
    assert len(sent.cuts) > 2
    assert zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(sent.body) == body
    assert len(sent.body) <= len(zstandard.ZstdCompressor(level=USUAL).compress(body))
