"""The steps, as they are asked for on the command line and in a recipe: each is its options.

The numerics of ``Quantize`` are in ``penstock.optimize.numerics.quantize``, and so on; that module is loaded
when the step is taken.
"""

from __future__ import annotations

import enum
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from penstock.errors import ConfigError
from penstock.optimize.faults import ExtraLacking
from penstock.optimize.making import Stamp, digest, made_whole
from penstock.optimize.model_directory import ModelDirectory, Runtime, open_model
from penstock.optimize.progress import Tell
from penstock.optimize.texts import read_texts

Notes: TypeAlias = dict[str, Any]
"""What a step has to tell beside the directory that it made: sparsity reached, losses, choices."""

_BESIDE = 50_000_000  # bytes of a directory that are not weights, with something to spare


class Form(enum.StrEnum):
    """In which numbers weights (and activations) are kept."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"
    W8A8 = "w8a8"


class Rounding(enum.StrEnum):
    RTN = "rtn"  # to nearest
    GPTQ = "gptq"  # so that each layer's output changes least
    KQUANT = "kquant"  # scales that are searched for, so that the weights change least


class Pruning(enum.StrEnum):
    SPARSEGPT = "sparsegpt"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"
    WIDTH = "width"
    DEPTH = "depth"


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    calibration: Path | None = None  # texts that the step learns from

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def mistakes(self) -> list[str]:
        """Why these options make no sense together."""
        return []

    @property
    def texts(self) -> Path | None:
        """The calibration set, if this step will read it."""
        return self.calibration

    @property
    def runtime_after(self) -> Runtime:
        return Runtime.TRANSFORMERS

    @property
    def copies(self) -> float:
        """How many times the weights are in memory, in fp32."""
        return 2.0

    @property
    def beside(self) -> Path | None:
        """A second model, which is in memory once while the step is taken."""
        return None

    @property
    def numbers_kept(self) -> int:
        """How many numbers of 4 bytes it may write of each parameter."""
        return 0


class Quantize(_Options, frozen=True, kw_only=True):
    """Fewer bits for each weight."""

    to: Form
    runtime: Runtime = Runtime.TRANSFORMERS
    method: Rounding = Rounding.RTN
    group_size: int = 32  # weights that share a scale, where there are 4 bits
    samples: int = 64  # pieces of the calibration set
    length: int = 256  # tokens of each

    def mistakes(self) -> list[str]:
        found = []
        if self.to is Form.FP32:
            found.append("to: fp32 is not fewer bits")
        if self.group_size not in {16, 32, 64, 128, 256}:
            found.append("group_size: one of 16, 32, 64, 128 and 256")
        found += _positive(self, "samples", "length")
        whole = self.to in {Form.INT8, Form.INT4, Form.W8A8}
        if self.runtime is not Runtime.TRANSFORMERS:
            if self.to in {Form.W8A8, Form.BF16}:
                found.append(f"to: {self.to} is not to be had for runtime {self.runtime}")
            if self.method is Rounding.GPTQ:
                found.append("method: gptq is for runtime transformers")
        if self.method is Rounding.KQUANT and self.runtime is not Runtime.ONNX:
            found.append("method: kquant is for runtime onnx")
        if self.method is Rounding.GPTQ:
            if not whole:
                found.append(f"method: gptq rounds to whole numbers, not to {self.to}")
            if self.calibration is None:
                found.append("calibration: gptq needs texts")
        return found

    @property
    def texts(self) -> Path | None:
        return self.calibration if self.method is Rounding.GPTQ else None

    @property
    def runtime_after(self) -> Runtime:
        return self.runtime


class Prune(_Options, frozen=True, kw_only=True):
    """Weights, channels or layers left out."""

    method: Pruning
    pattern: str = ""  # "2:4": two of four neighbours are zero; "": wherever they matter least
    share: float = 0.5  # of the weights, of the channels or of the layers
    samples: int = 64
    length: int = 256

    def mistakes(self) -> list[str]:
        found = _positive(self, "samples", "length")
        if self.pattern not in {"", "2:4"}:
            found.append('pattern: "2:4", or none')
        if self.pattern and self.method in {Pruning.WIDTH, Pruning.DEPTH}:
            found.append(f"pattern: {self.method} takes whole channels or layers")
        if not 0 < self.share < 1:
            found.append("share: between 0 and 1")
        elif self.pattern and self.share != 0.5:
            found.append("share: 2:4 is one half")
        if self.calibration is None and self.method is not Pruning.MAGNITUDE:
            found.append(f"calibration: {self.method} needs texts")
        return found

    @property
    def texts(self) -> Path | None:
        return None if self.method is Pruning.MAGNITUDE else self.calibration


class Distill(_Options, frozen=True, kw_only=True):
    """The student learns to say what its teacher says."""

    # In a recipe that says nothing, the model that it began with; none: only what the texts say is learnt.
    teacher: Path | None = None
    steps: int = 200
    batch: int = 8
    length: int = 256
    learning_rate: float = 1e-3
    temperature: float = 1.0
    hard: float = 0.0  # share of the loss that is about the text itself, not about the teacher
    # The texts are only begun with; what the student writes itself is what is learnt from.
    on_policy: bool = False
    seed: int = 1
    checkpoint_every: int = 50  # steps, from which a training that was broken off goes on

    def mistakes(self) -> list[str]:
        names = ("steps", "batch", "length", "learning_rate", "temperature", "checkpoint_every")
        found = _positive(self, *names)
        if not 0 <= self.hard < 1:
            found.append("hard: from 0 to less than 1")
        if self.calibration is None:
            found.append("calibration: distilling needs texts")
        if self.on_policy and self.hard:
            found.append("hard: what the student writes itself is no text to be learnt by heart")
        return found

    @property
    def copies(self) -> float:
        return 5.0  # weights, gradients, two moments, activations

    @property
    def beside(self) -> Path | None:
        return self.teacher

    @property
    def numbers_kept(self) -> int:
        # The model; and of checkpoints, of weights and two moments each, two while one takes the other's place.
        return 1 + (2 * 3 if self.checkpoint_every < self.steps else 0)


class Shrink(_Options, frozen=True, kw_only=True):
    """Layers left out, as many as the loss allows."""

    max_loss: float = 0.05  # of perplexity, as a share
    least: int = 1  # layers that stay in any case
    samples: int = 16
    length: int = 256

    def mistakes(self) -> list[str]:
        found = _positive(self, "samples", "length", "least")
        if not self.max_loss >= 0:
            found.append("max_loss: not below 0")
        if self.calibration is None:
            found.append("calibration: the layers to leave out are found with texts")
        return found


class Export(_Options, frozen=True, kw_only=True):
    """The same numbers for another runtime."""

    runtime: Runtime = Runtime.ONNX
    to: Form = Form.FP32

    def mistakes(self) -> list[str]:
        found = []
        if self.runtime is Runtime.TRANSFORMERS:
            found.append("runtime: transformers is what the model comes from")
        if self.to not in {Form.FP32, Form.FP16}:
            found.append("to: fp32 or fp16; fewer bits are what quantize is for")
        return found

    @property
    def texts(self) -> Path | None:
        return None

    @property
    def runtime_after(self) -> Runtime:
        return self.runtime


Step: TypeAlias = Quantize | Prune | Distill | Shrink | Export
STEPS: dict[str, type[Step]] = {
    "quantize": Quantize,
    "prune": Prune,
    "distill": Distill,
    "shrink": Shrink,
    "export": Export,
}


class Numerics(Protocol):
    """What makes one directory of another."""

    def __call__(self, step: Any, source: ModelDirectory, into: Path, tell: Tell) -> Notes: ...


def require_sense(step: Step, where: str = "") -> None:
    """See that a step can be done as it is asked for.

    :raises penstock.errors.ConfigError: the options contradict each other
    """
    found = step.mistakes()
    if found:
        raise ConfigError(
            f"{where or step.name} cannot be done as it is asked for",
            tuple(f"{where or step.name}: {each}" for each in found),
        )


def told(step: Step) -> dict[str, Any]:
    """The options as a report shows them: files by their names."""
    options: dict[str, Any] = msgspec.to_builtins(step, enc_hook=lambda path: path.name)
    return _chosen(options)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Without what is no part of what is made, and what those from before there was a choice say nothing of."""
    options.pop("checkpoint_every", None)
    return {key: value for key, value in options.items() if key != "on_policy" or value}


def numerics_of(step: Step) -> Numerics:
    """Loads the libraries that this step needs.

    :raises ExtraLacking: they are not installed
    """
    return loaded(step.name, "make")  # type: ignore[no-any-return]


def loaded(module: str, name: str) -> Any:
    """Something of a module of the numerics.

    :raises ExtraLacking: a library that it needs is not installed
    """
    try:
        return getattr(importlib.import_module(f"penstock.optimize.numerics.{module}"), name)
    except ModuleNotFoundError as error:
        raise ExtraLacking(
            f"{module} needs {error.name}, which is not installed; it comes with the extra 'optimize', "
            "see docs/optimize.md"
        ) from error


def stamp_for(step: Step, source: ModelDirectory) -> Stamp:
    """What a directory that this step makes of ``source`` bears."""
    options = msgspec.to_builtins(step, enc_hook=str)
    files = [path for path in (step.texts,) if path is not None]
    if isinstance(step, Distill) and step.teacher is not None:
        files += open_model(step.teacher).weights
    # Where files lie is no part of what they are.
    options.pop("calibration", None)
    options.pop("teacher", None)
    return Stamp(step.name, _chosen(options), digest(source, *files))


def take(
    step: Step,
    source: Path,
    target: Path,
    tell: Tell,
    *,
    numerics: Numerics | None = None,
    judge: Callable[[Path, Notes], None] | None = None,
    replace: bool = False,
) -> Notes:
    """Make ``target`` of ``source``.

    :param numerics: who does it; by default, the step's own
    :param judge: is shown the directory before it has its name, and may add to it; if it raises, there is none
    :param replace: a ``target`` that was made by a step may go
    :raises penstock.optimize.faults.OptimizeError: it cannot be done, and why; ``target`` is as it was
    """
    require_sense(step)
    model = open_model(source)
    if model.runtime is not Runtime.TRANSFORMERS:
        raise ConfigError(
            f"{source} is for {model.runtime}, of which nothing more can be made: let {step.name} come before"
        )
    beside = None if step.beside is None else open_model(step.beside)
    model.require_memory(step.copies, step.name, beside)
    if step.texts is not None:
        _require_fits(step, model)
        read_texts(step.texts)
    stamp = stamp_for(step, model)
    make = numerics_of(step) if numerics is None else numerics
    room = max(model.weight_bytes // 4, 4 * step.numbers_kept * model.parameters) + _BESIDE
    with made_whole(target, stamp, replace=replace, room=room) as into:
        notes = make(step, model, into, tell)
        open_model(into)  # whatever a library has written: it can be opened
        (into / NOTES).write_bytes(msgspec.json.format(msgspec.json.encode(notes), indent=2))
        if judge is not None:
            judge(into, notes)
    return notes


NOTES = "penstock-notes.json"


def _require_fits(step: Step, model: ModelDirectory) -> None:
    """See that the model reads as many tokens as a piece of the texts has: beyond that, it says what it never learned."""
    length = getattr(step, "length", 0)
    if model.context is not None and length > model.context:
        raise ConfigError(
            f"{step.name}: length: {length} tokens are more than the {model.context} that {model.path} reads at once"
        )


def _positive(options: msgspec.Struct, *names: str) -> list[str]:
    return [f"{name}: more than 0, and finite" for name in names if not 0 < getattr(options, name) < math.inf]
