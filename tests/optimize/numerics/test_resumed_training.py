"""Training that is killed goes on where it last stood, and comes to the same weights as if it had not been."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from penstock.optimize import making
from penstock.optimize.faults import StepFailed
from penstock.optimize.numerics import checkpoint, distill
from penstock.optimize.steps import Distill, take

STEPS = 12
OPTIONS = {"steps": STEPS, "batch": 4, "length": 32, "checkpoint_every": 4}


@pytest.fixture(scope="module")
def student(model, tmp_path_factory):
    """With zeros, which must stay zeros, also in what is gone on with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("students") / "student"
    weak = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in weak.model.layers:
            layer.mlp.up_proj.weight.mul_(torch.rand_like(layer.mlp.up_proj.weight) > 0.5)
    weak.config.attention_dropout = 0.1  # so that the model draws by lot as well
    weak.save_pretrained(path)
    AutoTokenizer.from_pretrained(model).save_pretrained(path)
    return path


def killed(student, target, when, options):
    """Which steps were told of before the process was killed, in a step, in a checkpoint, or in the model."""
    read, write = os.pipe()
    child = os.fork()  # which costs less than to load the libraries anew
    if child == 0:
        try:
            _run_to_death(student, target, when, options, write)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as file:
        told = [int(line) for line in file]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not target.exists()
    return told


def _run_to_death(student, target, when, options, write):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(doing, done, total):
        if doing.startswith("distilling"):
            os.write(write, f"{done}\n".encode())
            if done == when:
                die()

    if when == "in a checkpoint":
        checkpoint.sync_one = die
    elif when == "in the model":
        distill.save = lambda model, tokenizer, into: (model.save_pretrained(into), die())
    take(Distill(**options), student, target, tell)


def followed(student, target, options):
    """The steps that are told of, to the end."""
    told = []
    notes = take(Distill(**options), student, target, lambda doing, done, _: told.append((doing, done)))
    return notes, [done for doing, done in told if doing.startswith("distilling")]


def same(one, other):
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_killed_again_and_again_it_comes_to_the_same_weights(student, model, text, tmp_path):
    torch.set_num_threads(1)
    options = {**OPTIONS, "teacher": model, "calibration": text}
    notes, steps = followed(student, tmp_path / "whole", options)
    assert steps == list(range(1, STEPS + 1))
    target = tmp_path / "broken"
    assert killed(student, target, 3, options) == [1, 2, 3]
    assert killed(student, target, 6, options) == [1, 2, 3, 4, 5, 6]  # nothing was kept before
    assert killed(student, target, "in a checkpoint", options) == [4, 5, 6, 7]
    assert killed(student, target, 9, options) == [4, 5, 6, 7, 8, 9]
    assert killed(student, target, "in the model", options) == [8, 9, 10, 11, 12]
    again, steps = followed(student, target, options)
    assert steps == [8, 9, 10, 11, 12]
    assert same(tmp_path / "whole", target)
    assert again == notes
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".broken.lock",
        ".whole.lock",
        "broken",
        "whole",
    ]


def test_what_was_kept_for_another_training_is_not_gone_on_with(student, model, text, tmp_path):
    options = {**OPTIONS, "teacher": model, "calibration": text}
    killed(student, tmp_path / "made", 6, options)
    _, steps = followed(student, tmp_path / "made", {**options, "learning_rate": 1e-4})
    assert steps[0] == 1
    assert not (tmp_path / ".made.kept").exists()


def test_how_often_is_kept_is_no_part_of_what_is_made(student, model, text, tmp_path):
    options = {**OPTIONS, "teacher": model, "calibration": text}
    killed(student, tmp_path / "made", 6, options)
    _, steps = followed(student, tmp_path / "made", {**options, "checkpoint_every": 100})
    assert steps[0] == 4


def test_a_full_disk_ends_it_with_what_was_kept_before(student, model, text, tmp_path, monkeypatch):
    options = {**OPTIONS, "teacher": model, "calibration": text}
    kept = []

    def filling(tensors, path, metadata):
        if kept:
            Path(path).write_bytes(b"half")
            monkeypatch.setattr(making, "free_disk", lambda _: 1_000)
            raise checkpoint.SafetensorError("I/O error: No space left on device (os error 28)")
        kept.append(path)
        save(tensors, path, metadata)

    save = checkpoint.save_file
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", filling)
        with pytest.raises(
            StepFailed, match=r"is full.*make room, and start again; it goes on from where it last"
        ):
            followed(student, tmp_path / "made", options)
    monkeypatch.undo()
    assert [each.name for each in (tmp_path / ".made.kept").iterdir()] == ["training.safetensors"]
    assert not (tmp_path / "made").exists()
    _, steps = followed(student, tmp_path / "made", options)
    assert steps[0] == 4


def test_what_diverged_is_not_gone_on_with(student, model, text, tmp_path):
    options = {**OPTIONS, "teacher": model, "calibration": text, "learning_rate": 1e12, "checkpoint_every": 1}
    with pytest.raises(StepFailed, match="diverged"):
        followed(student, tmp_path / "made", options)
    assert not (tmp_path / ".made.kept").exists()


def test_a_damaged_checkpoint_is_none(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    checkpoint.keep(tmp_path, "this", tensors, {"losses": [0.1]})
    found = checkpoint.kept(tmp_path, "this")
    assert found.told == {"losses": [0.1]}
    assert torch.equal(found.tensors["a"], tensors["a"])
    assert checkpoint.kept(tmp_path, "another") is None
    file = tmp_path / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert checkpoint.kept(tmp_path, "this") is None
    shutil.rmtree(tmp_path)
    assert checkpoint.kept(tmp_path, "this") is None


@pytest.mark.slow  # TRL takes seconds to load, each time
def test_one_that_learns_by_its_own_words_comes_to_the_same_as_well(student, model, text, tmp_path):
    torch.set_num_threads(1)
    options = {**OPTIONS, "teacher": model, "calibration": text, "on_policy": True}
    notes, steps = followed(student, tmp_path / "whole", options)
    assert steps == list(range(1, STEPS + 1))
    target = tmp_path / "broken"
    assert killed(student, target, 3, options) == [1, 2, 3]
    assert killed(student, target, 6, options) == [1, 2, 3, 4, 5, 6]
    half = tmp_path / ".broken.kept" / "checkpoint-8"  # of which the mark is missing
    shutil.copytree(tmp_path / ".broken.kept" / "checkpoint-4", half)
    (half / "penstock.whole").unlink()
    again, steps = followed(student, target, options)
    assert steps == list(range(5, STEPS + 1))
    assert again == notes
    assert same(tmp_path / "whole", target)
    assert not (tmp_path / ".broken.kept").exists()
