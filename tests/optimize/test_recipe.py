"""Recipes: read with all their mistakes, followed, and resumed where they were broken off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from model_files import write_model

from penstock.errors import ConfigError
from penstock.optimize import steps
from penstock.optimize.accuracy import Accuracy
from penstock.optimize.faults import (
    StepFailed,
    TooMuchLost,
    UnusableModel,
    UnusableTarget,
    UnusableText,
)
from penstock.optimize.figures import Figures, Speed
from penstock.optimize.progress import nobody
from penstock.optimize.recipe import follow, read_recipe
from penstock.optimize.steps import Distill, Form, Pruning, Quantize

GOOD = """
model: model
text: texts.txt
calibration: texts.txt
output: out
steps:
  - prune: {method: depth, share: 0.5}
  - distill: {steps: 10}
  - quantize: {to: int4, runtime: onnx}
"""


@pytest.fixture
def written(tmp_path, model, texts):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_a_recipe_is_read_with_paths_relative_to_it(written, model, texts, tmp_path):
    recipe = read_recipe(written(GOOD))
    prune, distill, quantize = recipe.steps
    assert (recipe.model, recipe.text, recipe.output) == (model, texts, tmp_path / "out")
    assert (prune.method, prune.share, prune.calibration) == (Pruning.DEPTH, 0.5, texts)
    assert isinstance(distill, Distill)
    assert (distill.teacher, distill.steps, distill.calibration) == (model, 10, texts)
    assert quantize == Quantize(to=Form.INT4, runtime="onnx", calibration=texts)


@pytest.mark.parametrize(
    ("changed", "mistakes"),
    [
        (
            ("prune:", "prun:"),
            ["steps[0]: one of quantize, prune, distill, shrink, export, with its options"],
        ),
        (("share: 0.5", "shar: 0.5"), ["steps[0].prune: Object contains unknown field `shar`"]),
        (("share: 0.5", "share: half"), ["steps[0].prune: Expected `float`, got `str` - at `$.share`"]),
        (("share: 0.5", "share: 2"), ["steps[0].prune.share: between 0 and 1"]),
        (("{to: int4, runtime: onnx}", ""), ["steps[2].quantize: Object missing required field `to`"]),
        (("{steps: 10}", "[]"), ["steps[1].distill: its options must be a mapping"]),
        (("to: int4", "to: int5"), ["steps[2].quantize: Invalid enum value 'int5' - at `$.to`"]),
        (
            ("  - quantize", "  - export: {}\n  - quantize"),
            ["steps[3]: nothing can follow a step for runtime onnx"],
        ),
    ],
)
def test_every_mistake_is_told_with_its_place(written, changed, mistakes):
    path = written(GOOD.replace(*changed))
    with pytest.raises(ConfigError) as raised:
        read_recipe(path)
    assert list(raised.value.mistakes) == [f"{path}: {each}" for each in mistakes]


def test_the_example_is_right_and_its_report_is_of_it():
    example = Path(__file__).parents[2] / "examples" / "optimize"
    recipe = read_recipe(example / "recipe.yaml")
    told = json.loads((example / "report.json").read_text())["stages"]
    assert [stage["name"] for stage in told] == [
        "original",
        *(f"{number}-{step.name}" for number, step in enumerate(recipe.steps, 1)),
    ]
    for stage, step in zip(told[1:], recipe.steps, strict=True):
        assert stage["options"] == json.loads(json.dumps(steps.told(step)))


@pytest.mark.parametrize("text", ["", "steps: []", "[1, 2]", "a: [", "\x00", "model: m\ntext: t\nsteps: [7]"])
def test_what_is_no_recipe_is_refused_by_name(written, text):
    path = written(text)
    with pytest.raises(ConfigError, match=str(path)):
        read_recipe(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(path.with_name("none.yaml"))


def test_a_recipe_without_steps_is_refused(written):
    with pytest.raises(ConfigError) as raised:
        read_recipe(written("model: model\ntext: texts.txt\nsteps: []\n"))
    assert raised.value.mistakes[0].endswith("steps: there are none")


class Bench:
    """Light steps, which copy the model and change its bytes, and say what they did."""

    def __init__(self):
        self.made, self.measured = [], []
        self.perplexity, self.right = {}, {}  # by name, where they are others
        self.fail_at = ""

    def __call__(self, step, source, into, tell):
        if step.name == self.fail_at:
            (into / "half").touch()
            raise StepFailed("on purpose")
        self.made.append(step.name)
        shutil.copytree(source.path, into, dirs_exist_ok=True)
        path = into / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + bytes([len(step.name)]))
        return {"by": step.name}

    def measure(self, model, text, tell, *, questions, name):
        self.measured.append(name)
        right = self.right.get(name, 10)
        accuracy = None if questions is None else Accuracy("1" * right + "0" * (20 - right))
        speeds = (Speed(1, 5.0, 2.0, 0.1),)
        return Figures(name, "transformers", 100, self.perplexity.get(name, 10.0), 40, speeds, 7, 9, accuracy)

    def follow(self, recipe):
        light = dict.fromkeys(("prune", "distill", "quantize"), self)
        return follow(recipe, nobody, measure=self.measure, numerics=light)


@pytest.fixture
def bench():
    return Bench()


def test_steps_follow_each_other_and_a_report_is_written(written, bench, tmp_path):
    report = bench.follow(read_recipe(written(GOOD)))
    assert bench.made == ["prune", "distill", "quantize"]
    names = ["model", "1-prune", "2-distill", "3-quantize"]
    assert bench.measured == names
    assert [stage.figures.name for stage in report.stages] == names
    assert report.stages[2].notes == {"by": "distill"}
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [stage["name"] for stage in told["stages"]] == ["original", *names[1:]]
    assert (tmp_path / "out" / "report.md").exists()
    assert (tmp_path / "out" / "report.svg").exists()


def test_what_is_done_is_not_done_again(written, bench):
    recipe = read_recipe(written(GOOD))
    first = bench.follow(recipe)
    bench.made.clear()
    bench.measured.clear()
    assert bench.follow(recipe) == first
    assert (bench.made, bench.measured) == ([], [])


def test_after_a_failure_it_goes_on_with_the_step_that_was_not_finished(written, bench, tmp_path):
    recipe = read_recipe(written(GOOD))
    bench.fail_at = "distill"
    with pytest.raises(StepFailed):
        bench.follow(recipe)
    assert bench.made == ["prune"]
    assert not (tmp_path / "out" / "2-distill").exists()
    bench.fail_at = ""
    bench.follow(recipe)
    assert bench.made == ["prune", "distill", "quantize"]
    assert bench.measured == ["model", "1-prune", "2-distill", "3-quantize"]


def test_a_changed_step_is_done_again_with_all_that_follow(written, bench):
    bench.follow(read_recipe(written(GOOD)))
    bench.made.clear()
    bench.follow(read_recipe(written(GOOD.replace("to: int4", "to: int8"))))
    assert bench.made == ["quantize"]
    bench.made.clear()
    bench.follow(read_recipe(written(GOOD.replace("share: 0.5", "share: 0.25"))))
    # What this light prune makes does not depend on its share: so those that follow have what they need.
    assert bench.made == ["prune", "quantize"]


def test_another_model_or_another_text_is_noticed(written, bench, model, texts):
    recipe = read_recipe(written(GOOD))
    bench.follow(recipe)
    bench.made.clear()
    write_model(model, content=b"\x05" * 32)
    bench.follow(recipe)
    assert bench.made == ["prune", "distill", "quantize"]
    bench.made.clear()
    texts.write_text("another text")
    bench.follow(recipe)
    assert bench.made == ["prune", "distill"]  # quantize reads no texts, and what it begins with is the same


def test_a_directory_of_somebody_elses_is_not_replaced(written, bench, tmp_path):
    (tmp_path / "out" / "1-prune").mkdir(parents=True)
    (tmp_path / "out" / "1-prune" / "thesis.txt").touch()
    with pytest.raises(UnusableTarget, match="is there already"):
        bench.follow(read_recipe(written(GOOD)))
    assert (tmp_path / "out" / "1-prune" / "thesis.txt").exists()


GATED = GOOD + "questions: questions.jsonl\nmax_loss: 0.1\nmax_drop: 0.05\n"


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "2 + 2 =", "answer": " 4"}\n')
    return path


def test_what_a_recipe_makes_at_last_is_not_kept_where_it_loses_more_than_it_may(
    written, bench, questions, tmp_path
):
    recipe = read_recipe(written(GATED))
    # What is worse on the way may be healed by what comes after it.
    bench.perplexity = {"1-prune": 90.0, "3-quantize": 11.5}
    with pytest.raises(TooMuchLost, match=r"3-quantize loses 15\.0% of model's perplexity"):
        bench.follow(recipe)
    out = tmp_path / "out"
    assert sorted(each.name for each in out.iterdir() if each.is_dir()) == ["1-prune", "2-distill", "figures"]
    bench.perplexity.clear()
    (out / "figures" / "3-quantize.json").unlink()
    bench.right = {"3-quantize": 8}
    with pytest.raises(TooMuchLost, match="3-quantize answers 8 of 20 questions"):
        bench.follow(recipe)


def test_what_is_good_enough_is_kept_and_measured_once(written, bench, questions, tmp_path):
    recipe = read_recipe(written(GATED))
    report = bench.follow(recipe)
    assert bench.measured == ["model", "1-prune", "2-distill", "3-quantize"]
    assert [stage.figures.accuracy.right for stage in report.stages] == [10] * 4
    assert (tmp_path / "out" / "3-quantize" / "penstock.json").exists()
    bench.measured.clear()
    bench.follow(recipe)
    assert bench.measured == []
    questions.write_text('{"prompt": "3 + 3 =", "answer": " 6"}\n')
    bench.follow(recipe)
    assert len(bench.measured) == 4


def test_bounds_that_became_narrower_count_for_what_is_there(written, bench, questions):
    bench.perplexity = {"3-quantize": 10.9}
    bench.follow(read_recipe(written(GATED)))
    with pytest.raises(TooMuchLost):
        bench.follow(read_recipe(written(GATED.replace("max_loss: 0.1", "max_loss: 0.05"))))


def test_bounds_and_questions_that_make_no_sense_are_refused(written, bench, questions):
    with pytest.raises(ConfigError) as raised:
        read_recipe(written(GOOD + "max_loss: -1\nmax_drop: 0.1\n"))
    assert [each.partition("yaml: ")[2].partition(":")[0] for each in raised.value.mistakes] == [
        "max_loss",
        "max_drop",
    ]
    questions.write_text("")
    with pytest.raises(UnusableText):
        bench.follow(read_recipe(written(GATED)))
    assert bench.made == []


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (("{to: int4, runtime: onnx}", "{to: int4, method: gptq, calibration: none.txt}"), UnusableText),
        (("{steps: 10}", "{steps: 10, calibration: empty.txt}"), UnusableText),
        (("{steps: 10}", "{steps: 10, teacher: none}"), UnusableModel),
    ],
)
def test_what_a_later_step_needs_is_looked_at_before_anything_is_measured(
    changed, error, written, bench, tmp_path
):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(error, match=r"none|empty"):
        bench.follow(read_recipe(written(GOOD.replace(*changed))))
    assert (bench.made, bench.measured) == ([], [])


def test_a_teacher_may_be_what_an_earlier_step_makes(written, bench):
    bench.follow(read_recipe(written(GOOD.replace("{steps: 10}", "{steps: 10, teacher: out/1-prune}"))))
    assert bench.made == ["prune", "distill", "quantize"]


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recipe import Bench
from penstock.optimize.recipe import read_recipe

bench = Bench()
make = bench.__call__
def stopping(step, source, into, tell):
    notes = make(step, source, into, tell)
    if step.name == "distill":
        print("in the middle", flush=True)
        sys.stdin.read()
    return notes
Bench.__call__ = lambda self, *args: stopping(*args)
bench.follow(read_recipe(Path(sys.argv[1])))
"""


def test_after_kill_9_it_goes_on_with_the_step_that_was_not_finished(written, bench, tmp_path):
    path = written(GOOD)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path, Path(__file__).parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"in the middle\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    out = tmp_path / "out"
    assert sorted(each.name for each in out.iterdir() if each.is_dir()) == [
        ".2-distill.unfinished",
        "1-prune",
        "figures",
    ]
    bench.follow(read_recipe(path))
    assert bench.made == ["distill", "quantize"]
    assert bench.measured == ["2-distill", "3-quantize"]
    assert not (out / ".2-distill.unfinished").exists()
