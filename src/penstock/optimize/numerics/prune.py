"""Weights, channels or layers left out. What was asked for is counted afterwards, not assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.numerics import layers
from penstock.optimize.numerics.loading import load_model, load_tokenizer, pieces, save
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Notes, Prune, Pruning

_NEAR = 0.01  # how far the share of zeros may be from what was asked for


def make(step: Prune, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    tell("loading", 0, 0)
    model, tokenizer = load_model(source), load_tokenizer(source.path)
    if step.method is Pruning.DEPTH:
        notes = _depth(step, model, tokenizer, tell)
    elif step.method is Pruning.WIDTH:
        notes = _width(step, model, tokenizer, tell)
    else:
        notes = _zeros(step, model, tokenizer, tell)
    save(model, tokenizer, into)
    return notes


def _zeros(step: Prune, model: Any, tokenizer: Any, tell: Tell) -> Notes:
    from penstock.optimize.numerics import compressor  # noqa: PLC0415 - takes seconds, which depth can do without

    tell(f"{step.method} {step.pattern}".rstrip(), 0, 0)
    if step.method is Pruning.MAGNITUDE:
        _by_magnitude(model, step)
    else:
        modifier = compressor.pruner(step)
        compressor.apply(modifier, model, tokenizer, step.texts, samples=step.samples, length=step.length)
    reached = sparsity(model)
    for name, share in reached.items():
        if abs(share - step.share) > _NEAR:
            raise StepFailed(
                f"{name} has {share:.1%} zeros after {step.method}, asked for were {step.share:.1%}"
            )
    if step.pattern:
        _require_two_of_four(model)
    return {"sparsity": sum(reached.values()) / len(reached), "pruned_layers": len(reached)}


def sparsity(model: Any) -> dict[str, float]:
    """The share of zeros in each linear layer."""
    from penstock.optimize.numerics.compressor import linears  # noqa: PLC0415

    return {name: (layer.weight == 0).float().mean().item() for name, layer in linears(model)}


def _require_two_of_four(model: Any) -> None:
    from penstock.optimize.numerics.compressor import linears  # noqa: PLC0415

    for name, layer in linears(model):
        kept = (layer.weight != 0).unflatten(-1, (-1, 4)).sum(-1)
        if kept.max() > 2:
            raise StepFailed(
                f"{name} has four neighbours of which more than two are not zero: no 2:4 pattern"
            )


def _by_magnitude(model: Any, step: Prune) -> None:
    from penstock.optimize.numerics.compressor import linears  # noqa: PLC0415

    with torch.no_grad():
        for _, layer in linears(model):
            size = layer.weight.abs()
            if step.pattern:
                groups = size.unflatten(-1, (-1, 4))
                least = groups.argsort(-1)[..., :2]
                zero = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, least, value=True).flatten(-2)
            else:
                zero = size <= size.flatten().kthvalue(max(1, round(step.share * size.numel()))).values
            layer.weight.masked_fill_(zero, 0)


def _depth(step: Prune, model: Any, tokenizer: Any, tell: Tell) -> Notes:
    assert step.calibration is not None
    ids = torch.tensor(pieces(tokenizer, step.calibration, step.length, step.samples))
    numbers = list(range(len(layers.decoder_layers(model))))
    leave = len(numbers) - round(step.share * len(numbers))
    if not 0 < leave < len(numbers):
        raise StepFailed(f"{step.share:.0%} of {len(numbers)} layers are none, or all: name another share")
    gone: list[int] = []
    while len(numbers) > leave:
        found = layers.influences(model, ids)
        least = min(range(len(found)), key=found.__getitem__)
        layers.drop(model, least)
        gone.append(numbers.pop(least))
        tell("leaving layers out", len(gone), len(gone) + len(numbers) - leave)
    return {"left_out": sorted(gone), "layers": len(numbers)}


def _width(step: Prune, model: Any, tokenizer: Any, tell: Tell) -> Notes:
    """Inner channels of the feed-forward blocks, by torch-pruning; those whose weights times gradients are least."""
    import torch_pruning as pruning  # noqa: PLC0415 - the other methods do without it

    assert step.calibration is not None
    ids = torch.tensor(pieces(tokenizer, step.calibration, step.length, step.samples))
    blocks = [layer.mlp for layer in layers.decoder_layers(model)]
    before = model.config.intermediate_size
    example = {"input_ids": ids[:1], "use_cache": False}
    keep_out = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    inner = {id(block.gate_proj) for block in blocks} | {id(block.up_proj) for block in blocks}
    pruner = pruning.pruner.BasePruner(
        model,
        example,
        importance=pruning.importance.GroupTaylorImportance(),
        pruning_ratio=step.share,
        ignored_layers=[each for each in keep_out if id(each) not in inner],
        round_to=32,  # so that groups of quantised weights, and registers, come out even
        output_transform=lambda out: out.logits.sum(),
    )
    parts = ids.split(4)
    for number, piece in enumerate(parts):
        model(input_ids=piece, labels=piece, use_cache=False).loss.backward()
        tell("weighing channels", number + 1, len(parts))
    pruner.step()
    model.zero_grad(set_to_none=True)
    widths = {block.gate_proj.out_features for block in blocks}
    if len(widths) != 1:
        raise StepFailed(
            f"blocks have become different in width ({sorted(widths)}), which no configuration can say"
        )
    (after,) = widths
    if after >= before:
        raise StepFailed(f"no channel was left out of {before}: name a larger share")
    model.config.intermediate_size = after
    return {"channels_before": before, "channels": after}
