"""Questions are answered as the model would answer them, whichever runtime it has."""

from __future__ import annotations

import json
import math

import pytest
import torch

from penstock.optimize.faults import StepFailed, TooMuchLost
from penstock.optimize.gate import Gate
from penstock.optimize.measure import measure
from penstock.optimize.model_directory import Runtime, open_model
from penstock.optimize.numerics.loading import load_model, load_tokenizer
from penstock.optimize.progress import nobody
from penstock.optimize.steps import Export, Prune, Pruning, take

LIGHT = {"windows": 2, "length": 64, "prompt": 16, "generated": 4, "repeats": 1, "batches": (1,)}


@pytest.fixture(scope="session")
def said(model, text):
    """Prompts, and what the model goes on with by itself, found by transformers' own generation."""
    whole, tokenizer = load_model(open_model(model)), load_tokenizer(model)
    words = text.read_text().split(" ")
    prompts = [" ".join(words[at : at + 12]) for at in range(0, 12 * 12, 12)]
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = whole.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        found.append((prompt, tokenizer.decode(out[0, ids.shape[1] :])))
    return found


@pytest.fixture(scope="module")
def answers_of_the_model(model, text):
    """What it makes of a file of questions; of the same ones it is asked once."""
    known = {}

    def ask(path):
        asked = path.read_bytes()
        if asked not in known:
            known[asked] = measure(model, text, nobody, questions=path, **LIGHT).accuracy
        return known[asked]

    return ask


def written(path, questions):
    path.write_text("".join(json.dumps(each) + "\n" for each in questions))
    return path


def test_what_the_model_would_say_is_right_and_what_it_would_not_is_wrong(model, text, said, tmp_path):
    tokenizer = load_tokenizer(model)
    # A text that is cut into other tokens beside its prompt than those that were generated is no answer of it.
    kept = [
        (prompt, answer)
        for prompt, answer in said
        if tokenizer.decode(tokenizer(prompt + answer)["input_ids"]) == prompt + answer and answer.strip()
    ]
    questions = [{"prompt": prompt, "answer": answer} for prompt, answer in kept]
    questions += [{"prompt": prompt, "answer": answer[:-1] + "\u2603"} for prompt, answer in kept]
    path = written(tmp_path / "q.jsonl", questions)
    marks = measure(model, text, nobody, questions=path, **LIGHT).accuracy.marks
    assert len(kept) > 5
    assert marks[len(kept) :] == "0" * len(kept)
    assert marks[: len(kept)].count("1") > 0.7 * len(kept)


def test_of_choices_the_likeliest_byte_by_byte_is_taken(model, text, tmp_path):
    """By transformers' own loss."""
    whole, tokenizer = load_model(open_model(model)), load_tokenizer(model)
    asked = [("The with statement is", [" used", " a statement that is defined", " used to wrap"])]
    asked += [("An expression list containing", [" xyzzy", " at least one comma", " the"])]
    asked += [("if a", [" class", " zebra crossing", " module"])]

    def likely(prompt, choice):
        before, ids = (tokenizer(each)["input_ids"] for each in (prompt, prompt + choice))
        labels = torch.tensor([[-100] * len(before) + ids[len(before) :]])
        with torch.no_grad():
            loss = whole(input_ids=torch.tensor([ids]), labels=labels).loss.item()
        return -loss * (len(ids) - len(before)) / len(choice)

    best = []
    for prompt, choices in asked:
        scores = [likely(prompt, choice) for choice in choices]
        best.append(scores.index(max(scores)))
    questions = [
        {"prompt": prompt, "choices": choices, "answer": (right + off) % 3}
        for off in (0, 1)
        for (prompt, choices), right in zip(asked, best, strict=True)
    ]
    path = written(tmp_path / "q.jsonl", questions)
    assert measure(model, text, nobody, questions=path, **LIGHT).accuracy.marks == "111000"


@pytest.mark.parametrize("runtime", [Runtime.ONNX, Runtime.OPENVINO])
def test_another_runtime_answers_alike(runtime, model, text, said, answers_of_the_model, tmp_path):
    questions = [{"prompt": prompt, "answer": answer} for prompt, answer in said if answer.strip()]
    questions += [
        {"messages": [{"role": "user", "content": prompt}], "choices": ["yes", "no"], "answer": 0}
        for prompt, _ in said
    ]
    path = written(tmp_path / "q.jsonl", questions)
    take(Export(runtime=runtime), model, tmp_path / "made", nobody)
    one = answers_of_the_model(path)
    other = measure(tmp_path / "made", text, nobody, questions=path, **LIGHT).accuracy
    assert one == other
    assert 0 < one.right < len(questions)


def test_a_question_longer_than_the_model_reads_is_named_by_its_line(model, text, tmp_path):
    path = written(
        tmp_path / "q.jsonl", [{"prompt": "a", "answer": "b"}, {"prompt": "x y " * 600, "answer": "b"}]
    )
    with pytest.raises(StepFailed, match=r"the question in line 2 has \d+ tokens .* the model reads 512"):
        measure(model, text, nobody, questions=path, **LIGHT)


def test_a_variant_that_forgot_answers_is_not_kept(model, text, said, tmp_path):
    path = written(
        tmp_path / "q.jsonl",
        [{"prompt": prompt, "answer": answer} for prompt, answer in said if answer.strip()],
    )
    seen = {}
    before = measure(model, text, nobody, questions=path, **LIGHT)

    def judge(into, notes):
        after = measure(into, text, nobody, questions=path, **LIGHT)
        seen.update(before=before.accuracy.right, after=after.accuracy.right)
        Gate(max_drop=0.05).require(after, before)

    step = Prune(method=Pruning.MAGNITUDE, share=0.9)
    with pytest.raises(TooMuchLost, match="questions rightly"):
        take(step, model, tmp_path / "made", nobody, judge=judge)
    assert seen["after"] < seen["before"]
    assert not (tmp_path / "made").exists()
    take(Prune(method=Pruning.MAGNITUDE, share=0.01), model, tmp_path / "made", nobody, judge=judge)
    assert math.isclose(seen["after"], seen["before"], abs_tol=1)
    assert (tmp_path / "made" / "penstock.json").exists()
