"""A model repository for Triton."""

from __future__ import annotations

import ast

import pytest

from penstock.errors import ConfigError
from penstock.optimize.faults import UnusableModel, UnusableTarget
from penstock.optimize.triton_repository import TUNED, Batching, configuration, write_repository


def test_each_model_has_its_configuration_its_code_and_its_files(model, tmp_path):
    write_repository({"chat": model, "other": model}, tmp_path / "repository", Batching())
    for name in ("chat", "other"):
        folder = tmp_path / "repository" / name
        assert f'name: "{name}"' in (folder / "config.pbtxt").read_text()
        assert (folder / "1" / "model" / "model.safetensors").read_bytes() == (
            model / "model.safetensors"
        ).read_bytes()
        names = {
            each.name
            for each in ast.parse((folder / "1" / "model.py").read_text()).body
            if isinstance(each, ast.ClassDef)
        }
        assert "TritonPythonModel" in names


def test_the_code_needs_nothing_of_penstock(model, tmp_path):
    write_repository({"chat": model}, tmp_path / "repository", Batching())
    code = (tmp_path / "repository" / "chat" / "1" / "model.py").read_text()
    imported = {
        each.split(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for each in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
    }
    assert "penstock" not in imported


def test_the_default_is_for_throughput_and_the_tuned_one_hardly_waits():
    text = configuration("chat", "onnx", Batching(), decoupled=True)
    assert "max_batch_size: 32" in text
    assert "max_queue_delay_microseconds: 100000" in text
    assert "decoupled: true" in text
    assert 'string_value: "onnx"' in text
    tuned = configuration("chat", "onnx", TUNED, decoupled=False)
    assert "max_queue_delay_microseconds: 2000" in tuned
    assert "preferred_batch_size: [ 8, 16, 32 ]" in tuned
    assert "decoupled: false" in tuned


def test_priorities_and_a_bounded_line_are_written():
    text = configuration("chat", "onnx", Batching(priority_levels=3, max_queue_size=50), decoupled=True)
    assert "priority_levels: 3" in text
    assert "default_priority_level: 3" in text
    assert "max_queue_size: 50" in text
    # Only where there is a default does a call's own time count.
    assert "default_timeout_microseconds: 600000000" in text


def test_what_triton_would_not_take_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="cannot be the name of a model"):
        write_repository({"a/b": model}, tmp_path / "repository", Batching())
    with pytest.raises(UnusableModel):
        write_repository({"a": tmp_path / "none"}, tmp_path / "repository", Batching())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(UnusableTarget, match="is there already"):
        write_repository({"a": model}, tmp_path / "mine", Batching())
