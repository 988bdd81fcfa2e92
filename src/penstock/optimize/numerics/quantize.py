"""Fewer bits for each weight: llmcompressor for transformers, each runtime's own for the others."""

from __future__ import annotations

from pathlib import Path

import torch

from penstock.optimize.halves import gain_of_halves
from penstock.optimize.model_directory import ModelDirectory, Runtime
from penstock.optimize.numerics.loading import load_model, load_tokenizer, save
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Form, Notes, Quantize, Rounding

_HALVES = {Form.FP16: torch.float16, Form.BF16: torch.bfloat16}


def make(step: Quantize, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    if step.runtime is Runtime.ONNX:
        from penstock.optimize.numerics import onnx  # noqa: PLC0415 - each library only where it is used

        return onnx.build(source, into, step.to, tell, group_size=step.group_size, method=step.method)
    if step.runtime is Runtime.OPENVINO:
        from penstock.optimize.numerics import openvino  # noqa: PLC0415

        return openvino.build(source, into, step.to, tell, group_size=step.group_size)
    tokenizer = load_tokenizer(source.path)
    tell("loading", 0, 0)
    if step.to in _HALVES:
        model = load_model(source, _HALVES[step.to])
        save(model, tokenizer, into)
        return {"gain": gain_of_halves(step.to)}
    from penstock.optimize.numerics import compressor  # noqa: PLC0415 - takes seconds

    model = load_model(source)
    modifier = compressor.quantizer(step)
    texts = step.texts if step.method is Rounding.GPTQ else None
    tell(f"{step.method} to {step.to}", 0, 0)
    compressor.apply(modifier, model, tokenizer, texts, samples=step.samples, length=step.length)
    save(model, tokenizer, into, save_compressed=True)
    return {"quantized_layers": compressor.quantized_layers(model)}
