"""A model directory: what is in it, and why it may not be used.

Everything is said before a library loads anything: a file that would be unpickled runs whatever code is in
it, a truncated one fails late and without its name, and one that is larger than memory takes the machine.
"""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import msgspec

from penstock.optimize._safetensors import Tensor, tensors_of
from penstock.optimize.faults import UnusableModel
from penstock.optimize.resources import available_memory, shown_bytes

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OPENVINO_GRAPH = "openvino_model.xml"
_NO_WEIGHTS = "training_args.bin"  # what trainers leave behind; nobody loads it


class Runtime(enum.StrEnum):
    """Who runs a directory."""

    TRANSFORMERS = "transformers"
    ONNX = "onnx"
    OPENVINO = "openvino"


class ModelDirectory(msgspec.Struct, frozen=True):
    """A directory that passed the looks that can be taken without loading it."""

    path: Path
    runtime: Runtime
    config: dict[str, Any]  # config.json, or what the runtime has in its place
    weights: tuple[Path, ...]
    tensors: dict[str, Tensor]  # by name; none where the runtime has a format of its own

    def __repr__(self) -> str:
        return f"<ModelDirectory {self.path} {self.runtime} {shown_bytes(self.weight_bytes)}>"

    @property
    def weight_bytes(self) -> int:
        """Of the files with the weights."""
        return sum(path.stat().st_size for path in self.weights)

    @property
    def parameters(self) -> int:
        """Numbers in the tensors that are stored; packed ones count as what they are packed into."""
        return sum(math.prod(each.shape) for each in self.tensors.values())

    @property
    def context(self) -> int | None:
        """How many tokens it reads at most; None: it does not say."""
        of_graph = self.config.get("model")
        said = (
            of_graph.get("context_length")
            if self.runtime is Runtime.ONNX and isinstance(of_graph, dict)
            else self.config.get("max_position_embeddings")
        )
        return said if isinstance(said, int) else None

    def require_memory(self, copies: float, purpose: str, beside: ModelDirectory | None = None) -> None:
        """Refuse what would not fit, before it is loaded.

        :param copies: how many times the weights are held, in 4 bytes a parameter
        :param beside: a second model, which is held once
        :raises UnusableModel: there is less memory than that
        """
        need = self._memory(copies) + (0 if beside is None else beside._memory(1.0))  # noqa: SLF001
        there = available_memory()
        if there is not None and need > there:
            who = f"{self.path} is" if beside is None else f"{self.path} and {beside.path} are together"
            smaller = "a smaller model" if beside is None else "smaller models"
            raise UnusableModel(
                f"{who} too large for this machine: {purpose} needs about {shown_bytes(need)} of "
                f"memory, {shown_bytes(there)} are free; use a machine with more, or {smaller}"
            )

    def _memory(self, copies: float) -> int:
        return max(self.weight_bytes, round(copies * 4 * self.parameters))


def open_model(path: Path) -> ModelDirectory:
    """Look at a model directory.

    :raises UnusableModel: it cannot be loaded, or must not be
    """
    if not path.is_dir():
        raise UnusableModel(f"{path} is no directory" if path.exists() else f"{path} does not exist")
    if (path / "genai_config.json").exists():
        return _onnx(path)
    if (path / OPENVINO_GRAPH).exists():
        return _openvino(path)
    config = _json(path / _CONFIG, f"{path} is no model directory: it has no {_CONFIG}")
    if "auto_map" in config:
        raise UnusableModel(
            f"{path / _CONFIG} wants code of its own to be run (auto_map), which is never done; "
            "use a model whose architecture transformers has itself"
        )
    _require_architecture(path, config)
    weights = _weights(path)
    tensors: dict[str, Tensor] = {}
    for file, named in weights.items():
        held = tensors_of(file)
        if lacking := named - held.keys():
            raise UnusableModel(
                f"{file} lacks the tensor {min(lacking)!r}, which {_INDEX} has in it: fetch or copy it again"
            )
        tensors |= held
    if not tensors:
        raise UnusableModel(f"{next(iter(weights))} holds no tensors: fetch or copy it again")
    return ModelDirectory(path, Runtime.TRANSFORMERS, config, tuple(weights), tensors)


def _onnx(path: Path) -> ModelDirectory:
    config = _json(path / "genai_config.json", "")
    try:
        graph = path / config["model"]["decoder"]["filename"]
    except (KeyError, TypeError):
        raise UnusableModel(f"{path / 'genai_config.json'} names no graph; export the model again") from None
    if not graph.is_file():
        raise UnusableModel(f"{graph} is missing; export the model again")
    return ModelDirectory(path, Runtime.ONNX, config, (graph, *sorted(path.glob("*.onnx.data"))), {})


def _openvino(path: Path) -> ModelDirectory:
    graph = path / OPENVINO_GRAPH
    constants = graph.with_suffix(".bin")
    if not constants.is_file():
        raise UnusableModel(f"{constants} is missing; export the model again")
    config = _json(path / _CONFIG, f"{path / _CONFIG} is missing; export the model again")
    return ModelDirectory(path, Runtime.OPENVINO, config, (graph, constants), {})


def _require_architecture(path: Path, config: dict[str, Any]) -> None:
    named = config.get("architectures") or ["none"]
    if not isinstance(named, list) or not str(named[0]).endswith("ForCausalLM"):
        raise UnusableModel(
            f"{path / _CONFIG} names the architecture {named[0] if isinstance(named, list) else named!r}; only "
            "models that generate text (…ForCausalLM, in a list) can be worked on"
        )


def _weights(path: Path) -> dict[Path, set[str]]:
    """The files, with the names of the tensors that must be in each."""
    index = path / _INDEX
    if index.exists():
        return _indexed(path, index)
    single = path / "model.safetensors"
    if single.is_file():
        return {single: set()}
    pickled = sorted(
        each.name for each in path.iterdir() if each.suffix in _PICKLED and each.name != _NO_WEIGHTS
    )
    if pickled:
        raise _pickled(path / pickled[0])
    raise UnusableModel(f"{path} has no weights: neither model.safetensors nor {_INDEX} is there")


def _indexed(path: Path, index: Path) -> dict[Path, set[str]]:
    try:
        places = msgspec.convert(_json(index, "").get("weight_map"), dict[str, str])
    except msgspec.ValidationError:
        places = {}
    if not places:
        raise UnusableModel(f"{index} names no files with weights (weight_map): fetch or copy it again")
    files: dict[Path, set[str]] = {}
    for tensor, part in sorted(places.items(), key=lambda each: each[1]):
        if Path(part).name != part or not (path / part).is_file():
            raise UnusableModel(f"{path / part}, which {_INDEX} names, is missing: fetch or copy it again")
        if Path(part).suffix in _PICKLED:
            raise _pickled(path / part)
        files.setdefault(path / part, set()).add(tensor)
    return files


def _pickled(path: Path) -> UnusableModel:
    return UnusableModel(
        f"{path} holds pickled weights, which can run any code and are never loaded; "
        "use the model's safetensors files, or convert these where you trust them"
    )


def _json(path: Path, if_missing: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise UnusableModel(if_missing or f"{path} is missing") from None
    except OSError as error:
        raise UnusableModel(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableModel(f"{path} makes no sense ({error}): fetch or copy it again") from None
