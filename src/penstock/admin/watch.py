"""Whether files have changed: by their content, which no way of replacing a file can hide.

Editors write in place or rename a new file over the old one; Kubernetes swaps a symlink two levels up;
some file systems have coarse time stamps.  The files are few and small, and are read once a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

STEADY = 2  # looks at which new content is the same before it counts: a file is not read half written
GONE = 5  # the same for a file that cannot be read: between the two renames of some editors it is not there


class FileWatch:
    """Tells a change once, when the files have been the same for a few looks.

    A file that has gone has changed, and so it has when it is back: whoever was told is told again once all
    can be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._known = self._digests()
        self._candidate: tuple[bytes | None, ...] = ()
        self._looks = 0  # that have seen the candidate

    def look(self) -> dict[Path, bytes | None]:
        """The files as they are now, for :meth:`follow`."""
        return dict(zip(self._paths, self._digests(), strict=True))

    def follow(self, paths: Iterable[Path], read: Mapping[Path, bytes | None] | None = None) -> None:
        """Watch these from now on.

        :param read: those that have been read since, as they were before; the others are taken as they are now
        """
        self._paths = tuple(paths)
        known = {**self.look(), **(read or {})}
        self._known = tuple(known[path] for path in self._paths)
        self._looks = 0

    def changed(self) -> bool:
        """One look."""
        digests = self._digests()
        if digests == self._known:
            self._looks = 0
            return False
        self._looks = self._looks + 1 if self._looks and digests == self._candidate else 1
        self._candidate = digests
        gone = any(new is None and old for new, old in zip(digests, self._known, strict=True))
        if self._looks < (GONE if gone else STEADY):
            return False
        self._known = digests
        self._looks = 0
        return True

    @property
    def missing(self) -> list[Path]:
        """The files that could not be read when a change was told last."""
        return [path for path, digest in zip(self._paths, self._known, strict=True) if digest is None]

    def _digests(self) -> tuple[bytes | None, ...]:
        """Of each file; None: it cannot be read now."""
        return tuple(_digest(path) for path in self._paths)

    def __repr__(self) -> str:
        return f"<FileWatch of {', '.join(map(str, self._paths)) or 'nothing'}>"


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.blake2b(path.read_bytes()).digest()
    except OSError:
        return None
