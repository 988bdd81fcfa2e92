"""What is wrong with a model's directory is said before anything is loaded, with file and remedy."""

from __future__ import annotations

import json
import pickle
import struct

import pytest

from penstock.engine import demo
from penstock.engine.memory import available_bytes
from penstock.engine.model_dir import ModelDir, check_memory, in_fp32, inspect
from penstock.errors import ModelUnusable

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
}
CONSTANT = b'<layer id="0" type="Const"><data element_type="f32" shape="4" offset="%d" size="%d" /></layer>'


def write_graph(path, size, end=None, tail=b"</net>"):
    """An IR with constants up to ``end``, and a file of weights with ``size`` bytes."""
    end = size if end is None else end
    half = end // 2
    path.write_bytes(b"<net>" + CONSTANT % (0, half) + CONSTANT % (half, end - half) + tail)
    path.with_suffix(".bin").write_bytes(bytes(size))


def write_tensors(path, cut=0, name="a", dtype="F32"):
    header = json.dumps({name: {"dtype": dtype, "shape": [4], "data_offsets": [0, 16]}, "__metadata__": {}})
    data = struct.pack("<Q", len(header)) + header.encode() + bytes(16)
    path.write_bytes(data[: len(data) - cut])


@pytest.fixture
def openvino(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_graph(tmp_path / "openvino_model.xml", 1_000)
    for name in ("openvino_tokenizer.xml", "openvino_detokenizer.xml"):
        write_graph(tmp_path / name, 10)
    return tmp_path


@pytest.fixture
def safetensors(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_tensors(tmp_path / "model.safetensors")
    return tmp_path


def refusal(path):
    with pytest.raises(ModelUnusable) as caught:
        inspect(path)
    return caught.value.message


def test_what_is_whole_is_told(openvino):
    model = inspect(openvino)
    assert (model.format, model.weight_bytes, model.context) == ("openvino", 1_000, 512)
    assert model.architecture == "LlamaForCausalLM"
    assert model.cache_bytes == 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, their size, bytes


def test_whether_weights_are_rounded_is_told(openvino):
    assert not inspect(openvino).rounded
    graph = openvino / "openvino_model.xml"
    graph.write_bytes(graph.read_bytes().replace(b'"f32"', b'"i4"', 1))
    assert inspect(openvino).rounded
    assert inspect(demo.path()).rounded


@pytest.mark.parametrize("kind", [b'"f16"', b'"bf16"'])
def test_what_becomes_larger_in_fp32_is_told_of_a_graph(openvino, kind):
    assert in_fp32(inspect(openvino)).weight_bytes == 1_000
    graph = openvino / "openvino_model.xml"
    whole = graph.read_bytes()
    graph.write_bytes(whole.replace(b'"f32"', kind, 1))
    assert in_fp32(inspect(openvino)).weight_bytes == 1_500
    # An empty constant that begins where another one does hides nothing of it.
    graph.write_bytes(whole.replace(b'"f32"', kind).replace(b"</net>", CONSTANT % (500, 0) + b"</net>"))
    assert in_fp32(inspect(openvino)).weight_bytes == 2_000
    # What is rounded stays so, and its scales are few.
    graph.write_bytes(whole.replace(b'"f32"', kind, 1).replace(b'"f32"', b'"i4"'))
    assert in_fp32(inspect(openvino)).weight_bytes == 1_000


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_so_of_safetensors_whatever_the_config_says(safetensors, dtype):
    whole = inspect(safetensors)
    assert in_fp32(whole).weight_bytes == whole.weight_bytes
    write_tensors(safetensors / "model.safetensors", dtype=dtype)
    halved = inspect(safetensors)
    assert in_fp32(halved).weight_bytes == halved.weight_bytes + 16


def test_the_model_of_the_package_is_no_burden_to_it():
    """Whoever installs Penstock has it as well."""
    assert sum(path.stat().st_size for path in demo.path().rglob("*")) <= 4_000_000


def test_safetensors_are_told(safetensors):
    assert inspect(safetensors).format == "safetensors"


def test_a_directory_that_is_not_there(tmp_path):
    assert "there is no directory" in refusal(tmp_path / "nowhere")


def test_a_file_instead_of_a_directory(openvino):
    assert "name the directory" in refusal(openvino / "config.json")


def test_a_directory_without_weights_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert "has no weights" in refusal(tmp_path)
    assert "git lfs pull" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "m.pkl"]
)
def test_pickled_weights_are_refused_unopened(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / name).chmod(0)  # nobody looks into it
    assert f"{name} is pickled" in refusal(tmp_path)
    assert "safetensors" in refusal(tmp_path)


def test_pickled_weights_beside_others_are_left_alone(safetensors):
    (safetensors / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert inspect(safetensors).format == "safetensors"


@pytest.mark.parametrize("missing", ["config.json", "openvino_model.bin", "openvino_detokenizer.xml"])
def test_a_missing_file_is_named(openvino, missing):
    (openvino / missing).unlink()
    assert f"{missing} is missing" in refusal(openvino)


def test_weights_that_are_cut_off(openvino):
    write_graph(openvino / "openvino_model.xml", 700, end=1_000)
    assert "openvino_model.bin is cut off: it has 700 of at least 1000 bytes" in refusal(openvino)


def test_a_graph_that_is_cut_off(openvino):
    write_graph(openvino / "openvino_model.xml", 1_000, tail=b"<lay")
    assert "openvino_model.xml is cut off" in refusal(openvino)


def test_a_tokenizer_that_is_cut_off(openvino):
    write_graph(openvino / "openvino_tokenizer.xml", 3, end=10)
    assert "openvino_tokenizer.bin is cut off" in refusal(openvino)


def test_a_constant_that_stands_across_two_blocks_of_a_graph_is_seen(openvino):
    """It is read by the megabyte."""
    filling = b"<!-- -->" * (2**17) + b"x" * 7
    for shift in range(0, 60, 11):
        text = b"<net>" + filling[: 2**20 - 40 + shift] + CONSTANT % (0, 5_000) + b"</net>"
        (openvino / "openvino_model.xml").write_bytes(text)
        assert "is cut off" in refusal(openvino)


@pytest.mark.parametrize("cut", [1, 16, 20, 10_000])
def test_safetensors_that_are_cut_off(safetensors, cut):
    write_tensors(safetensors / "model.safetensors", cut)
    assert "model.safetensors is cut off" in refusal(safetensors)


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.mlp.up_proj.weight", "transformer.h.2.ln_1.bias", "encoder.layer.2.output.dense.bias"],
)
def test_weights_of_more_layers_than_the_config_knows_are_refused(safetensors, name):
    write_tensors(safetensors / "more.safetensors", name=name)
    assert "config.json says 2 layers, and 3 are stored" in refusal(safetensors)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("model.layers.1.mlp.up_proj.weight", {}),
        ("model.layers.2.eh_proj.weight", {"num_nextn_predict_layers": 1}),
        ("vision_tower.encoder.layers.30.mlp.fc1.weight", {}),
    ],
    ids=["the last", "looks ahead", "sees"],
)
def test_layers_that_the_config_knows_or_that_are_no_part_of_the_text_are_taken(safetensors, name, more):
    (safetensors / "config.json").write_text(json.dumps({**CONFIG, **more}))
    write_tensors(safetensors / "more.safetensors", name=name)
    assert inspect(safetensors).format == "safetensors"


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 30, struct.pack("<Q", 4) + b"[1]x", struct.pack("<Q", 2) + b"[]"]
)
def test_what_is_no_safetensors(safetensors, data):
    (safetensors / "model.safetensors").write_bytes(data)
    assert "model.safetensors" in refusal(safetensors)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123456\n".format("a" * 64)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_git_left_a_pointer_of(safetensors, name):
    (safetensors / name).write_text(POINTER)
    assert f"{name} is a pointer of Git LFS" in refusal(safetensors)
    assert "git lfs pull" in refusal(safetensors)


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin", "openvino_detokenizer.bin"])
def test_so_of_a_graph(openvino, name):
    (openvino / name).write_text(POINTER)
    assert f"{name} is a pointer of Git LFS" in refusal(openvino)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_link_whose_file_was_not_copied(safetensors, name):
    """A snapshot in the cache of Hugging Face's hub is a directory of such links."""
    (safetensors / name).unlink(missing_ok=True)
    (safetensors / name).symlink_to("../../blobs/0a1b")
    assert f"{name} is a link that leads nowhere" in refusal(safetensors)


def test_a_shard_that_is_missing(safetensors):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (safetensors / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors is missing" in refusal(safetensors)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_config_that_makes_no_sense(openvino, text):
    (openvino / "config.json").write_bytes(text.encode("latin-1"))
    assert "config.json is no JSON" in refusal(openvino)


def test_gguf_has_servers_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "llama.cpp" in refusal(tmp_path)


def test_a_model_that_is_too_large_is_refused_with_figures(openvino):
    model = ModelDir(openvino, "openvino", 8_000_000_000, CONFIG, 512, 128)
    check_memory(model, 1_000_000_000, available=10_000_000_000)
    with pytest.raises(ModelUnusable, match=r"about 9\.2 GB \(8\.0 GB of weights.*5\.0 GB are free"):
        check_memory(model, 1_000_000_000, available=5_000_000_000)


def test_free_memory_is_that_of_the_machine_or_of_the_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable: 2000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert available_bytes(meminfo, tmp_path) == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 2_048_000
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
