"""Fewer bits for each weight: llmcompressor for transformers, each runtime's own for the others."""

from __future__ import annotations

from pathlib import Path

import torch

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
        return {"gain": _gain_of_halves(step.to)}
    from penstock.optimize.numerics import compressor  # noqa: PLC0415 - takes seconds

    model = load_model(source)
    modifier = compressor.quantizer(step)
    texts = step.texts if step.method is Rounding.GPTQ else None
    tell(f"{step.method} to {step.to}", 0, 0)
    compressor.apply(modifier, model, tokenizer, texts, samples=step.samples, length=step.length)
    save(model, tokenizer, into, save_compressed=True)
    return {"quantized_layers": compressor.quantized_layers(model)}


def _gain_of_halves(form: Form) -> str:
    """A word on what this machine makes of half precision."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        flags = ""
    wanted = {Form.FP16: ("avx512_fp16", "amx_fp16"), Form.BF16: ("avx512_bf16", "amx_bf16")}[form]
    if any(flag in flags.split() for flag in wanted):
        return f"half the memory, and this processor calculates in {form} itself"
    return (
        f"half the memory; this processor has no arithmetic in {form} ({', '.join(wanted)}), so expect it to be "
        "slower than fp32 here"
    )
