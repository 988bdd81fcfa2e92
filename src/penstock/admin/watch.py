"""Whether files have changed: by their content, which no way of replacing a file can hide.

Editors write in place or rename a new file over the old one; Kubernetes swaps a symlink two levels up;
some file systems have coarse time stamps.  The files are few and small, and are read once a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


class FileWatch:
    """Tells a change once, when the new content has been the same for two looks.

    A file that is being written is so not read half; one that is missing for a moment (between the two
    renames of some editors) counts as unchanged.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._known = self._digest()
        self._candidate: bytes | None = None

    def follow(self, paths: Iterable[Path]) -> None:
        """Watch these from now on, as they are now."""
        self._paths = tuple(paths)
        self._known = self._digest()
        self._candidate = None

    def changed(self) -> bool:
        """One look."""
        digest = self._digest()
        if digest is None or digest == self._known:
            self._candidate = None
            return False
        if digest != self._candidate:
            self._candidate = digest
            return False
        self._known = digest
        self._candidate = None
        return True

    def _digest(self) -> bytes | None:
        """None: at least one file cannot be read now."""
        digest = hashlib.blake2b()
        for path in self._paths:
            try:
                content = path.read_bytes()
            except OSError:
                return None
            digest.update(len(content).to_bytes(8, "big"))
            digest.update(content)
        return digest.digest()

    def __repr__(self) -> str:
        return f"<FileWatch of {', '.join(map(str, self._paths)) or 'nothing'}>"
