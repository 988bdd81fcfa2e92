"""A student that learns at its own words."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from penstock.optimize.faults import StepFailed
from penstock.optimize.steps import Distill, take

QUIET = lambda *_: None  # noqa: E731


@pytest.fixture
def damaged(model, copy):
    """The model with noise on its weights, and a tenth of them taken away."""
    weak = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in weak.model.layers.parameters():
            if weight.dim() > 1:
                weight.add_(0.3 * weight.std() * torch.randn_like(weight))
                weight.mul_(torch.rand_like(weight) > 0.1)
    weak.save_pretrained(copy)
    return copy


def apart(teacher, student, ids):
    """How far the student's next token is from the teacher's, in nats."""
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (teacher, student)]
    with torch.no_grad():
        right, said = (model(ids).logits.log_softmax(-1) for model in models)
    return float((right.exp() * (right - said)).sum(-1).mean())


@pytest.mark.slow  # it writes and trains, and TRL takes seconds to load
def test_a_student_comes_nearer_to_its_teacher_by_its_own_words(model, damaged, text, tmp_path):
    step = Distill(
        teacher=model,
        calibration=text,
        steps=30,
        batch=8,
        length=32,
        learning_rate=2e-3,
        on_policy=True,
    )
    ids = torch.randint(2, 500, (8, 32), generator=torch.Generator().manual_seed(1))
    notes = take(step, damaged, tmp_path / "student", QUIET)
    assert notes["loss_at_last"] < notes["loss_at_first"]
    assert apart(model, tmp_path / "student", ids) < 0.8 * apart(model, damaged, ids)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).model.layers[0].mlp.up_proj.weight
        for path in (damaged, tmp_path / "student")
    )
    assert not after[before == 0].any()


def test_without_a_teacher_nobody_judges_what_it_writes(copy, text, tmp_path):
    with pytest.raises(StepFailed, match="teacher"):
        take(Distill(calibration=text, steps=1, length=32, on_policy=True), copy, tmp_path / "out", QUIET)


def test_words_of_its_own_are_not_learnt_by_heart(text):
    assert Distill(calibration=text, on_policy=True, hard=0.5).mistakes()
