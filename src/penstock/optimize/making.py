"""A directory that is there whole or not at all.

It is written beside its place, synced, and renamed: whoever finds a directory by its name finds all of it,
also after ``kill -9`` or a power cut.  What an interrupted run left beside is removed by the next one, but for what it
kept to be gone on with; a lock that dies with its process keeps two from writing the same.  ``penstock.json`` in it says what it was made of,
so that a recipe can tell what is done.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from penstock import __version__
from penstock.optimize.faults import OptimizeError, StepFailed, UnusableTarget
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.resources import free_disk, shown_bytes

STAMP = "penstock.json"
_UNFINISHED = ".unfinished"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE = 1_000_000  # bytes; on a disk with less, a failed write needs no other explanation


class Stamp(msgspec.Struct, frozen=True):
    """What a directory was made of."""

    step: str
    options: dict[str, Any]
    source: str  # digest of the model that went in, and of all other files
    made_by: str = f"penstock {__version__}"


def kept_beside(into: Path) -> Path:
    """Where a step that takes long may keep what it has so far, to go on with after a crash.

    :param into: the directory that it writes into; once that has its name, nothing is kept any more
    """
    return into.with_name(into.name.removesuffix(_UNFINISHED) + ".kept")


def stamp_of(directory: Path) -> Stamp | None:
    """The stamp of a directory that was made here; None: it was not, or is not there."""
    try:
        return msgspec.json.decode((directory / STAMP).read_bytes(), type=Stamp)
    except (OSError, msgspec.DecodeError):
        return None


def digest(model: ModelDirectory, *files: Path) -> str:
    """Of everything that decides what a step makes."""
    hashed = blake3(msgspec.json.encode(model.config, order="deterministic"))
    beside = [path for name in ("tokenizer.json",) if (path := model.path / name).exists()]
    for path in (*model.weights, *beside, *files):
        hashed.update_mmap(path)
    return hashed.hexdigest(16)


@contextmanager
def made_whole(target: Path, stamp: Stamp, *, replace: bool = False, room: int = 0) -> Iterator[Path]:
    """A directory to write into, which becomes ``target`` when the block ends well, and vanishes if not.

    :param replace: one that is there and was made by a step may be replaced
    :param room: bytes that will be written, about
    :raises UnusableTarget: there is something else, or no room, or another process is at it
    :raises StepFailed: the disk filled up meanwhile
    """
    target = target.absolute()
    beside = target.with_name(f".{target.name}{_UNFINISHED}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UnusableTarget(f"{target} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableTarget(
                f"another process is writing {target}: wait for it, or name another"
            ) from None
        _require_free(target, replace=replace)
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
        if (free := free_disk(target.parent)) < room:
            raise UnusableTarget(
                f"{target} needs about {shown_bytes(room)}, {shown_bytes(free)} are free there: "
                "make room, or name a place on another disk"
            )
        try:
            beside.mkdir()
            yield beside
            (beside / STAMP).write_bytes(msgspec.json.format(msgspec.json.encode(stamp), indent=2))
            _open_to_readers(beside)
            sync(beside)
            if target.exists():
                shutil.rmtree(target)
            beside.rename(target)
            sync_one(target.parent)
            shutil.rmtree(kept_beside(beside), ignore_errors=True)
        except Exception as error:
            if _is_full(error, target.parent):
                left = (
                    "it goes on from where it last stood"
                    if kept_beside(beside).exists()
                    else "nothing half-written is left behind"
                )
                raise StepFailed(
                    f"the disk of {target} is full, {shown_bytes(free_disk(target.parent))} are left of it: make "
                    f"room, and start again; {left}"
                ) from error
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    finally:
        os.close(lock)


def _open_to_readers(directory: Path) -> None:
    """Let all files be read by who may read those of this process: some libraries write for its user alone."""
    usual = (directory / STAMP).stat().st_mode & 0o777
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o7777 | usual)


def _is_full(error: Exception, place: Path) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # Libraries in other languages tell of a full disk in words of their own.
    return not isinstance(error, OptimizeError) and free_disk(place) < _LITTLE


def _require_free(target: Path, *, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if replace and stamp_of(target) is not None:
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    raise UnusableTarget(f"{target} is there already: name another place, or remove it")


def sync(directory: Path) -> None:
    """See that all of it is on the disk."""
    for folder, _, files in os.walk(directory):
        for name in files:
            sync_one(Path(folder, name))
        sync_one(Path(folder))


def sync_one(path: Path) -> None:
    """The same of one file, or of the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
