"""One vector of many: how the hidden states of a text's tokens become its embedding.

Models are trained for one way, and say which in the form of sentence-transformers (``1_Pooling/config.json``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from penstock.engine.model_dir import ModelDir
from penstock.errors import ModelUnusable

Pooling: TypeAlias = Literal["mean", "first", "last"]
Group: TypeAlias = list[tuple[int, Sequence[int]]]
"""Prompts that are computed at once, with their numbers."""

_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}  # of newer versions
_UNSAID_CONTEXT = 512
_WIDEST = 2  # a group's longest prompt has at most so many times the tokens of its shortest


class Shape(msgspec.Struct, frozen=True):
    """How a model's embeddings are made.

    ``context``: tokens of a text, at most.  ``shorter``: their first numbers alone are embeddings as well
    (Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022).
    """

    pooling: Pooling
    context: int
    shorter: bool


def shape_of(model: ModelDir) -> Shape:
    """What the files beside the weights say; without them, the mean of all tokens.

    :raises penstock.errors.ModelUnusable: it is trained for a way that is not known here
    """
    config = model.config
    context = model.context or _UNSAID_CONTEXT
    if "roberta" in str(config.get("model_type")):  # positions begin behind the one of the padding
        pad = config.get("pad_token_id")
        context -= 1 + (pad if isinstance(pad, int) else 1)
    limit = _read(model.path / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(limit, int) and limit > 0:
        context = min(context, limit)
    return Shape(
        pooling=_pooling(model.path / "1_Pooling" / "config.json"),
        context=context,
        shorter=bool(config.get("is_matryoshka") or config.get("matryoshka_dimensions")),
    )


def _pooling(file: Path) -> Pooling:
    said = _read(file)
    if not said:
        return "mean"
    name = said.get("pooling_mode")
    modes = [key for key, on in said.items() if key.startswith("pooling_mode_") and on is True]
    if isinstance(name, str) and name in _NAMES:
        return _NAMES[name]
    if len(modes) == 1 and modes[0] in _MODES:
        return _MODES[modes[0]]
    raise ModelUnusable(
        f"{file}: embeddings are made of the mean, the first or the last token here, one of them"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{file} cannot be read ({error}): copy it again") from None


def groups_of(prompts: Sequence[tuple[int, Sequence[int]]]) -> list[Group]:
    """Prompts of about the same length together: each group is padded to its longest."""
    groups: list[Group] = []
    for number, prompt in sorted(prompts, key=lambda each: len(each[1])):
        if not groups or len(prompt) > _WIDEST * len(groups[-1][0][1]):
            groups.append([])
        groups[-1].append((number, prompt))
    return groups


def padded(group: Group, pad: int) -> tuple[Any, Any]:
    """``(ids, mask)`` of a group, int64: (texts, tokens of the longest), padded behind."""
    longest = max(len(prompt) for _, prompt in group)
    ids = np.full((len(group), longest), pad, dtype=np.int64)
    mask = np.zeros((len(group), longest), dtype=np.int64)
    for row, (_, prompt) in enumerate(group):
        ids[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = 1
    return ids, mask


def pooled(hidden: Any, mask: Any, pooling: Pooling) -> list[bytes]:
    """A vector of length 1 for each text, float32 as the processor has it.

    :param hidden: (texts, tokens, size)
    """
    if pooling == "first":
        vectors = hidden[:, 0]
    elif pooling == "last":
        vectors = hidden[np.arange(len(mask)), mask.sum(axis=1) - 1]
    else:
        weights = mask[:, :, None].astype(hidden.dtype)
        vectors = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return [row.astype(np.float32).tobytes() for row in vectors / np.maximum(lengths, 1e-12)]


__all__ = ["Group", "Pooling", "Shape", "groups_of", "padded", "pooled", "shape_of"]
