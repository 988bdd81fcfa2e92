"""A model that makes embeddings, in OpenVINO's form: a table of a vector for each token, and no more."""

from __future__ import annotations

import json
import shutil

import numpy as np

from penstock.engine import demo

SIZE = 8
CONTEXT = 64
VOCABULARY = 4_096  # of the tokenizer, which is that of the small model of the package


def table():
    return np.random.default_rng(5).standard_normal((VOCABULARY, SIZE)).astype(np.float32)


def write_embedder(path, *, pooling="mean", **config):
    """Its directory."""
    import openvino
    from openvino import opset13 as ops

    path.mkdir()
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    mask = ops.parameter([-1, -1], np.int64, name="attention_mask")
    # The mask has a part in it, as in every encoder: what is padding counts for nothing.
    rows = ops.gather(ops.constant(table()), ids, ops.constant(0))
    hidden = ops.multiply(rows, ops.unsqueeze(ops.convert(mask, "f32"), ops.constant(2)))
    for node, name in ((ids, "input_ids"), (mask, "attention_mask"), (hidden, "last_hidden_state")):
        node.output(0).set_names({name})
    openvino.save_model(
        openvino.Model([ops.result(hidden)], [ids, mask]), path / "openvino_model.xml", compress_to_fp16=False
    )
    for part in demo.path().glob("openvino_tokenizer.*"):
        shutil.copy(part, path)
    said = {"architectures": ["BertModel"], "max_position_embeddings": CONTEXT, "vocab_size": VOCABULARY}
    (path / "config.json").write_text(json.dumps({**said, **config}))
    (path / "1_Pooling").mkdir()
    mode = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token"}.get(
        pooling, f"pooling_mode_{pooling}"
    )
    (path / "1_Pooling" / "config.json").write_text(
        json.dumps({mode: True, "word_embedding_dimension": SIZE})
    )
    return path


def vector(ids, pooling="mean"):
    """What its embedding of some tokens is."""
    rows = table()[list(ids)]
    one = rows.mean(axis=0) if pooling == "mean" else rows[0 if pooling == "first" else -1]
    return one / np.linalg.norm(one)
