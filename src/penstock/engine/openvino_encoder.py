"""OpenVINO computes embeddings: a graph of token ids to hidden states, and the tokenizer beside it."""

from __future__ import annotations

from typing import Any

import openvino
import openvino_genai

from penstock.config.model import LocalConfig
from penstock.engine.embedder import Embedder
from penstock.engine.model_dir import ModelDir, check_memory, in_fp32
from penstock.engine.openvino import (
    FOR_TOKENIZERS,
    OneWayTokenizer,
    computes_in_fp32,
    properties,
    reason,
)
from penstock.engine.pooling import shape_of
from penstock.errors import ModelUnusable

_HIDDEN = "last_hidden_state"
_KNOWN = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


class OpenVINOEncoder:
    """One model whose graph gives hidden states.

    :param vocabulary: token ids lie below it
    :raises RuntimeError: the library cannot use it
    :raises ValueError: it wants, or gives, something else
    """

    def __init__(self, model: ModelDir, vocabulary: int, config: LocalConfig) -> None:
        core = openvino.Core()
        graph = core.read_model(str(model.path / "openvino_model.xml"))
        self._wanted = {name for port in graph.inputs for name in port.get_names()} & _KNOWN
        strange = [port.get_any_name() for port in graph.inputs if not port.get_names() & _KNOWN]
        if strange or "input_ids" not in self._wanted:
            raise ValueError(f"it wants {', '.join(strange) or 'no token ids'}")
        names = [name for port in graph.outputs for name in port.get_names()]
        self._output = names.index(_HIDDEN) if _HIDDEN in names else 0
        if graph.outputs[self._output].get_partial_shape().rank.get_length() != 3:
            raise ValueError(f"it gives no {_HIDDEN}: export it with --task feature-extraction")
        self._compiled = core.compile_model(graph, "CPU", properties(config, cache=False))
        tokenizer = openvino_genai.Tokenizer(str(model.path), **FOR_TOKENIZERS)
        self.pad: int = max(0, tokenizer.get_pad_token_id())
        self.tokenizer = OneWayTokenizer(tokenizer)
        self.vocabulary = vocabulary
        self.name = f"OpenVINO {openvino.__version__.partition('-')[0]}"

    def __repr__(self) -> str:
        return f"<OpenVINOEncoder of {', '.join(sorted(self._wanted))}>"

    def hidden(self, ids: Any, mask: Any) -> Any:
        given = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": 0 * ids,
            "position_ids": (mask.cumsum(axis=1) - 1).clip(0),
        }
        return self._compiled({name: given[name] for name in self._wanted})[self._output]

    def close(self) -> None:
        del self._compiled


def load(model: ModelDir, config: LocalConfig) -> Embedder:
    """A backend of it.

    :raises penstock.errors.ModelUnusable: it does not fit into memory, or makes no embeddings
    """
    told = properties(config, cache=False)
    check_memory(in_fp32(model) if computes_in_fp32(told) else model, 0)
    shape = shape_of(model)
    vocabulary = model.config.get("vocab_size")
    if not isinstance(vocabulary, int):
        raise ModelUnusable(f"{model.path / 'config.json'} says no vocab_size: copy the model's own")
    try:
        return Embedder(OpenVINOEncoder(model, vocabulary, config), shape, str(model.path))
    except (RuntimeError, ValueError) as error:
        raise ModelUnusable(
            f"{model.path} ({model.architecture}) makes no embeddings with OpenVINO: {reason(error)}"
        ) from error


__all__ = ["OpenVINOEncoder", "load"]
