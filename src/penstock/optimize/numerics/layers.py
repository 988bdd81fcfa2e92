"""Decoder layers: which matter least, and a model without some.

The influence of a layer is how much it turns the hidden state, 1 - cos(before, after), averaged over tokens
(block influence: Men et al., ShortGPT, 2024). Layers are taken out one by one, and the influence of the others
is looked at anew each time, because it changes.
"""

from __future__ import annotations

from typing import Any

import torch

from penstock.optimize.faults import StepFailed


def decoder_layers(model: Any) -> Any:
    """The list of them.

    :raises StepFailed: this architecture keeps them elsewhere
    """
    found = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(found, torch.nn.ModuleList):
        raise StepFailed(
            f"{type(model).__name__} has no list of layers where it was looked for (model.layers)"
        )
    return found


def influences(model: Any, ids: torch.Tensor) -> list[float]:
    """Of each layer, on a batch of pieces."""
    layers = decoder_layers(model)
    found = [0.0] * len(layers)
    hooks = []
    for number, layer in enumerate(layers):

        def look(_: Any, given: Any, named: Any, out: Any, number: int = number) -> None:
            before = given[0] if given else named["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            turned = 1 - torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            found[number] += turned.mean().item() * len(before) / len(ids)

        hooks.append(layer.register_forward_hook(look, with_kwargs=True))
    try:
        with torch.inference_mode():
            for piece in ids.split(8):
                model(input_ids=piece, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def drop(model: Any, number: int) -> None:
    """Take a layer out of a loaded model, for good."""
    layers = decoder_layers(model)
    del layers[number]
    for place, layer in enumerate(layers):
        layer.self_attn.layer_idx = place
    config = model.config
    config.num_hidden_layers = len(layers)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = [kind for place, kind in enumerate(kinds) if place != number]


def loss_of(model: Any, ids: torch.Tensor) -> float:
    """Mean of the negative log-likelihood, nats a token."""
    total = 0.0
    with torch.inference_mode():
        for piece in ids.split(8):
            total += model(input_ids=piece, labels=piece, use_cache=False).loss.item() * len(piece)
    return total / len(ids)
