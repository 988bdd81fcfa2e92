"""Bodies that callers may refer to as dictionaries, by owner and SHA-256.

Each worker has what it was sent, in memory.  With a directory the workers of a machine have one set together, and after a
restart as well: what one was sent it writes there, and what it does not have it looks for there.  A file is written
beside the others and then given its name, so that nobody reads half of one; its content is compared with the name, so
that whatever happens to it, at worst there is no dictionary, and the caller sends the body without.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

log = logging.getLogger("penstock.codings")

_LOOKED_THROUGH = 8  # times as the room fills once


class Dictionaries:
    """The oldest make room.  For any thread; where there is a directory, for one that may wait for a disk.

    :param most: bytes that they may have together, in memory and in the directory
    :param directory: shared by all workers; made if it is missing
    """

    def __init__(self, most: int, directory: Path | None = None) -> None:
        self._most = most
        self._directory = directory
        self._held = 0
        self._contents: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._written = most  # since the directory was looked through: nobody knows what was there before
        self._failed = False

    def __repr__(self) -> str:
        return f"<Dictionaries {len(self._contents)}, {self._held} of {self._most} bytes>"

    @property
    def may_wait(self) -> bool:
        """Whether there is a disk to wait for."""
        return self._directory is not None

    def get(self, owner: str, digest: bytes) -> bytes | None:
        key = (owner, digest)
        with self._lock:
            content = self._contents.get(key)
            if content is not None:
                self._contents.move_to_end(key)
                return content
        content = self._read(owner, digest)
        if content is not None:
            self._hold(key, content)
        return content

    def keep(self, owner: str, content: bytes) -> bytes | None:
        """The content's SHA-256, if it is remembered from now on; None: it is too large."""
        if not content or len(content) > self._most // 4:
            return None  # one caller's largest shall not drive out all others
        digest = hashlib.sha256(content).digest()
        self._hold((owner, digest), content)
        self._write(owner, digest, content)
        return digest

    def _hold(self, key: tuple[str, bytes], content: bytes) -> None:
        with self._lock:
            if key not in self._contents:
                self._held += len(content)
            self._contents[key] = content
            self._contents.move_to_end(key)
            while self._held > self._most:
                _, old = self._contents.popitem(last=False)
                self._held -= len(old)

    # ---- the directory ----

    def _path(self, directory: Path, owner: str, digest: bytes) -> Path:
        return directory / hashlib.sha256(owner.encode() + b"\0" + digest).hexdigest()

    def _read(self, owner: str, digest: bytes) -> bytes | None:
        if self._directory is None:
            return None
        path = self._path(self._directory, owner, digest)
        try:
            content = path.read_bytes()
            os.utime(path)  # it is used
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(error)
            return None
        return content if hashlib.sha256(content).digest() == digest else None

    def _write(self, owner: str, digest: bytes, content: bytes) -> None:
        directory = self._directory
        if directory is None:
            return
        path = self._path(directory, owner, digest)
        beside = directory / f"{path.name}.{secrets.token_hex(4)}"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            beside.rename(path)
            self._make_room(directory, len(content))
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            self._tell(error)
        else:
            self._failed = False

    def _make_room(self, directory: Path, written: int) -> None:
        """Remove the oldest, now and then: each of several workers may have written as much meanwhile."""
        with self._lock:
            self._written += written
            if self._written < self._most // _LOOKED_THROUGH:
                return
            self._written = 0
        found: list[tuple[float, int, str]] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, entry.path))
        over = sum(size for _, size, _ in found) - self._most
        for _, size, name in sorted(found):
            if over <= 0:
                return
            Path(name).unlink(missing_ok=True)
            over -= size

    def _tell(self, error: OSError) -> None:
        """Once, until it works again: callers lose nothing but time."""
        if not self._failed:
            self._failed = True
            log.warning("dictionaries are not shared with other workers: %s", error)
