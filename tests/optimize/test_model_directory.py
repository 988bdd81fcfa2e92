"""What is no model is refused before anything is loaded, with the file and what to do."""

from __future__ import annotations

import json
import pickle

import pytest
from model_files import safetensors, write_model

from penstock.optimize import model_directory
from penstock.optimize.faults import UnusableModel
from penstock.optimize.model_directory import Runtime, open_model


def refusal(path):
    with pytest.raises(UnusableModel) as raised:
        open_model(path)
    return raised.value.message


def test_a_directory_tells_what_is_in_it(model):
    found = open_model(model)
    assert found.runtime is Runtime.TRANSFORMERS
    assert found.parameters == 8
    assert found.weight_bytes == (model / "model.safetensors").stat().st_size
    assert repr(found) == f"<ModelDirectory {model} transformers {found.weight_bytes} bytes>"


def test_weights_in_several_files_are_found_by_their_index(model):
    (model / "model.safetensors").rename(model / "a.safetensors")
    (model / "b.safetensors").write_bytes(safetensors({"v": ("F32", [2], bytes(8))}))
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open_model(model).parameters == 10
    (model / "b.safetensors").unlink()
    assert refusal(model).startswith(f"{model / 'b.safetensors'}, which model.safetensors.index.json names")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "sub/a.safetensors"])
def test_an_index_that_leads_out_of_the_directory_is_refused(model, name):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    (model.parent / "outside.safetensors").write_bytes(safetensors({}))
    assert "is missing" in refusal(model)


@pytest.mark.parametrize(
    "told", [{}, [], {"weight_map": {}}, {"weight_map": {"w": 5}}, {"weight_map": ["w"]}]
)
def test_an_index_that_names_no_files_is_refused(model, told):
    (model / "model.safetensors.index.json").write_text(json.dumps(told))
    assert str(model / "model.safetensors.index.json") in refusal(model)
    assert "fetch or copy it again" in refusal(model)


def test_an_index_of_pickled_weights_is_refused_as_such(model):
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"w": "pytorch_model.bin"}}')
    assert refusal(model).startswith(f"{model / 'pytorch_model.bin'} holds pickled weights")


def test_an_index_names_only_what_its_files_hold(model):
    (model / "model.safetensors").rename(model / "a.safetensors")
    index = {"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(model).startswith(f"{model / 'a.safetensors'} lacks the tensor 'v'")


def test_what_is_not_there_is_said(tmp_path):
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'} does not exist"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == f"{tmp_path / 'file'} is no directory"
    assert "it has no config.json" in refusal(tmp_path)


def test_a_directory_without_weights_is_refused(model):
    (model / "model.safetensors").unlink()
    assert refusal(model).startswith(f"{model} has no weights")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "weights.ckpt"])
def test_pickled_weights_are_refused_and_not_opened(model, name):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise AssertionError('unpickled')",))

    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb()))
    assert "never loaded" in refusal(model)
    assert str(model / name) in refusal(model)


@pytest.mark.parametrize("length", range(0, 150, 7))
def test_truncated_weights_are_refused_wherever_they_end(model, length):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    assert len(whole) > 150
    path.write_bytes(whole[:length])
    message = refusal(model)
    assert str(path) in message
    assert "truncated" in message


def test_one_byte_less_or_more_is_seen(model):
    path = model / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "is truncated: 31 bytes of weights of 32" in refusal(model)
    path.write_bytes(whole + b"x")
    assert "is damaged: 1 bytes behind its last tensor" in refusal(model)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff" * 10,
        b'{"w": 1}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(model, header):
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "header makes no sense" in refusal(model)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"w": ("F32", [2, 200_000], [0, 16])}, "w"),
        ({"w": ("F32", [4], [0, 8]), "v": ("F32", [2], [8, 16])}, "w"),
        ({"w": ("F4", [4], [0, 16])}, "w"),
        ({"w": ("F32", [2], [0, 8]), "v": ("F32", [2], [0, 8])}, "v"),  # both in one place
        ({"w": ("F32", [1], [0, 4]), "v": ("F32", [2], [8, 16])}, "v"),  # nobody's bytes between them
    ],
)
def test_tensors_that_are_not_where_and_as_long_as_they_say_are_refused(model, tensors, named):
    """The library would refuse the file as well, without its name."""
    told = {
        name: dict(zip(("dtype", "shape", "data_offsets"), each, strict=True))
        for name, each in tensors.items()
    }
    header = json.dumps(told).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(max(each[2][1] for each in tensors.values()))
    (model / "model.safetensors").write_bytes(content)
    assert refusal(model).startswith(f"{model / 'model.safetensors'} is damaged: its tensor '{named}' is not")


def test_a_type_of_numbers_that_only_the_library_knows_is_left_to_it(model):
    (model / "model.safetensors").write_bytes(safetensors({"w": ("F6_E9M9", [2], bytes(16))}))
    assert open_model(model).parameters == 2


def test_a_file_without_tensors_is_refused(model):
    (model / "model.safetensors").write_bytes(safetensors({}))
    assert "holds no tensors" in refusal(model)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_configuration_that_makes_no_sense_is_refused(model, text):
    (model / "config.json").write_text(text)
    assert refusal(model).startswith(f"{model / 'config.json'} makes no sense")


@pytest.mark.parametrize("named", [["BertForMaskedLM"], [], None, "Llama", [7]])
def test_an_architecture_that_does_not_generate_text_is_refused(model, named):
    write_model(model, config={"architectures": named})
    assert "only models that generate text" in refusal(model)


def test_architectures_are_a_list(model):
    write_model(model, config={"architectures": "LlamaForCausalLM"})
    assert "in a list" in refusal(model)


def test_code_of_the_models_own_is_never_run(model):
    write_model(model, config={"auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    assert "code of its own" in refusal(model)


def test_a_model_larger_than_memory_is_refused_before_it_is_loaded(model, monkeypatch):
    found = open_model(model)
    monkeypatch.setattr(model_directory, "available_memory", lambda: 310)
    found.require_memory(9.0, "this")
    with pytest.raises(UnusableModel, match=r"too large for this machine: this needs about 320 bytes"):
        found.require_memory(10.0, "this")
    monkeypatch.setattr(model_directory, "available_memory", lambda: None)
    found.require_memory(1e9, "this")


def test_an_exported_model_is_known_by_its_graph(tmp_path):
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    assert "model.onnx is missing" in refusal(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"1234")
    (tmp_path / "model.onnx.data").write_bytes(b"12345678")
    found = open_model(tmp_path)
    assert (found.runtime, found.weight_bytes) == (Runtime.ONNX, 12)
    (tmp_path / "genai_config.json").write_text("{}")
    assert "names no graph" in refusal(tmp_path)
