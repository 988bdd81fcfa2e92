"""What runs models behind Triton, without Triton: calls that are run together get what each would get alone."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import types

import pytest

from penstock.optimize.model_directory import Runtime
from penstock.optimize.progress import nobody
from penstock.optimize.steps import Export, take

PROMPTS = ["The", "The with statement is used to wrap", "def", "An expression list containing", "if a"]


@pytest.fixture
def code(monkeypatch):
    """The module, of which only ``execute`` needs the real utilities."""
    utilities = types.ModuleType("triton_python_backend_utils")
    utilities.using_decoupled_model_transaction_policy = lambda _: False
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)
    monkeypatch.delitem(sys.modules, "penstock.optimize._triton_model", raising=False)
    return importlib.import_module("penstock.optimize._triton_model")


@pytest.fixture(params=list(Runtime))
def served(request, code, model, tmp_path):
    """The little model, as Triton would load it."""
    version = tmp_path / "chat" / "1"
    version.mkdir(parents=True)
    if request.param is Runtime.ONNX:
        take(Export(), model, version / "model", nobody)
    else:
        shutil.copytree(model, version / "model")
    found = code.TritonPythonModel()
    config = {"parameters": {"runtime": {"string_value": str(request.param)}}}
    found.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(tmp_path / "chat"),
            "model_version": "1",
        }
    )
    return found


def generated(served, prompts, lengths):
    rows = [served._row(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    told = {id(row): [] for row in rows}
    served._generate(rows, lambda row, piece: told[id(row)].append(piece))
    for row in rows:
        assert "".join(told[id(row)]) == "".join(row.pieces)
    return [("".join(row.pieces), row.made, row.finish) for row in rows]


def test_calls_that_are_run_together_get_what_each_would_get_alone(served):
    lengths = [12, 3, 9, 1, 7]
    together = generated(served, PROMPTS, lengths)
    alone = [
        generated(served, [prompt], [length])[0] for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    assert together == alone
    for (text, made, finish), length in zip(together, lengths, strict=True):
        assert made <= length
        assert finish == ("length" if made == length else "stop")
        assert text or finish == "stop"


def test_an_empty_prompt_is_answered_as_well(served):
    ((_, made, _),) = generated(served, [""], [4])
    assert 1 <= made <= 4
