"""A file sent to a gateway in appends, of which a break costs what was on its way: what ``penstock put`` does.

First it is told as a list of blocks (``_blocks``): of a file that was sent within the hour, perhaps by another process
and with other content here and there, only what is new goes up.  Where that is too much, it goes in appends, which say
how they are cut, so that the next time its blocks are known.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from penstock.client import _cutting
from penstock.client._blocks import LEAST_KNOWN, MOST_BLOCKS, Blocks, InBlocks, Known
from penstock.client._breaks import Break, kind_of
from penstock.client._uploading import Link, Outcome, Step, Upload
from penstock.config.model import RetryConfig
from penstock.flow.retry import delay
from penstock.wire.not_json import NOT_JSON

APPEND_BYTES = 16_000_000
LEAST_TOLD, MOST_TOLD = 1_000_000, 2_000_000_000  # bytes of a file that is told in blocks
_PIECE = 65_536  # bytes between two looks at the progress
_RESUMING = RetryConfig(first_delay=0.1, max_delay=2.0)


class PutError(Exception):
    """The file is not there."""


class _Error(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _Error | None = None
    title: str = ""


_refusal = msgspec.json.Decoder(_Refusal).decode
_file = msgspec.json.Decoder(dict[str, Any]).decode


def put(
    client: httpx2.Client,
    url: str,
    path: Path,
    *,
    key: str = "",
    purpose: str = "user_data",
    patience: float = 60.0,
    on_progress: Callable[[int, int], None] = lambda _sent, _size: None,
    on_break: Callable[[str], None] = lambda _reason: None,
) -> dict[str, Any]:
    """Send a file: what the gateway says of it, as OpenAI's API has it.

    :param url: of the gateway, with or without ``/v1``
    :param patience: seconds without progress after which it is given up
    :param on_progress: is told how many bytes have been sent or confirmed, and how many there are
    :param on_break: is told why a connection was lost, each time
    :raises PutError: the gateway does not take it, or cannot be reached any more
    :raises OSError: the file cannot be read
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return _Putting(client, url, b"", path.name, key, purpose, patience, on_progress, on_break).run()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            putting = _Putting(client, url, content, path.name, key, purpose, patience, on_progress, on_break)
            try:
                return putting.run(lambda: _check_whole(file.fileno(), size))
            finally:
                putting.close()


class _Putting:
    """One file on its way."""

    def __init__(
        self,
        client: httpx2.Client,
        url: str,
        content: bytes | mmap.mmap,
        name: str,
        key: str,
        purpose: str,
        patience: float,
        on_progress: Callable[[int, int], None],
        on_break: Callable[[str], None],
    ) -> None:
        self._client = client
        self._origin = httpx2.URL(url.rstrip("/").removesuffix("/v1"))
        self._purpose = purpose
        self._patience = patience
        self._on_progress = on_progress
        self._on_break = on_break
        self._progress = 0.0  # when there was some
        self._confirmed = 0
        self._tries = 0
        headers = {
            "content-type": "application/octet-stream",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        }
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._size = len(content)
        link, cuts = Link(), _cuts(content)
        told = None
        if cuts:
            blocks = Blocks(content, cuts, "", key)
            told = InBlocks(blocks, _under_a_key(headers), "/v1", Known(), (), link)
        # Last, as it holds the content until it is closed: what was begun and interrupted nobody would close.
        self._upload = Upload(content, _under_a_key(headers), link, most=APPEND_BYTES, cuts=cuts)
        self._way: Upload | InBlocks = self._upload if told is None else told

    def __repr__(self) -> str:
        return f"<_Putting {self._way!r}>"

    def close(self) -> None:
        self._upload.body.release()

    def run(self, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """:param check: before the content is looked at; raises if it cannot be"""
        self._progress = time.monotonic()
        while True:
            way = self._way
            check()
            try:
                with self._sent(way.step(time.monotonic())) as response:
                    status = response.status_code
                    outcome = way.took(status, response.headers, time.monotonic())
                    body = response.read()
                if outcome is Outcome.LATER:
                    raise httpx2.RemoteProtocolError(f"status {status}")
            except httpx2.RequestError as error:
                self._broke(error)
                continue
            if isinstance(way, InBlocks) and self._goes_whole(way, outcome, status, body):
                self._way, self._confirmed = self._upload, 0
                continue
            if way.offset > self._confirmed:
                self._confirmed, self._progress, self._tries = way.offset, time.monotonic(), 0
            self._on_progress(self._done, self._size)
            if outcome is Outcome.ANSWER and status < 300:
                return _read(status, body)
            if outcome not in (Outcome.ONWARD, Outcome.LACKING):
                raise PutError(_told(status, body))

    def _goes_whole(self, way: InBlocks, outcome: Outcome, status: int, body: bytes) -> bool:
        """Whether a file that was told in blocks had better go in appends."""
        if outcome is Outcome.LACKING:
            return way.lacks(body) is not Outcome.ONWARD or way.left > self._size * (1 - LEAST_KNOWN)
        return status >= 300  # if it is refused for good, the appends will tell why

    @property
    def _done(self) -> int:
        """Bytes of the file that the gateway has."""
        return self._way.offset if isinstance(self._way, Upload) else self._size - self._way.left

    def _sent(self, step: Step) -> Any:
        path = step.path or f"/v1/files?purpose={quote(self._purpose)}"
        headers = {**step.headers, "Content-Length": str(len(step.content))}
        if step.method == "HEAD":
            del headers["Content-Length"]
        url = self._origin.copy_with(raw_path=path.encode("ascii"))
        shown = step.path is not None or self._way is self._upload  # and not the list of blocks
        content = self._pieces(step.content, self._done if shown else None) if step.content else None
        return self._client.stream(step.method, url, headers=headers, content=content)

    def _pieces(self, content: bytes, begin: int | None) -> Iterator[bytes]:
        for at in range(0, len(content), _PIECE):
            if begin is not None:
                self._on_progress(begin + at, self._size)
            yield content[at : at + _PIECE]

    def _broke(self, error: httpx2.RequestError) -> None:
        self._way.broke()
        reason = str(error) or type(error).__name__
        if kind_of(error) is Break.FATAL or time.monotonic() - self._progress > self._patience:
            raise PutError(reason) from error
        self._on_break(reason)
        self._tries += 1
        if self._tries > 1:
            time.sleep(delay(_RESUMING, self._tries - 1))


def _check_whole(file: int, size: int) -> None:
    """To look into what a file has no more would be the end of the process (SIGBUS), of which nobody is told."""
    if os.fstat(file).st_size < size:
        raise PutError("the file has become shorter while it was sent")


def _cuts(content: bytes | mmap.mmap) -> list[int]:
    """Sizes of the blocks in which a file is told; none: it is not."""
    if not LEAST_TOLD <= len(content) <= MOST_TOLD:
        return []
    sizes = [len(block) for block in _cutting.blocks(content)]
    return sizes if len(sizes) <= MOST_BLOCKS else []


def _read(status: int, body: bytes) -> dict[str, Any]:
    """What the gateway says of the file.

    :raises PutError: it is nothing of the kind, as where somebody on the way answers
    """
    try:
        return _file(body)
    except NOT_JSON:
        raise PutError(f"what came tells of no file (status {status})") from None


def _under_a_key(headers: dict[str, str]) -> dict[str, str]:
    """The two ways differ in what they ask for, so one key may not be both's."""
    return {**headers, "idempotency-key": "put_" + os.urandom(16).hex()}


def _told(status: int, body: bytes) -> str:
    try:
        refusal = _refusal(body)
    except NOT_JSON:
        refusal = _Refusal()
    told = refusal.error.message if refusal.error is not None else refusal.title
    return f"{told or 'the server does not take it'} (status {status})"
