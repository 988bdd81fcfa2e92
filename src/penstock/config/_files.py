"""Files that the configuration names: those that it takes are there, and those that are made here have a place."""

from __future__ import annotations

from pathlib import Path as File

from penstock.config._reading import Path, Reader


def check_readable(path: str, key: Path, reader: Reader) -> bool:
    """Whether the file can be read; relative paths start at the working directory."""
    try:
        with File(path).open("rb"):
            return True
    except OSError as error:
        reader.mistake(key, f"{path} cannot be read: {error.strerror}")
    except ValueError:
        reader.mistake(key, "is no path")
    return False


def check_parent(path: str, key: Path, reader: Reader) -> None:
    """What is made here by Penstock itself must have a place."""
    parent = File(path).parent
    if not parent.is_dir():
        reader.mistake(key, f"there is no directory {parent}")
