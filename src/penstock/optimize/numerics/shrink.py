"""Layers left out one by one, as long as the loss allows, with the curve of what each costs and saves."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from penstock.optimize import plot
from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.numerics import layers
from penstock.optimize.numerics.loading import load_model, load_tokenizer, pieces, save
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Notes, Shrink

CURVE = "curve.svg"


def make(step: Shrink, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    assert step.calibration is not None
    tell("loading", 0, 0)
    model, tokenizer = load_model(source), load_tokenizer(source.path)
    ids = torch.tensor(pieces(tokenizer, step.calibration, step.length, step.samples))
    numbers = list(range(len(layers.decoder_layers(model))))
    points = [_point(model, ids, len(numbers))]
    chosen: list[int] = []
    gone: list[int] = []
    total = len(numbers) - step.least
    while len(numbers) > step.least:
        # Here each layer is tried: its influence says what it does, but only the loss says whether it is missed.
        least = min(range(len(numbers)), key=lambda number: _loss_without(model, ids, number))
        layers.drop(model, least)
        gone.append(numbers.pop(least))
        points.append(_point(model, ids, len(numbers)))
        if points[-1]["perplexity"] <= points[0]["perplexity"] * (1 + step.max_loss):
            chosen = list(gone)
        tell("leaving layers out", len(gone), total)
    (into / CURVE).write_text(_curve(points), encoding="utf-8")
    if not chosen:
        raise StepFailed(
            f"no layer can be left out for {step.max_loss:.1%} of perplexity: the least costs "
            f"{points[1]['perplexity'] / points[0]['perplexity'] - 1:.1%}; allow more, and distill afterwards"
            if len(points) > 1
            else "there is no layer to leave out"
        )
    model = load_model(source)
    for number in sorted(chosen, reverse=True):
        layers.drop(model, number)
    save(model, tokenizer, into)
    return {"left_out": sorted(chosen), "layers": model.config.num_hidden_layers, "curve": points}


def _loss_without(model: Any, ids: torch.Tensor, number: int) -> float:
    """The loss while a layer is passed over."""
    layer = layers.decoder_layers(model)[number]
    forward = layer.forward
    layer.forward = lambda hidden_states, *_, **__: hidden_states
    try:
        return layers.loss_of(model, ids)
    finally:
        layer.forward = forward


def _point(model: Any, ids: torch.Tensor, count: int) -> dict[str, float]:
    began = time.process_time()
    loss = layers.loss_of(model, ids)
    spent = time.process_time() - began
    return {"layers": count, "perplexity": math.exp(loss), "ms_per_token": 1_000 * spent / ids.numel()}


def _curve(points: list[dict[str, float]]) -> str:
    return plot.curve(
        "Perplexity over latency, as layers are left out",
        "CPU-milliseconds a token, prefill",
        "perplexity",
        [
            plot.Point(each["ms_per_token"], each["perplexity"], f"{each['layers']:.0f} layers")
            for each in points
        ],
    )
