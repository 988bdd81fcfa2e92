"""llmcompressor: quantising and pruning of a loaded model, by its own modifiers.

Two traps, found by trying: a pruning modifier whose ``targets`` are not layers prunes nothing and says
nothing; a group that does not divide a layer's columns is refused only in the middle of the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStrategy
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from loguru import logger

from penstock.optimize.faults import StepFailed
from penstock.optimize.numerics.loading import pieces
from penstock.optimize.steps import Form, Prune, Pruning, Quantize, Rounding

logger.remove()  # it tells of every layer


def quantizer(step: Quantize) -> Any:
    """The modifier for this step."""
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=_weights(step),
        input_activations=QuantizationArgs(num_bits=8, strategy=QuantizationStrategy.TOKEN, dynamic=True)
        if step.to is Form.W8A8
        else None,
    )
    kind = GPTQModifier if step.method is Rounding.GPTQ else QuantizationModifier
    return kind(config_groups={"group_0": scheme}, ignore=["lm_head"])


def pruner(step: Prune) -> Any:
    """The modifier for this step."""
    kind = SparseGPTModifier if step.method is Pruning.SPARSEGPT else WandaPruningModifier
    return kind(
        sparsity=step.share,
        mask_structure=step.pattern or "0:0",
        targets=[r"re:model.layers.\d+$"],  # layers: with "Linear" nothing would be pruned
        ignore=["lm_head"],
    )


def _weights(step: Quantize) -> Any:
    if step.to is Form.INT4:
        return QuantizationArgs(
            num_bits=4, strategy=QuantizationStrategy.GROUP, group_size=step.group_size, symmetric=True
        )
    return QuantizationArgs(num_bits=8, strategy=QuantizationStrategy.CHANNEL, symmetric=True)


def apply(
    modifier: Any, model: Any, tokenizer: Any, texts: Path | None, *, samples: int, length: int
) -> None:
    """Change the model.

    :raises StepFailed: llmcompressor gave up
    """
    dataset = None
    if texts is not None:
        ids = pieces(tokenizer, texts, length, samples)
        dataset = Dataset.from_list([{"input_ids": each, "attention_mask": [1] * length} for each in ids])
    try:
        oneshot(
            model=model,
            tokenizer=tokenizer,
            dataset=dataset,
            recipe=[modifier],
            max_seq_length=length,
            num_calibration_samples=len(dataset) if dataset is not None else samples,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise StepFailed(f"llmcompressor gave up: {' '.join(str(error).split())[:400]}") from error


def quantized_layers(model: Any) -> int:
    """How many layers bear a quantisation.

    :raises StepFailed: none does
    """
    found = sum(1 for each in model.modules() if getattr(each, "quantization_scheme", None) is not None)
    if not found:
        raise StepFailed("llmcompressor has quantised no layer of this architecture")
    return found


def linears(model: Any) -> list[tuple[str, Any]]:
    """The linear layers within the model's decoder layers, with their names."""
    return [
        (name, each)
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) and ".layers." in name
    ]
