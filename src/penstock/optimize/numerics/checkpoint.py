"""What a training has come to so far, in one file: whoever finds it finds all of it, also after ``kill -9``.

It lies beside the directory that is being made (:func:`penstock.optimize.making.kept_beside`), is written under another
name, synced, and renamed; one that was kept for other options, texts or models is none.  Numbers are in the form of
safetensors, which runs no code when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from penstock.optimize.making import sync_one

_FILE = "training.safetensors"


class Checkpoint(msgspec.Struct):
    """``told``: what can be said in JSON."""

    tensors: dict[str, torch.Tensor]
    told: dict[str, Any]


def keep(folder: Path, of: str, tensors: Mapping[str, torch.Tensor], told: Mapping[str, Any]) -> None:
    """In the place of what was kept before.

    :param of: what the training is of
    :raises OSError: the disk is full, or cannot be written
    """
    folder.mkdir(exist_ok=True)
    unfinished = folder / f"{_FILE}.unfinished"
    try:
        metadata = {"of": of, "told": msgspec.json.encode(told).decode()}
        try:
            save_file({name: each.contiguous() for name, each in tensors.items()}, unfinished, metadata)
        except SafetensorError as error:  # its word for what the system said
            raise OSError(f"{unfinished} cannot be written: {error}") from error
        sync_one(unfinished)
        unfinished.replace(folder / _FILE)
        sync_one(folder)
    finally:
        unfinished.unlink(missing_ok=True)


def kept(folder: Path, of: str) -> Checkpoint | None:
    """What was kept of this very training; None: nothing that can be used."""
    try:
        with safe_open(folder / _FILE, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != of:
                return None
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):
        return None
    return Checkpoint(tensors, msgspec.json.decode(metadata["told"]))


def state_of(optimizer: Any) -> dict[str, torch.Tensor]:
    """What an optimizer remembers of each parameter."""
    return {
        f"optimizer.{number}.{name}": value
        for number, of_one in optimizer.state_dict()["state"].items()
        for name, value in of_one.items()
    }


def restore(optimizer: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Have it remember that again."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, _, name = rest.partition(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


__all__ = ["Checkpoint", "keep", "kept", "restore", "state_of"]
