"""Where a model's time goes, by PyTorch's profiler or its own runtime's counters, and the three things to change first.

Advice is by Amdahl's law: what a kind of work takes of the whole, times what a known remedy leaves of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import ModelDirectory, Runtime
from penstock.optimize.numerics import graph_profile
from penstock.optimize.numerics.layers import decoder_layers
from penstock.optimize.numerics.loading import load_model, load_tokenizer, pieces
from penstock.optimize.profiling import PROMPT, Advice, Profile, Row, Share, advise
from penstock.optimize.progress import Tell

_MATRICES = (
    "aten::addmm",
    "aten::mm",
    "aten::bmm",
    "aten::linear",
    "aten::matmul",
    "aten::_weight_int8pack_mm",
)
_LAYER = "layer "
_ATTENTION = ("attention", "flash")
_COPIES = (
    "aten::copy_",
    "aten::_to_copy",
    "aten::cat",
    "aten::clone",
    "aten::contiguous",
    "aten::index_select",
)


def make(source: ModelDirectory, text: Path, into: Path, tell: Tell, *, tokens: int, batch: int) -> Profile:
    """Profile a prefill and ``tokens`` steps of decode; the trace goes to ``into / "trace.json"``."""
    if source.runtime is not Runtime.TRANSFORMERS:
        return graph_profile.make(source, text, into, tell, tokens=tokens, batch=batch)
    torch.set_num_threads(1)
    tell("loading", 0, 0)
    model, tokenizer = load_model(source, "auto"), load_tokenizer(source.path)
    ids = torch.tensor(pieces(tokenizer, text, PROMPT, 1) * batch)
    _generate(model, ids, 2)  # what is done once only
    _mark_layers(model)
    tell("profiling", 0, 0)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        _generate(model, ids, tokens)
    found.export_chrome_trace(str(into / "trace.json"))
    shares = _shares(found, model)
    rows = sorted(
        (
            Row(each.key, each.count, each.self_cpu_time_total / 1_000)
            for each in found.key_averages()
            if each.self_cpu_time_total > 0
        ),
        key=lambda row: -row.ms,
    )
    total = sum(row.ms for row in rows)
    advice: list[Advice] = advise(shares, stored=str(next(model.parameters()).dtype), batch=batch)
    layers = [
        Row(each.key, each.count, each.cpu_time_total / 1_000)
        for each in found.key_averages()
        if each.key.startswith(_LAYER)
    ]
    rest = total - sum(row.ms for row in layers)
    layers = [
        *sorted(layers, key=lambda row: int(row.name.removeprefix(_LAYER))),
        Row("the rest", 1 + tokens, rest),
    ]
    return Profile(
        source.path.name,
        batch,
        PROMPT,
        tokens,
        total,
        tuple(rows[:20]),
        tuple(shares),
        tuple(advice),
        layers=tuple(layers),
    )


def _mark_layers(model: Any) -> None:
    """So that each is told by its number."""
    try:
        layers = decoder_layers(model)
    except StepFailed:  # this architecture has them elsewhere: then they are not told apart
        return
    for number, layer in enumerate(layers):
        mark = record_function(f"{_LAYER}{number}")
        layer.register_forward_pre_hook(lambda *_, mark=mark: mark.__enter__() and None)
        layer.register_forward_hook(lambda *_, mark=mark: mark.__exit__(None, None, None))


def _generate(model: Any, ids: torch.Tensor, tokens: int) -> None:
    with torch.inference_mode():
        with record_function("prefill"):
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        for _ in range(tokens):
            last = out.logits[:, -1].argmax(-1, keepdim=True)
            with record_function("decode"):
                out = model(
                    input_ids=last, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1
                )


def _shares(found: Any, model: Any) -> list[Share]:
    """What each kind of work takes; each moment counts for the innermost operation."""
    vocabulary = model.config.vocab_size
    spent = dict.fromkeys(("matrices", "head", "attention", "copies", "rest of operations", "python"), 0.0)
    for each in found.key_averages(group_by_input_shape=True):
        own = each.self_cpu_time_total
        if each.key in {"prefill", "decode"} or each.key.startswith(_LAYER):
            # Within our marks and outside of any operation: the interpreter and the modules' own code.
            spent["python"] += own
        elif any(word in each.key for word in _ATTENTION):
            spent["attention"] += own
        elif each.key in _MATRICES:
            of_head = any(vocabulary in shape for shape in each.input_shapes if shape)
            spent["head" if of_head else "matrices"] += own
        elif each.key in _COPIES:
            spent["copies"] += own
        elif each.key.startswith("aten::"):
            spent["rest of operations"] += own
    total = sum(spent.values()) or 1.0
    return [Share(name, time / total) for name, time in spent.items()]
