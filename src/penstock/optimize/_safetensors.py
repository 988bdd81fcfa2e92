"""What a safetensors file says of itself, without the library and without reading the weights.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, little
endian; the header, JSON; then the tensors' bytes, of which the header gives type, shape and place.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec

from penstock.optimize.faults import UnusableModel

MAX_HEADER = 100_000_000  # bytes; the library's own limit
_NEW_COPY = "fetch or copy it again"


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a file."""

    dtype: str  # F32, BF16, I8, ...
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]

    @property
    def is_as_long_as_it_says(self) -> bool:
        """Whether its bytes are those of its shape; of a type that is not known here, nobody can tell."""
        bits = 8 if self.dtype == "BOOL" else int(found[1]) if (found := _BITS.match(self.dtype)) else None
        return bits is None or 8 * self.bytes == bits * math.prod(self.shape)


# F32, BF16, U8, C64, F8_E4M3FNUZ ...: as many bits as its number says.  Those of less than eight are packed by rules
# of their own.
_BITS = re.compile(r"(?:F|BF|I|U|C)(4|8|16|32|64)(?:_|$)")


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    :raises UnusableModel: it is no such file, or less or more of it is there than its header says
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                raise UnusableModel(f"{path} is truncated, or no safetensors file: {_NEW_COPY}")
            header = file.read(length)
    except OSError as error:
        raise UnusableModel(f"{path} cannot be read: {error.strerror}") from error
    try:
        told = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        told.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(each, type=Tensor) for name, each in told.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableModel(f"{path} is no safetensors file, its header makes no sense ({error})") from None
    end = max((each.data_offsets[1] for each in tensors.values()), default=0)
    if any(
        each.bytes < 0 or each.data_offsets[0] < 0 or min(each.shape, default=0) < 0
        for each in tensors.values()
    ):
        raise UnusableModel(f"{path} is no safetensors file, its header makes no sense")
    there = size - 8 - length
    if there < end:
        raise UnusableModel(f"{path} is truncated: {there} bytes of weights of {end}; {_NEW_COPY}")
    if there > end:
        raise UnusableModel(f"{path} is damaged: {there - end} bytes behind its last tensor; {_NEW_COPY}")
    _require_places(path, tensors)
    return tensors


def _require_places(path: Path, tensors: dict[str, Tensor]) -> None:
    """One tensor lies behind the other, without a gap, and each is as long as its shape and type are."""
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda each: each[1].data_offsets):
        if tensor.data_offsets[0] != at or not tensor.is_as_long_as_it_says:
            raise UnusableModel(
                f"{path} is damaged: its tensor {name!r} is not where, or not as long as, its header says; {_NEW_COPY}"
            )
        at = tensor.data_offsets[1]
