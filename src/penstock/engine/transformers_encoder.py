"""Transformers computes embeddings: any encoder of Hugging Face's, as it is, in fp32."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModel

from penstock.config.model import LocalConfig
from penstock.engine._hf_tokenizer import HFTokenizer
from penstock.engine.embedder import Embedder
from penstock.engine.model_dir import ModelDir, check_memory, in_fp32
from penstock.engine.pooling import shape_of
from penstock.engine.transformers import loaded, quiet, unusable
from penstock.errors import ModelUnusable


class TransformersEncoder:
    """One model that gives hidden states."""

    def __init__(self, model: ModelDir, config: LocalConfig) -> None:
        quiet(config)
        self._model = loaded(AutoModel, model)
        self.vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        self.tokenizer = HFTokenizer(model.path, self.vocabulary)
        self.pad = self.tokenizer.pad
        self.name = f"transformers {transformers.__version__}"

    def __repr__(self) -> str:
        return f"<TransformersEncoder {type(self._model).__name__}>"

    def hidden(self, ids: Any, mask: Any) -> Any:
        with torch.inference_mode():
            output = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return output.last_hidden_state.numpy()

    def close(self) -> None:
        del self._model


def load(model: ModelDir, config: LocalConfig) -> Embedder:
    """A backend of it.

    :raises penstock.errors.ModelUnusable: it does not fit into memory, or makes no embeddings
    """
    check_memory(in_fp32(model), 0)
    shape = shape_of(model)
    try:
        return Embedder(TransformersEncoder(model, config), shape, str(model.path))
    except ModelUnusable:
        raise
    except Exception as error:  # of any library below
        raise unusable(model, error, "is it an encoder that the library knows itself?") from error


__all__ = ["TransformersEncoder", "load"]
