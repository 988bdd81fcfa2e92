"""Each step makes what it says, and what it makes can be loaded and run."""

from __future__ import annotations

import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.optimize.faults import StepFailed, UnusableModel, UnusableText
from penstock.optimize.measure import measure
from penstock.optimize.model_directory import Runtime, open_model
from penstock.optimize.numerics import layers, measuring, prune
from penstock.optimize.numerics.loading import load_model, load_tokenizer, pieces
from penstock.optimize.progress import nobody
from penstock.optimize.steps import (
    Distill,
    Export,
    Form,
    Prune,
    Pruning,
    Quantize,
    Rounding,
    Shrink,
    loaded,
    take,
)


def figures(path, text):
    return measure(path, text, nobody, windows=4, length=64, prompt=16, generated=8, repeats=1)


@pytest.fixture(scope="session")
def original(model, text):
    return figures(model, text)


def take_all(step, model, target):
    told = []
    notes = take(step, model, target, lambda *each: told.append(each))
    assert told
    return notes


def test_the_perplexity_is_that_of_an_independent_count(model, text, original):
    """Word for word as transformers' own loss has it."""
    loaded_model = load_model(open_model(model))
    ids = torch.tensor(pieces(load_tokenizer(model), text, 64, 4))
    with torch.no_grad():
        losses = [loaded_model(input_ids=each[None], labels=each[None]).loss.item() for each in ids]
    assert original.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert original.tokens == 4 * 63
    assert [speed.batch for speed in original.speeds] == [1, 16]
    assert all(speed.decode > 0 and speed.prefill > 0 for speed in original.speeds)
    assert original.peak_bytes > original.model_bytes > 0


@pytest.mark.parametrize(
    ("step", "smaller", "loss"),
    [
        (Quantize(to=Form.FP16), 1.9, 0.005),
        (Quantize(to=Form.BF16), 1.9, 0.01),
        (Quantize(to=Form.W8A8), 1.5, 0.02),
        (Quantize(to=Form.INT8), 1.5, 0.01),
        (Quantize(to=Form.INT4, group_size=32), 1.7, 0.1),
        (Quantize(to=Form.INT8, runtime=Runtime.ONNX), 1.5, 0.02),
        (Quantize(to=Form.INT4, runtime=Runtime.ONNX, group_size=32), 2.0, 0.1),
        (Quantize(to=Form.INT4, runtime=Runtime.ONNX, method=Rounding.KQUANT), 2.0, 0.2),
        (Export(), 0.7, 0.0001),
    ],
    ids=lambda each: f"{each.name}-{each.to}-{each.runtime}" if hasattr(each, "to") else None,
)
def test_fewer_bits_are_smaller_and_cost_little(step, smaller, loss, model, text, original, tmp_path):
    take_all(step, model, tmp_path / "made")
    after = figures(tmp_path / "made", text)
    assert original.weight_bytes / after.weight_bytes > smaller
    assert after.perplexity / original.perplexity - 1 < loss
    assert after.runtime == step.runtime_after


@pytest.mark.parametrize("to", [Form.W8A8, Form.INT4])
def test_gptq_changes_the_output_less_than_rounding_to_nearest(to, model, text, original, tmp_path):
    del original
    ids = torch.tensor(pieces(load_tokenizer(model), text, 64, 8))
    whole = load_model(open_model(model))
    off = {}
    for method in (Rounding.RTN, Rounding.GPTQ):
        step = Quantize(to=to, method=method, calibration=text, samples=32, length=64)
        take_all(step, model, tmp_path / method)
        changed = load_model(open_model(tmp_path / method), "auto")
        with torch.no_grad():
            off[method] = (
                (changed(input_ids=ids).logits - whole(input_ids=ids).logits).float().pow(2).mean().item()
            )
    assert 0 < off[Rounding.GPTQ] < off[Rounding.RTN]


@pytest.mark.parametrize(
    "step",
    [
        {"method": Pruning.SPARSEGPT, "pattern": "2:4"},
        {"method": Pruning.SPARSEGPT},
        {"method": Pruning.WANDA, "pattern": "2:4"},
        {"method": Pruning.WANDA, "share": 0.3},
        {"method": Pruning.MAGNITUDE, "pattern": "2:4"},
        {"method": Pruning.MAGNITUDE, "share": 0.25},
    ],
    ids=lambda each: "-".join(map(str, each.values())),
)
def test_the_sparsity_that_was_asked_for_is_reached(step, model, text, tmp_path):
    step = Prune(calibration=text, samples=16, length=64, **step)
    notes = take_all(step, model, tmp_path / "made")
    assert notes["sparsity"] == pytest.approx(step.share, abs=0.01)
    assert notes["pruned_layers"] == 28
    reached = prune.sparsity(load_model(open_model(tmp_path / "made")))
    assert all(share == pytest.approx(step.share, abs=0.01) for share in reached.values())


def test_a_sparsity_that_was_not_reached_is_an_error(model, text, tmp_path, monkeypatch):
    monkeypatch.setattr(prune, "_by_magnitude", lambda *_: None)
    with pytest.raises(StepFailed, match=r"has 0\.0% zeros after magnitude, asked for were 50\.0%"):
        take(Prune(method=Pruning.MAGNITUDE), model, tmp_path / "made", nobody)
    assert not (tmp_path / "made").exists()


def test_a_narrower_model_is_loaded_with_its_new_width(model, text, original, tmp_path):
    step = Prune(method=Pruning.WIDTH, share=0.5, calibration=text, samples=16, length=64)
    notes = take_all(step, model, tmp_path / "made")
    assert notes == {"channels_before": 192, "channels": 96}
    narrow = load_model(open_model(tmp_path / "made"))
    assert narrow.config.intermediate_size == 96
    assert {layer.mlp.down_proj.weight.shape for layer in narrow.model.layers} == {(64, 96)}
    assert figures(tmp_path / "made", text).perplexity > original.perplexity


def test_a_shallower_model_is_loaded_with_its_layers(model, text, tmp_path):
    step = Prune(method=Pruning.DEPTH, share=0.5, calibration=text, samples=8, length=64)
    notes = take_all(step, model, tmp_path / "made")
    assert notes["layers"] == 2
    assert len(notes["left_out"]) == 2
    shallow = load_model(open_model(tmp_path / "made"))
    whole = load_model(open_model(model))
    kept = [number for number in range(4) if number not in notes["left_out"]]
    for layer, number in zip(shallow.model.layers, kept, strict=True):
        assert torch.equal(layer.mlp.up_proj.weight, whole.model.layers[number].mlp.up_proj.weight)
        assert layer.self_attn.layer_idx == kept.index(number)


def test_a_share_that_leaves_no_layer_or_takes_none_is_refused(model, text, tmp_path):
    for share in (0.01, 0.99):
        step = Prune(method=Pruning.DEPTH, share=share, calibration=text, length=64)
        with pytest.raises(StepFailed, match="are none, or all"):
            take(step, model, tmp_path / "made", nobody)


def test_the_layer_that_does_least_is_found(model, text):
    whole = load_model(open_model(model))
    layer = whole.model.layers[2]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    ids = torch.tensor(pieces(load_tokenizer(model), text, 64, 4))
    found = layers.influences(whole, ids)
    assert found[2] == pytest.approx(0, abs=1e-5)
    assert min(found[:2] + found[3:]) > 1e-4
    before = layers.loss_of(whole, ids)
    layers.drop(whole, 2)
    assert layers.loss_of(whole, ids) == pytest.approx(before, rel=1e-5)


def test_distilling_wins_back_what_pruning_has_cost(model, text, original, tmp_path):
    take_all(Prune(method=Pruning.DEPTH, share=0.25, calibration=text, length=64), model, tmp_path / "pruned")
    step = Distill(teacher=model, calibration=text, steps=60, length=64, learning_rate=2e-3)
    notes = take_all(step, tmp_path / "pruned", tmp_path / "healed")
    assert notes["loss_at_last"] < notes["loss_at_first"]
    pruned, healed = (figures(tmp_path / each, text).perplexity for each in ("pruned", "healed"))
    assert (pruned - healed) / (pruned - original.perplexity) > 0.5


def test_distilling_leaves_pruned_weights_at_zero_and_is_the_same_each_time(model, text, tmp_path):
    take_all(Prune(method=Pruning.MAGNITUDE, pattern="2:4"), model, tmp_path / "sparse")
    step = Distill(teacher=model, calibration=text, steps=3, length=64)
    for name in ("one", "two"):
        take_all(step, tmp_path / "sparse", tmp_path / name)
    healed = load_model(open_model(tmp_path / "one"))
    assert all(share == pytest.approx(0.5, abs=0.01) for share in prune.sparsity(healed).values())
    assert not torch.equal(
        healed.model.layers[0].mlp.up_proj.weight,
        load_model(open_model(tmp_path / "sparse")).model.layers[0].mlp.up_proj.weight,
    )
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_training_that_diverges_is_given_up(model, text, tmp_path):
    step = Distill(teacher=model, calibration=text, steps=50, length=64, learning_rate=1e12)
    with pytest.raises(StepFailed, match="diverged"):
        take(step, model, tmp_path / "made", nobody)


def test_shrinking_stops_where_the_loss_is_too_large_and_draws_the_curve(model, text, tmp_path):
    step = Shrink(calibration=text, max_loss=1.0, samples=4, length=64)
    notes = take_all(step, model, tmp_path / "made")
    curve = notes["curve"]
    assert [each["layers"] for each in curve] == [4, 3, 2, 1]
    allowed = [each["layers"] for each in curve if each["perplexity"] <= 2 * curve[0]["perplexity"]]
    assert notes["layers"] == min(allowed)
    assert (tmp_path / "made" / "curve.svg").read_text().startswith("<svg")
    assert load_model(open_model(tmp_path / "made")).config.num_hidden_layers == notes["layers"]
    with pytest.raises(StepFailed, match="no layer can be left out"):
        take(Shrink(calibration=text, max_loss=0.0, samples=4, length=64), model, tmp_path / "none", nobody)


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_profile_tells_of_operations_and_layers_and_what_to_change_first(runtime, model, text, tmp_path):
    path = model
    if runtime is not Runtime.TRANSFORMERS:
        path = tmp_path / "exported"
        take_all(Export(runtime=runtime), model, path)
    (tmp_path / "profile").mkdir()
    found = loaded("profile", "make")(open_model(path), text, tmp_path / "profile", nobody, tokens=4, batch=2)
    assert found.runtime == runtime
    assert len(found.advice) == 3
    assert sum(each.share for each in found.shares) == pytest.approx(1)
    assert found.rows[0].ms >= found.rows[1].ms
    assert next(each.share for each in found.shares if each.name == "matrices") > 0
    named = {row.name: row for row in found.layers}
    assert {f"layer {number}" for number in range(4)} <= set(named)
    assert "layer 4" not in named
    assert sum(row.ms for row in found.layers) <= found.ms * 1.01
    if runtime is not Runtime.TRANSFORMERS:
        # A graph has each layer's multiplications once in each of its five runs.
        multiplied = next(row for row in found.rows if "MatMul" in row.name or row.name == "FullyConnected")
        assert multiplied.calls % 5 == 0
        assert multiplied.calls >= 5 * (4 * 5 + 1)
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    names = {str(each.get("name")) for each in events}
    assert any("layer" in name for name in names)
    assert {"prefill", "decode"} <= names or runtime is not Runtime.TRANSFORMERS
    assert [each.name for each in (tmp_path / "profile").iterdir()] == ["trace.json"]
    assert "## By layer" in found.markdown()


def test_an_architecture_that_transformers_does_not_know_is_refused(copy, text, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "model_type": "llama9", "architectures": ["Llama9ForCausalLM"]})
    )
    with pytest.raises(UnusableModel, match=r"of the type 'llama9', which transformers .* does not know"):
        take(Quantize(to=Form.INT8), copy, tmp_path / "made", nobody)


def test_weights_that_do_not_fit_the_configuration_are_refused(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6, "layer_types": None}))
    with pytest.raises(UnusableModel, match=r"lacks .* tensors of its architecture"):
        take(Quantize(to=Form.INT8), copy, tmp_path / "made", nobody)
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with pytest.raises(UnusableModel, match="cannot be loaded"):
        take(Quantize(to=Form.INT8), copy, tmp_path / "made", nobody)


def test_weights_that_are_no_numbers_are_refused(copy, text, tmp_path):
    path = copy / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = math.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UnusableModel, match=r"no.* in model\.layers\.1\.mlp\.up_proj\.weight: fetch"):
        take(Quantize(to=Form.INT8), copy, tmp_path / "made", nobody)
    with pytest.raises(StepFailed, match=r"cannot be measured: .* has numbers that are none"):
        figures(copy, text)


@pytest.mark.parametrize(("logit", "said"), [(math.nan, "are no numbers"), (1e9, "beyond all numbers")])
def test_what_says_no_numbers_has_no_figures(logit, said):
    class Silly:
        def logits(self, tokens):
            found = np.zeros((*tokens.shape, 9), np.float32)
            found[..., 0] = logit
            return found

    with pytest.raises(StepFailed, match=said):
        measuring._perplexity(Silly(), np.ones((2, 4), np.int64), nobody)


def test_an_exported_model_that_is_damaged_is_refused_with_a_remedy(model, text, tmp_path, caplog):
    made = tmp_path / "made"
    with caplog.at_level(logging.INFO):
        take(Quantize(to=Form.INT8, runtime=Runtime.ONNX), model, made, nobody)
    # Of each matrix the library would tell twice.
    assert all(each.levelno > logging.INFO for each in caplog.records if "quantiz" in each.name)
    data = made / "model.onnx.data"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(StepFailed, match=r"cannot load .*, which may be damaged: make it again"):
        figures(made, text)


def test_a_model_without_tokenizer_is_refused(copy, text, tmp_path):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UnusableModel, match="has no tokenizer that can be read"):
        take(Quantize(to=Form.INT8), copy, tmp_path / "made", nobody)


def test_a_text_shorter_than_one_piece_is_refused(model, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    step = Prune(method=Pruning.SPARSEGPT, calibration=tmp_path / "short.txt")
    with pytest.raises(UnusableText, match="fewer than one piece of 256"):
        take(step, model, tmp_path / "made", nobody)


def test_measuring_tells_why_it_cannot(copy, text):
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(StepFailed, match=r"cannot be measured: .* has no tokenizer"):
        measure(copy, text, nobody)
