"""A step whose disk becomes full; ``test_full_target.py`` runs this where a small disk can be had.

::

    python on_full_disk.py DISK SOURCE

DISK is an empty file system of some 64 MiB that nobody else uses, SOURCE a model directory on another.  What was said
and what is left there is printed as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from penstock.errors import PenstockError
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.progress import nobody
from penstock.optimize.steps import Form, Quantize, take

PIECE = bytes(65_536)


def filling(step, source: ModelDirectory, into: Path, tell):
    with (into / "model.safetensors").open("wb", buffering=0) as file:
        while True:
            file.write(PIECE)


def filling_in_other_words(step, source, into, tell):
    """As a library in another language tells of it."""
    try:
        filling(step, source, into, tell)
    except OSError:
        raise RuntimeError("SafetensorError: I/O") from None


def copying(step, source, into, tell):
    for path in source.path.iterdir():
        shutil.copy(path, into)
    return {}


def taken(disk, source, numerics):
    """What is said, what is left on the disk, and how much of it is free."""
    said = ""
    try:
        take(Quantize(to=Form.INT8), source, disk / "made", nobody, numerics=numerics)
    except PenstockError as error:
        said = f"{type(error).__name__}: {error}"
    left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.suffix != ".lock")
    return [said, left, shutil.disk_usage(disk).free]


def main(disk, source):
    told = {each.__name__: taken(disk, source, each) for each in (filling, filling_in_other_words)}
    (disk / "filler").write_bytes(PIECE * 400)
    told["too little from the first"] = taken(disk, source, filling)
    (disk / "filler").unlink()
    told["room again"] = taken(disk, source, copying)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
