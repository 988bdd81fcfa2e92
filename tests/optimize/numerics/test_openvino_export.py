"""What is exported for OpenVINO says what the model said, and what cannot be is refused."""

from __future__ import annotations

import pytest
import torch

from penstock.engine.model_dir import inspect
from penstock.optimize.faults import StepFailed
from penstock.optimize.measure import measure
from penstock.optimize.model_directory import Runtime
from penstock.optimize.numerics import openvino
from penstock.optimize.progress import nobody
from penstock.optimize.steps import Distill, Export, Form, Prune, Pruning, Quantize, take


def perplexity(path, text):
    return measure(path, text, nobody, windows=4, length=64, prompt=16, generated=8, repeats=1).perplexity


@pytest.fixture(scope="module")
def before(model, text):
    return perplexity(model, text)


@pytest.mark.parametrize(
    ("step", "loss"),
    [
        (Export(runtime=Runtime.OPENVINO), 0.005),  # OpenVINO rounds activations of its own accord
        (Quantize(to=Form.INT8, runtime=Runtime.OPENVINO), 0.01),
        (Quantize(to=Form.INT4, runtime=Runtime.OPENVINO), 0.1),
    ],
    ids=["fp32", "int8", "int4"],
)
def test_an_export_says_what_the_model_said_and_is_what_the_engine_wants(
    step, loss, model, text, before, tmp_path
):
    notes = take(step, model, tmp_path / "made", nobody)
    assert notes["logits_differ_by"] < 1e-4
    assert abs(perplexity(tmp_path / "made", text) / before - 1) < loss
    assert inspect(tmp_path / "made").format == "openvino"


def test_layers_of_other_kinds_are_refused_with_a_remedy(model, tmp_path, monkeypatch):
    loaded = openvino.load_model

    def sliding(source):
        made = loaded(source)
        made.config.layer_types = ["full_attention", "sliding_attention"] * 2
        return made

    monkeypatch.setattr(openvino, "load_model", sliding)
    with pytest.raises(StepFailed, match=r"full_attention, sliding_attention: .*use optimum-cli"):
        take(Export(runtime=Runtime.OPENVINO), model, tmp_path / "made", nobody)


def test_an_export_that_says_something_else_is_refused(model, tmp_path, monkeypatch):
    traced = openvino._traced

    def wrong(loaded):
        projection = loaded.model.layers[1].mlp.down_proj
        right = projection.weight
        projection.weight = torch.nn.Parameter(right * 1.1)  # another one: a graph shares what it is made of
        graph = traced(loaded)
        projection.weight = right
        return graph

    monkeypatch.setattr(openvino, "_traced", wrong)
    with pytest.raises(StepFailed, match="says something else than the model"):
        take(Export(runtime=Runtime.OPENVINO), model, tmp_path / "made", nobody)
    assert not (tmp_path / "made").exists()


def test_a_student_learns_from_what_was_said_alone(model, text, tmp_path):
    """Where the teacher's weights are somebody else's there are only its texts."""
    take(Prune(method=Pruning.MAGNITUDE, share=0.7), model, tmp_path / "pruned", nobody)
    step = Distill(calibration=text, steps=60, length=64)
    notes = take(step, tmp_path / "pruned", tmp_path / "made", nobody)
    assert notes["loss_at_last"] < notes["loss_at_first"]
