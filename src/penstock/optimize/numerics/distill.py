"""The student learns its teacher's distribution over the next token (logit distillation, off-policy).

The loss is the Kullback-Leibler divergence of the student from the teacher at each position of the texts, both
softened by the temperature, times its square (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural
Network, 2015).  Of a teacher whose weights nobody has there are only its answers: then the student learns these
texts themselves (Kim, Rush: Sequence-Level Knowledge Distillation, 2016).  ``on_policy`` has it learn from texts of
its own.

Every so many steps all that the next one depends on is kept: weights, what the optimizer remembers, whose turn it is,
and where all that draws by lot is.  So a training that was killed comes to the same weights, bit by bit, on the same
machine.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch
from blake3 import blake3
from torch.nn import functional

from penstock.optimize.faults import StepFailed
from penstock.optimize.making import Stamp, kept_beside
from penstock.optimize.model_directory import ModelDirectory, open_model
from penstock.optimize.numerics.checkpoint import keep, kept, restore, state_of
from penstock.optimize.numerics.loading import load_model, load_tokenizer, pieces, save
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Distill, Notes, stamp_for

_MOST = 1_000_000  # pieces that are read of the texts
_WARM_UP = 0.1  # of the steps
_LAST = 0.1  # the rate at the end, of the largest


def make(step: Distill, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    assert step.calibration is not None
    tell("loading", 0, 0)
    student, tokenizer = load_model(source), load_tokenizer(source.path)
    teacher = None if step.teacher is None else load_model(open_model(step.teacher))
    if teacher is not None and teacher.config.vocab_size != student.config.vocab_size:
        raise StepFailed(
            f"{step.teacher} has {teacher.config.vocab_size} tokens, {source.path} {student.config.vocab_size}: "
            "teacher and student must share a vocabulary"
        )
    read = pieces(tokenizer, step.calibration, step.length, _MOST)
    if step.on_policy and teacher is None:
        raise StepFailed("on_policy: what the student writes itself only a teacher can judge; name one")
    folder, of = kept_beside(into), _of(stamp_for(step, source))
    if step.on_policy:
        from penstock.optimize.numerics.on_policy import train  # noqa: PLC0415 - TRL is seconds to load

        losses = train(step, student, teacher, tokenizer, read, folder, of, tell)
    else:
        losses = _train(step, student, teacher, torch.tensor(read), folder, of, tell)
    if not losses or not all(map(math.isfinite, losses)):
        shutil.rmtree(folder, ignore_errors=True)  # to go on from there would come to the same
        raise StepFailed(f"the training diverged at step {len(losses)}: name a smaller learning_rate")
    save(student, tokenizer, into)
    tenth = max(1, len(losses) // 10)
    return {
        "pieces": len(read),
        "loss_at_first": sum(losses[:tenth]) / tenth,
        "loss_at_last": sum(losses[-tenth:]) / tenth,
    }


def _of(stamp: Stamp) -> str:
    return blake3(msgspec.json.encode(stamp, order="deterministic")).hexdigest(16)


def _train(
    step: Distill, student: Any, teacher: Any, ids: torch.Tensor, folder: Path, of: str, tell: Tell
) -> list[float]:
    """The loss of each step, up to one that is no number; what was broken off goes on as if it had not been.

    :param folder: for checkpoints
    :param of: what these must be of
    """
    if teacher is not None:
        for each in teacher.parameters():
            each.requires_grad_(requires_grad=False)
    # Weights that were pruned stay zero: what training put there would undo the pruning.
    masks = [(each, each != 0) for each in student.parameters() if each.dim() > 1 and (each == 0).any()]
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=step.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    draws = torch.Generator().manual_seed(step.seed)
    torch.manual_seed(step.seed)  # of what the model itself draws: dropout
    order = torch.randperm(len(ids), generator=draws)
    losses: list[float] = []
    at = 0
    if (state := kept(folder, of)) is not None:
        losses, at, order = state.told["losses"], state.told["at"], state.tensors["order"]
        draws.set_state(state.tensors["draws"])
        torch.set_rng_state(state.tensors["drawn"])
        with torch.no_grad():
            for name, weight in student.named_parameters():
                weight.copy_(state.tensors[f"weight.{name}"])
        restore(optimizer, state.tensors)
        tell("distilling", len(losses), step.steps)
    student.train()
    for number in range(len(losses), step.steps):
        if at + step.batch > len(order):
            order, at = torch.randperm(len(ids), generator=draws), 0
        batch = ids[order[at : at + step.batch]]
        at += step.batch
        loss = _loss(step, student, teacher, batch)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = step.learning_rate * _rate(number, step.steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)
        if len(losses) % step.checkpoint_every == 0 and len(losses) < step.steps:
            weights = {f"weight.{name}": weight.detach() for name, weight in student.named_parameters()}
            random = {"order": order, "draws": draws.get_state(), "drawn": torch.get_rng_state()}
            keep(folder, of, {**weights, **random, **state_of(optimizer)}, {"losses": losses, "at": at})
        tell("distilling", len(losses), step.steps)
    student.eval()
    return losses


def _loss(step: Distill, student: Any, teacher: Any, batch: torch.Tensor) -> torch.Tensor:
    out = student(input_ids=batch, use_cache=False).logits
    said = functional.cross_entropy(out[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    if teacher is None:
        return said
    with torch.inference_mode():
        wanted = teacher(input_ids=batch, use_cache=False).logits
    heat = step.temperature
    soft = functional.kl_div(
        functional.log_softmax(out.flatten(0, 1) / heat, dim=-1),
        functional.log_softmax(wanted.flatten(0, 1).clone() / heat, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    loss = (1 - step.hard) * heat**2 * soft
    return loss + step.hard * said if step.hard else loss


def _rate(at: int, steps: int) -> float:
    """Linear up, then a cosine down."""
    warm = max(1, round(_WARM_UP * steps))
    if at < warm:
        return (at + 1) / warm
    done = (at - warm) / max(1, steps - warm)
    return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done))
