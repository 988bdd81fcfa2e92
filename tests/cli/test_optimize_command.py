"""``penstock optimize``, as far as it goes without the libraries of its extra."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from penstock.cli import optimize
from penstock.optimize import steps
from penstock.optimize.accuracy import Accuracy
from penstock.optimize.figures import Figures, Speed
from penstock.transcripts.files import Files
from penstock.transcripts.transcript import Message, Transcript, line_of


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("to be, or not to be")
    return path


def test_what_is_no_model_is_refused_in_one_line(penstock, model, tmp_path):
    (model / "model.safetensors").unlink()
    status, out, err = penstock("optimize", "quantize", model, tmp_path / "made", "--to", "int8")
    assert (status, out) == (1, "")
    assert err.startswith(f"penstock: {model} has no weights")
    assert err.count("\n") == 1


def test_options_that_contradict_each_other_are_named_each_in_a_line(penstock, model, tmp_path):
    status, _, err = penstock(
        "optimize",
        "quantize",
        model,
        tmp_path / "made",
        "--to",
        "bf16",
        "--method",
        "gptq",
        "--group-size",
        7,
    )
    assert status == 1
    assert err.splitlines() == [
        "quantize: group_size: one of 16, 32, 64, 128 and 256",
        "quantize: method: gptq rounds to whole numbers, not to bf16",
        "quantize: calibration: gptq needs texts",
        "penstock: quantize cannot be done as it is asked for",
    ]


def test_a_text_that_is_not_there_is_refused_before_the_step_begins(penstock, model, tmp_path):
    status, _, err = penstock("optimize", "export", model, tmp_path / "made", "--text", tmp_path / "none.txt")
    assert status == 1
    assert err == f"penstock: {tmp_path / 'none.txt'} cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "--to", "int4"),
        ("prune", "--method", "magnitude"),
        ("export",),
        ("shrink", "--calibration", "{texts}"),
        ("distill", "--teacher", "{model}", "--calibration", "{texts}"),
        ("profile", "--text", "{texts}"),
    ],
    ids=lambda words: words[0],
)
def test_without_the_extra_it_is_named(penstock, model, texts, tmp_path, monkeypatch, words):
    for library in ("torch", "onnxruntime_genai"):
        monkeypatch.setitem(sys.modules, library, None)
    for module in [each for each in sys.modules if each.startswith("penstock.optimize.numerics")]:
        monkeypatch.delitem(sys.modules, module)
    name, *options = (word.format(model=model, texts=texts) for word in words)
    status, _, err = penstock("optimize", name, model, tmp_path / "made", *options)
    assert status == 1
    assert "it comes with the extra 'optimize', see docs/optimize.md" in err
    assert not (tmp_path / "made").exists()


def test_a_recipe_with_mistakes_is_refused(penstock, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\ntext: t\nsteps: [{shrink: {}}]")
    status, _, err = penstock("optimize", "recipe", path)
    assert status == 1
    assert "steps[0].shrink.calibration: the layers to leave out are found with texts" in err


def test_it_is_loaded_without_any_library_of_the_extra():
    code = (
        "import sys, penstock.cli.optimize\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'onnxruntime', 'penstock.gateway') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_a_repository_for_triton_is_written_with_names(penstock, model, tmp_path):
    status, out, err = penstock(
        "triton-repo", f"chat={model}", model, "--into", tmp_path / "made", "--tuned", "--max-batch-size", 8
    )
    assert (status, err) == (0, "")
    assert out == f"{tmp_path / 'made'}: chat, model\n"
    text = (tmp_path / "made" / "chat" / "config.pbtxt").read_text()
    assert "max_batch_size: 8" in text
    assert "preferred_batch_size: [ 8 ]" in text
    status, _, err = penstock("triton-repo", model, model, "--into", tmp_path / "twice")
    assert status == 1
    assert "two models are called model" in err


@pytest.fixture
def light(monkeypatch):
    """Steps that copy, and figures of which those of what was made are worse."""

    def copied(step, source, into, tell):
        for path in source.path.iterdir():
            (into / path.name).write_bytes(path.read_bytes())
        return {"copied": True}

    def measured(model, text, tell, *, questions=None, name="", **_):
        worse = "made" in (name or model.name)
        accuracy = (
            None if questions is None else Accuracy("1" * (7 if worse else 8) + "0" * (3 if worse else 2))
        )
        speeds = (Speed(1, 5.0, 2.0, 0.1),)
        return Figures(
            name or model.name, "transformers", 8, 10.5 if worse else 10.0, 40, speeds, 7, 9, accuracy
        )

    monkeypatch.setattr(steps, "numerics_of", lambda step: copied)
    monkeypatch.setattr(optimize, "measure", measured)


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "2 + 2 =", "answer": " 4"}\n')
    return path


def test_a_report_tells_right_answers_where_there_are_questions(
    penstock, light, model, texts, questions, tmp_path
):
    words = ("optimize", "prune", model, tmp_path / "made", "--method", "magnitude")
    status, out, _ = penstock(*words, "--text", texts, "--questions", questions)
    assert status == 0
    assert "| right answers | drop |" in out
    assert "| 80.0 % (49.0 to 94.3) | +0.0 % " in out
    assert "| 70.0 % (39.7 to 89.2) | +10.0 % (-19.6 to +36.2) |" in out
    told = json.loads((tmp_path / "made" / "report.json").read_text())["stages"]
    assert [stage["figures"]["accuracy"]["marks"] for stage in told] == ["1111111100", "1111111000"]


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        (("--max-loss", 0.06, "--max-drop", 0.1), True),
        (("--max-loss", 0.04), False),
        (("--max-drop", 0.09), False),
        (("--max-loss", 0.06, "--max-drop", 0.0), False),
    ],
)
def test_what_loses_more_than_it_may_is_not_kept(
    penstock, light, model, texts, questions, tmp_path, bounds, kept
):
    words = ("optimize", "prune", model, tmp_path / "made", "--method", "magnitude")
    status, out, err = penstock(*words, "--text", texts, "--questions", questions, *bounds)
    assert status == (0 if kept else 1)
    assert ("| prune |" in out) == kept
    assert ("made" in err and "not good enough" in err) != kept
    assert (tmp_path / "made" / "report.md").exists() == kept
    assert [each.name for each in tmp_path.iterdir() if "unfinished" in each.name] == []
    status, out, _ = penstock(
        "optimize", "evaluate", model, tmp_path / "made" if kept else model, "--text", texts
    )
    assert status == 0


def test_evaluate_ends_with_status_1_where_more_is_lost(penstock, light, model, texts, questions, tmp_path):
    shutil.copytree(model, tmp_path / "made")
    words = ("optimize", "evaluate", model, tmp_path / "made", "--text", texts, "--questions", questions)
    assert penstock(*words, "--max-loss", 0.1, "--max-drop", 0.1)[0] == 0
    for bound in (("--max-loss", 0.01), ("--max-drop", 0.01)):
        status, out, err = penstock(*words, *bound)
        assert status == 1
        assert "| made |" in out
        assert "it is not good enough" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--questions", "{questions}"), "text: a report is of a text, too"),
        (("--max-loss", "0.1"), "text: a report is of a text, too"),
        (("--text", "{texts}", "--max-drop", "0.1"), "max_drop: right answers are counted of questions"),
        (("--text", "{texts}", "--questions", "{texts}"), "line 1: "),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_step_begins(
    penstock, light, model, texts, questions, tmp_path, options, said
):
    words = [word.format(texts=texts, questions=questions) for word in options]
    status, _, err = penstock("optimize", "prune", model, tmp_path / "made", "--method", "magnitude", *words)
    assert (status, said in err) == (1, True)
    assert not (tmp_path / "made").exists()


def test_a_data_set_is_made_of_transcripts(penstock, tmp_path):
    pytest.importorskip("numpy")
    kept = Files(tmp_path / "kept", kept_for=1e9, max_bytes=1 << 30, file_bytes=1 << 20)
    for number in range(40):
        said = (
            Message("user", f"what is {number**5}?"),
            Message("assistant", f"{number} to the {number + 5}th"),
        )
        kept.append("acme", line_of(Transcript("gen_1", 1.0, "acme", "m", "up", "large", said)), 1.8e9)
    kept.close()
    status, out, _ = penstock(
        "optimize", "dataset", tmp_path / "kept", tmp_path / "set", "--tenant", "acme", "--held-back", 0.2
    )
    assert status == 0
    assert "| read | 40 |" in out
    assert "**Not found**" in out
    status, _, err = penstock(
        "optimize", "dataset", tmp_path / "kept", tmp_path / "other", "--tenant", "acme", "--model", "x"
    )
    assert status == 1
    assert "of 40 that were read (40 of others than asked for)" in err
