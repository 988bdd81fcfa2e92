"""What a model of Triton's takes and gives, from its configuration.

Names of tensors are the author's choice.  Those that are known here are what Triton's own backends (vLLM, Python,
TensorRT-LLM) and their tutorials use.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from penstock.errors import UpstreamFailed

TEXTS = ("text_input", "prompt", "text", "query", "input")
TOKENS = ("input_ids", "input_tokens", "tokens")
MASKS = ("attention_mask",)
LENGTHS = ("input_lengths", "request_input_len")
PARAMETERS = {
    "max_tokens": ("max_tokens", "max_new_tokens", "request_output_len"),
    "temperature": ("temperature",),
    "top_p": ("top_p", "runtime_top_p"),
    "top_k": ("top_k", "runtime_top_k"),
    "seed": ("seed", "random_seed"),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "stop": ("stop", "stop_words"),
}
ALL_PARAMETERS = "sampling_parameters"  # vLLM's backend: all of them in one JSON text
STREAM = "stream"
WITHOUT_PROMPT = "exclude_input_in_output"

ANSWERS = ("text_output", "text", "output", "generated_text", "completion")
VECTORS = ("embedding", "embeddings", "sentence_embedding", "output")
FINISH = "finish_reason"
PROMPT_TOKENS = ("num_input_tokens", "prompt_tokens")
ANSWER_TOKENS = ("num_output_tokens", "completion_tokens")

WHOLE = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
BROKEN = frozenset({"FP16", "FP32", "FP64"})


class Slot(msgspec.Struct, frozen=True):
    """An input or output: its type as the protocol has it, and its shape without the batch; -1: any length."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False


class Model(msgspec.Struct, frozen=True):
    """What there is to know of one model."""

    name: str
    inputs: dict[str, Slot]
    outputs: dict[str, Slot]
    max_batch_size: int  # 0: it has no batch dimension
    decoupled: bool  # it answers a request in any number of pieces

    def input(self, names: tuple[str, ...], datatypes: frozenset[str]) -> Slot | None:
        """The first input of these names that is of one of these types."""
        return _first(self.inputs, names, datatypes)

    def output(self, names: tuple[str, ...], datatypes: frozenset[str]) -> Slot | None:
        return _first(self.outputs, names, datatypes)

    @property
    def text(self) -> Slot | None:
        """Where a prompt goes as text: the input of a known name, or the only one that must be text."""
        found = self.input(TEXTS, _BYTES)
        needed = [each for each in self.inputs.values() if each.datatype == "BYTES" and not each.optional]
        return found or (needed[0] if len(needed) == 1 else None)

    @property
    def tokens(self) -> Slot | None:
        """Where a prompt goes as token ids."""
        return self.input(TOKENS, WHOLE)

    @property
    def answer(self) -> Slot | None:
        """Where generated text comes out."""
        texts = [each for each in self.outputs.values() if each.datatype == "BYTES"]
        return self.output(ANSWERS, _BYTES) or (texts[0] if len(texts) == 1 else None)

    @property
    def vector(self) -> Slot | None:
        """Where an embedding comes out."""
        numbers = [each for each in self.outputs.values() if each.datatype in BROKEN]
        return self.output(VECTORS, BROKEN) or (numbers[0] if len(numbers) == 1 else None)


_BYTES = frozenset({"BYTES"})


class Tensor(msgspec.Struct, frozen=True):
    """Values of an input or an output, in one flat list, the last dimension first to change.

    Texts are ``bytes``.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any]

    def __post_init__(self) -> None:
        if math.prod(self.shape) != len(self.values):
            raise ValueError(f"{self.name}: {len(self.values)} values for the shape {self.shape}")


def _first(slots: dict[str, Slot], names: tuple[str, ...], datatypes: frozenset[str]) -> Slot | None:
    lower = {name.lower(): slot for name, slot in slots.items()}
    for name in names:
        slot = lower.get(name)
        if slot is not None and slot.datatype in datatypes:
            return slot
    return None


class _Slot(msgspec.Struct):
    name: str
    data_type: str = ""
    dims: list[int] = []
    optional: bool = False

    def slot(self) -> Slot:
        datatype = self.data_type.removeprefix("TYPE_")
        return Slot(
            self.name, "BYTES" if datatype == "STRING" else datatype, tuple(self.dims), optional=self.optional
        )


class _Policy(msgspec.Struct):
    decoupled: bool = False


class _Config(msgspec.Struct):
    name: str = ""
    input: list[_Slot] = []
    output: list[_Slot] = []
    max_batch_size: int = 0
    model_transaction_policy: _Policy = msgspec.field(default_factory=_Policy)


def model_of(config: Any) -> Model:
    """From Triton's model configuration, in either protocol's JSON (gRPC writes 64-bit numbers as text).

    :raises UpstreamFailed: it is none
    """
    if isinstance(config, dict) and isinstance(config.get("config"), dict):
        config = config["config"]
    try:
        read = msgspec.convert(config, _Config, strict=False)
    except msgspec.ValidationError as error:
        raise UpstreamFailed(f"Triton's model configuration makes no sense: {error}") from None
    return Model(
        read.name,
        {each.name: each.slot() for each in read.input},
        {each.name: each.slot() for each in read.output},
        read.max_batch_size,
        read.model_transaction_policy.decoupled,
    )
