"""What can be asked for, and how a step is taken."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from pathlib import Path

import pytest
from model_files import write_model

from penstock.errors import ConfigError
from penstock.optimize import making, model_directory
from penstock.optimize.faults import ExtraLacking, StepFailed, UnusableModel, UnusableTarget, UnusableText
from penstock.optimize.making import kept_beside, stamp_of
from penstock.optimize.model_directory import Runtime, open_model
from penstock.optimize.progress import nobody
from penstock.optimize.steps import (
    STEPS,
    Distill,
    Export,
    Form,
    Prune,
    Pruning,
    Quantize,
    Rounding,
    Shrink,
    numerics_of,
    stamp_for,
    take,
    told,
)

TEXTS = Path("texts.txt")
WRONG = {
    "to": Quantize(to=Form.FP32),
    "group_size": Quantize(to=Form.INT4, group_size=33),
    "to: w8a8": Quantize(to=Form.W8A8, runtime=Runtime.ONNX),
    "method: gptq is for": Quantize(
        to=Form.INT4, runtime=Runtime.ONNX, method=Rounding.GPTQ, calibration=TEXTS
    ),
    "method: kquant": Quantize(to=Form.INT4, method=Rounding.KQUANT),
    "method: gptq rounds": Quantize(to=Form.BF16, method=Rounding.GPTQ, calibration=TEXTS),
    "calibration: gptq": Quantize(to=Form.INT4, method=Rounding.GPTQ),
    "samples": Quantize(to=Form.INT4, samples=0),
    "pattern": Prune(method=Pruning.MAGNITUDE, pattern="4:8"),
    "pattern: width": Prune(method=Pruning.WIDTH, pattern="2:4", calibration=TEXTS),
    "share": Prune(method=Pruning.MAGNITUDE, share=1.0),
    "share: 2:4": Prune(method=Pruning.MAGNITUDE, pattern="2:4", share=0.3),
    "calibration: sparsegpt": Prune(method=Pruning.SPARSEGPT),
    "steps": Distill(calibration=TEXTS, steps=0),
    "hard": Distill(calibration=TEXTS, hard=1.0),
    "learning_rate": Distill(calibration=TEXTS, learning_rate=math.nan),
    "temperature": Distill(calibration=TEXTS, temperature=math.inf),
    "calibration: distilling": Distill(),
    "max_loss": Shrink(calibration=TEXTS, max_loss=-0.1),
    "max_loss: not": Shrink(calibration=TEXTS, max_loss=math.nan),
    "calibration: the layers": Shrink(),
    "runtime": Export(runtime=Runtime.TRANSFORMERS),
    "to: fp32 or fp16": Export(to=Form.INT4),
}


@pytest.mark.parametrize(("begins", "step"), WRONG.items(), ids=WRONG)
def test_options_that_make_no_sense_together_are_refused(begins, step, model, tmp_path):
    (mistake,) = step.mistakes()
    assert mistake.startswith(begins)
    with pytest.raises(ConfigError) as raised:
        take(step, model, tmp_path / "made", nobody)
    assert raised.value.mistakes == (f"{step.name}: {mistake}",)


def test_what_is_asked_for_rightly_is_taken():
    for step in (
        Quantize(to=Form.INT4),
        Quantize(to=Form.INT8, runtime=Runtime.ONNX),
        Prune(method=Pruning.SPARSEGPT, pattern="2:4", calibration=TEXTS),
        Distill(calibration=TEXTS),
        Shrink(calibration=TEXTS),
        Export(),
    ):
        assert step.mistakes() == []
        assert STEPS[step.name] is type(step)


def copied(step, source, into, tell):
    tell("copying", 1, 1)
    for path in source.path.iterdir():
        shutil.copy(path, into)
    return {"files": len(list(into.iterdir()))}


def test_a_step_makes_a_directory_with_stamp_and_notes(model, tmp_path):
    told = []
    step = Quantize(to=Form.INT8)
    notes = take(step, model, tmp_path / "made", lambda *args: told.append(args), numerics=copied)
    assert notes == {"files": 2}
    assert told == [("copying", 1, 1)]
    assert stamp_of(tmp_path / "made") == stamp_for(step, open_model(model))
    assert (tmp_path / "made" / "penstock-notes.json").read_bytes() == b'{\n  "files": 2\n}'


def test_what_a_library_has_written_is_looked_at(model, tmp_path):
    with pytest.raises(UnusableModel, match=r"it has no config\.json"):
        take(Quantize(to=Form.INT8), model, tmp_path / "made", nobody, numerics=lambda *_: {})
    assert not (tmp_path / "made").exists()


def test_a_failed_step_leaves_the_source_as_it_was(model, tmp_path):
    def failing(step, source, into, tell):
        raise StepFailed("no layer was quantised")

    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(StepFailed, match="no layer"):
        take(Quantize(to=Form.INT8), model, tmp_path / "made", nobody, numerics=failing)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert not (tmp_path / "made").exists()


def test_texts_are_looked_at_before_anything_is_loaded(model, tmp_path):
    (tmp_path / "empty.txt").touch()
    step = Prune(method=Pruning.SPARSEGPT, calibration=tmp_path / "empty.txt")
    with pytest.raises(UnusableText, match="is empty"):
        take(step, model, tmp_path / "made", nobody, numerics=copied)


def test_pieces_are_no_longer_than_what_the_model_reads(model, texts, tmp_path):
    write_model(model, config={"max_position_embeddings": 64})
    step = Prune(method=Pruning.DEPTH, calibration=texts, length=65)
    with pytest.raises(ConfigError, match="length: 65 tokens are more than the 64 that"):
        take(step, model, tmp_path / "made", nobody, numerics=copied)
    take(
        Prune(method=Pruning.DEPTH, calibration=texts, length=64),
        model,
        tmp_path / "made",
        nobody,
        numerics=copied,
    )


def test_memory_is_looked_at_before_anything_is_loaded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model_directory, "available_memory", lambda: 50)
    with pytest.raises(UnusableModel, match="too large for this machine"):
        take(Quantize(to=Form.INT8), model, tmp_path / "made", nobody, numerics=copied)


def test_a_teachers_memory_is_looked_at_before_anything_is_loaded(model, texts, tmp_path, monkeypatch):
    teacher = write_model(tmp_path / "teacher", content=bytes(4_000))
    monkeypatch.setattr(model_directory, "available_memory", lambda: 4_300)
    alone = Distill(calibration=texts)
    take(alone, model, tmp_path / "alone", nobody, numerics=copied)  # five times 32 bytes
    taught = Distill(calibration=texts, teacher=teacher)
    with pytest.raises(UnusableModel) as raised:
        take(taught, model, tmp_path / "made", nobody, numerics=copied)
    assert f"{model} and {teacher} are together too large" in str(raised.value)
    assert "distill needs about 4.35 kB of memory, 4.3 kB are free" in str(raised.value)
    assert not (tmp_path / "made").exists()
    monkeypatch.setattr(model_directory, "available_memory", lambda: 4_400)
    take(taught, model, tmp_path / "made", nobody, numerics=copied)


def test_of_an_exported_model_nothing_more_is_made(tmp_path):
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    (tmp_path / "model.onnx").write_bytes(b"1")
    with pytest.raises(ConfigError, match="let quantize come before"):
        take(Quantize(to=Form.INT8), tmp_path, tmp_path / "made", nobody, numerics=copied)


def test_the_stamp_does_not_depend_on_where_files_lie(model, texts, tmp_path):
    step = Prune(method=Pruning.SPARSEGPT, calibration=texts)
    first = stamp_for(step, open_model(model))
    moved, texts_moved = tmp_path / "elsewhere", tmp_path / "moved.txt"
    model.rename(moved)
    texts.rename(texts_moved)
    again = Prune(method=Pruning.SPARSEGPT, calibration=texts_moved)
    assert stamp_for(again, open_model(moved)) == first
    assert stamp_for(Prune(method=Pruning.WANDA, calibration=texts_moved), open_model(moved)) != first


@pytest.mark.parametrize("name", STEPS)
def test_without_the_extra_a_step_names_it(name, monkeypatch):
    for module in list(sys.modules):
        if module.startswith("penstock.optimize.numerics"):
            monkeypatch.delitem(sys.modules, module)
    for library in ("torch", "onnxruntime_genai", "numpy"):
        monkeypatch.setitem(sys.modules, library, None)
    step = {
        "quantize": Quantize(to=Form.INT8),
        "prune": Prune(method=Pruning.DEPTH),
        "distill": Distill(),
        "shrink": Shrink(),
        "export": Export(),
    }[name]
    with pytest.raises(ExtraLacking, match="it comes with the extra 'optimize'"):
        numerics_of(step)


def test_what_a_step_keeps_outlives_it_until_its_directory_is_whole(model, texts, tmp_path):
    found = []

    def training(step, source, into, tell):
        kept = kept_beside(into)
        found.append(kept.exists())
        kept.mkdir(exist_ok=True)
        if len(found) < 3:
            raise StepFailed("on purpose")
        return copied(step, source, into, tell)

    step = Distill(calibration=texts)
    for _ in range(2):
        with pytest.raises(StepFailed):
            take(step, model, tmp_path / "made", nobody, numerics=training)
    take(step, model, tmp_path / "made", nobody, numerics=training)
    assert found == [False, True, True]
    assert sorted(each.name for each in tmp_path.iterdir() if "made" in each.name) == [".made.lock", "made"]


def test_room_for_checkpoints_is_looked_for_before_anything_is_loaded(model, texts, tmp_path, monkeypatch):
    """Of a model of eight numbers, 28 bytes for each, and 4 where none is kept."""
    room = 50_000_000 + 28 * 8
    for free, every, enough in ((room, 50, True), (room - 1, 50, False), (room - 1, 500, True)):
        monkeypatch.setattr(making, "free_disk", lambda _, free=free: free)
        step = Distill(calibration=texts, steps=200, checkpoint_every=every)
        with contextlib.nullcontext() if enough else pytest.raises(UnusableTarget, match="needs about 50 MB"):
            take(step, model, tmp_path / f"made-{free}-{every}", nobody, numerics=copied)


def test_how_often_is_kept_is_no_part_of_what_is_made(model, texts):
    often, seldom = (Distill(calibration=texts, checkpoint_every=every) for every in (1, 100))
    assert stamp_for(often, open_model(model)) == stamp_for(seldom, open_model(model))
    assert told(often) == told(seldom)
    assert Distill(calibration=texts, checkpoint_every=0).mistakes() == [
        "checkpoint_every: more than 0, and finite"
    ]
