"""OpenVINO's form of a causal language model, as OpenVINO GenAI (and so Penstock's engine) runs it.

The model is traced by PyTorch with its keys and values as inputs and outputs, and these are then made states of the
graph.  What is traced need not be what was meant (a branch that was taken stays taken), so the graph is asked for
logits beside the model, for a prompt and for what follows it, and an export that answers otherwise is refused.

The exporter of optimum-intel does the same for many more architectures, and wants another transformers; this one
takes those whose layers all attend to everything before them.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_tokenizers
import torch
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers.cache_utils import DynamicCache, DynamicLayer

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import OPENVINO_GRAPH, ModelDirectory
from penstock.optimize.numerics.loading import load_model, load_tokenizer
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Form, Notes

# What OpenVINO rounds of its own accord: activations, keys and values.
_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
_TOLERANCE = 1e-3  # of the largest logit, before weights are rounded


def build(source: ModelDirectory, into: Path, form: Form, tell: Tell, *, group_size: int = 32) -> Notes:
    """Write a directory that OpenVINO GenAI loads, tokenizer included.

    :raises StepFailed: the architecture is not one that can be exported here, or the export says something else
    """
    tell("loading", 0, 0)
    model, tokenizer = load_model(source), load_tokenizer(source.path)
    _require_plain_attention(source, model.config)
    tell("tracing", 0, 0)
    try:
        graph = _traced(model)
        _make_stateful(graph, model.config.num_hidden_layers)
    except Exception as error:
        raise StepFailed(
            f"{source.path} ({source.config['architectures'][0]}) cannot be exported to OpenVINO here: "
            f"{' '.join(str(error).split())[:300]}; optimum-cli in an environment of its own may know it"
        ) from error
    off = _difference(graph, model)
    if not off <= _TOLERANCE:
        raise StepFailed(
            f"{source.path}: what was exported says something else than the model (logits differ by {off:.2g} of "
            "the largest); use optimum-cli in an environment of its own"
        )
    notes: Notes = {"logits_differ_by": off}
    if form in {Form.INT8, Form.INT4}:
        tell(f"rounding to {form}", 0, 0)
        graph = _compressed(graph, form, group_size)
    openvino.save_model(graph, into / OPENVINO_GRAPH, compress_to_fp16=form is Form.FP16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, part in zip(("tokenizer", "detokenizer"), parts, strict=True):
        openvino.save_model(part, into / f"openvino_{name}.xml", compress_to_fp16=False)
    model.config.save_pretrained(into)
    model.generation_config.save_pretrained(into)
    tokenizer.save_pretrained(into)
    return notes


def _require_plain_attention(source: ModelDirectory, config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "is_encoder_decoder", False):
        raise StepFailed(
            f"{source.path} has layers of the kinds {', '.join(sorted(kinds))}: only models whose layers attend to "
            "all that came before are exported to OpenVINO here; use optimum-cli in an environment of its own"
        )


class _Stepwise(torch.nn.Module):  # type: ignore[misc]  # PyTorch may be installed or not
    """The model as a function of all that a step needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        cache.layers = [_layer(*pair) for pair in zip(past[0::2], past[1::2], strict=True)]
        out = self.model(
            input_ids=input_ids,
            attention_mask=_causal(attention_mask, input_ids.shape[1]),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [each for layer in out.past_key_values.layers for each in (layer.keys, layer.values)]
        return (out.logits, *present)


def _layer(keys: torch.Tensor, values: torch.Tensor) -> Any:
    layer = DynamicLayer()
    layer.keys, layer.values = keys, values
    layer.dtype, layer.device = keys.dtype, keys.device
    layer.is_initialized = True
    return layer


def _causal(seen: torch.Tensor, length: int) -> torch.Tensor:
    """What is added to the scores of the last ``length`` positions."""
    total = seen.shape[1]
    at = torch.arange(length)[:, None] + (total - length)
    allowed = (torch.arange(total)[None, :] <= at)[None, None] & seen[:, None, None, :].bool()
    return torch.zeros(1).where(allowed, torch.full((1,), torch.finfo(torch.float32).min))


def _traced(model: Any) -> Any:
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    before, now = 2, 3
    example = {
        "input_ids": torch.ones(2, now, dtype=torch.long),
        "attention_mask": torch.ones(2, before + now, dtype=torch.long),
        "position_ids": torch.arange(before, before + now).repeat(2, 1),
        "past": [torch.randn(2, heads, before, size) for _ in range(2 * layers)],
    }
    quiet = logging.getLogger("openvino")
    quiet.setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's, of branches: the export is tried afterwards
        graph = openvino.convert_model(_Stepwise(model), example_input=example)
    names = [f"{kind}.{each}" for each in range(layers) for kind in ("key", "value")]
    for put, name in zip(graph.inputs[3:], names, strict=True):
        put.get_tensor().set_names({f"past.{name}"})
        put.get_node().set_partial_shape(openvino.PartialShape([-1, heads, -1, size]))
    for put, name in zip(graph.inputs, ("input_ids", "attention_mask", "position_ids"), strict=False):
        put.get_tensor().set_names({name})
    graph.outputs[0].get_tensor().set_names({"logits"})
    for put, name in zip(graph.outputs[1:], names, strict=True):
        put.get_tensor().set_names({f"present.{name}"})
    graph.validate_nodes_and_infer_types()
    return graph


def _make_stateful(graph: Any, layers: int) -> None:
    """Keys and values stay in the graph, empty at first; ``beam_idx`` says whose each sequence goes on with."""
    beams = opset13.parameter(name="beam_idx", dtype=np.int32, shape=openvino.PartialShape([-1]))
    beams.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([beams])
    for number in range(layers):
        for kind in ("key", "value"):
            past = graph.input(f"past.{kind}.{number}")
            takers = past.get_target_inputs()
            gathered = opset13.gather(past, beams, opset13.constant(0, dtype=np.int64))
            for taker in takers:
                taker.replace_source_output(gathered.output(0))
    graph.validate_nodes_and_infer_types()
    pairs = {
        f"past.{kind}.{number}": f"present.{kind}.{number}"
        for number in range(layers)
        for kind in ("key", "value")
    }
    apply_make_stateful_transformation(graph, pairs)
    shape = opset13.shape_of(graph.input("input_ids"), output_type="i64")
    zero = opset13.constant(0, dtype=np.int64)
    batch = opset13.gather(shape, opset13.constant([0], dtype=np.int64), zero)
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            lengths = [
                each.get_length() if each.is_static else 0 for each in node.get_output_partial_shape(0)
            ]
            rest = [opset13.constant([each], dtype=np.int64) for each in lengths[1:]]
            first = opset13.concat([batch, *rest], axis=0)
            empty = opset13.broadcast(opset13.constant(0.0, dtype=np.float32), first)
            node.set_arguments([empty])
    graph.validate_nodes_and_infer_types()


def _difference(graph: Any, model: Any) -> float:
    """By how much the logits differ at most, as a share of the largest: after a prompt, and one token later."""
    compiled = openvino.compile_model(graph, "CPU", _EXACT)
    request = compiled.create_infer_request()
    vocabulary = model.config.vocab_size
    ids = np.random.default_rng(1).integers(0, vocabulary, (2, 12))
    with torch.inference_mode():
        wanted = model(input_ids=torch.from_numpy(ids)).logits.float().numpy()
    worst = 0.0
    for begin, end in ((0, 7), (7, 8), (8, 12)):
        told = request.infer(step_inputs(ids[:, begin:end], begin))["logits"]
        worst = max(worst, float(np.abs(told - wanted[:, begin:end]).max()))
    return worst / float(np.abs(wanted).max())


def step_inputs(ids: Any, before: int) -> dict[str, Any]:
    """What the graph takes for ``ids`` when it has seen ``before`` tokens of each sequence."""
    batch, length = ids.shape
    return {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones((batch, before + length), dtype=np.int64),
        "position_ids": np.arange(before, before + length)[None].repeat(batch, 0),
        "beam_idx": np.arange(batch, dtype=np.int32),
    }


def _compressed(graph: Any, form: Form, group_size: int) -> Any:
    import nncf  # noqa: PLC0415 - takes seconds

    nncf.set_log_level(logging.ERROR)
    if form is Form.INT8:
        return nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
    return nncf.compress_weights(
        graph, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=group_size, ratio=1.0, all_layers=True
    )
