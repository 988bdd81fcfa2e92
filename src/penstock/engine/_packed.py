"""Weights in the order in which oneDNN reads them.

PyTorch multiplies with the library that it was built with, by weights as they are stored.  Where a matrix is larger
than a core's own cache and there are a few rows, as in a step that computes one token of each answer, oneDNN is up to
twice as quick if it may put it in an order of its own once, at the beginning.  And a row's result is then the same
bits whatever the other rows are.

PyTorch's compiler does so with weights that stay as they are; the two operators are its own.  Whether they are there,
and the model says the same, is therefore tried, and the weights are left as they were where not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

LEAST = 1_000_000  # bytes of a matrix: a smaller one lies in a core's cache, and each call costs some microseconds
_ROWS = 16  # for which the order is best


def pack(model: nn.Module, is_same: Callable[[], bool]) -> bool:
    """Have the large matrices of a model multiplied by oneDNN.

    :param is_same: whether the model still says what it has said
    :returns: whether that is so; if not, all is as it was
    """
    linears = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and module.weight.nbytes >= LEAST
        and module.weight.dtype is torch.float32
    ]
    packed: list[nn.Linear] = []
    held = _held_elsewhere(model)
    try:
        for linear in linears:
            _pack(linear, keep=id(linear.weight) in held)
            packed.append(linear)
        if is_same():
            return bool(packed)
    except (
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # no such operators, or not for such weights
        pass
    for linear in packed:
        _unpack(linear)
    return False


def _held_elsewhere(model: nn.Module) -> set[int]:
    """Weights that are more than one module's, as those of an embedding and of the last layer often are."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    return {weight for weight, count in owners.items() if count > 1}


def _pack(linear: nn.Linear, *, keep: bool) -> None:
    """``keep``: the weights as they are stored as well."""
    with torch.no_grad():
        ordered = torch.ops.mkldnn._reorder_linear_weight(linear.weight, _ROWS)  # noqa: SLF001 - see above
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    linear.forward = functools.partial(_forward, multiply, ordered, linear.bias)
    if not keep:
        linear.weight = nn.Parameter(ordered, requires_grad=False)


def _forward(
    multiply: Callable[..., torch.Tensor],
    ordered: torch.Tensor,
    bias: torch.Tensor | None,
    input: torch.Tensor,  # noqa: A002 - as nn.Linear calls it
) -> torch.Tensor:
    return multiply(input, ordered, bias, "none", [], "")


def _unpack(linear: nn.Linear) -> None:
    del linear.forward
    if linear.weight.is_mkldnn:
        linear.weight = nn.Parameter(linear.weight.to_dense(), requires_grad=False)


__all__ = ["LEAST", "pack"]
