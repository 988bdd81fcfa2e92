"""A real model of sentences, by each library, against a third that computes it otherwise; needs PyTorch."""

from __future__ import annotations

import importlib
import shutil

import msgspec
import numpy as np
import pytest

from penstock.config.model import LocalConfig
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.model_dir import inspect
from penstock.engine.serve import load
from penstock.errors import ModelUnusable

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import transformers  # noqa: E402 - it is there now

from penstock.cache.semantic.encoder import SentenceEncoder, packaged  # noqa: E402

# What these libraries warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

TEXTS = ["a", "The penstock governs the flow.", "How do I reset my password? " * 8, "漢字 and ünïcode"]


@pytest.fixture(scope="module")
def in_openvino(tmp_path_factory):
    """The same weights as a graph, as ``optimum-cli`` exports them."""
    import openvino
    import openvino_tokenizers

    path = tmp_path_factory.mktemp("models") / "ir"
    path.mkdir()
    model = transformers.AutoModel.from_pretrained(packaged(), attn_implementation="eager").eval()
    example = {name: torch.ones((2, 5), dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        graph = openvino.convert_model(model, example_input=example)
    graph.outputs[0].set_names({"last_hidden_state"})
    openvino.save_model(graph, path / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(packaged())
    openvino.save_model(openvino_tokenizers.convert_tokenizer(tokenizer), path / "openvino_tokenizer.xml")
    shutil.copy(packaged() / "config.json", path)
    shutil.copytree(packaged() / "1_Pooling", path / "1_Pooling")
    return path


@pytest.fixture(params=["transformers", "openvino"])
def backend(request, in_openvino):
    path = packaged() if request.param == "transformers" else in_openvino
    backend = load(LocalConfig(model=str(path), backend=request.param, threads=1, exact=True))
    yield backend
    backend.close()


def vectors(backend, texts):
    for number, text in enumerate(texts):
        backend.add(number, backend.tokenizer.encode(text, special=True), Sampling())
    found = {progress.number: np.frombuffer(progress.vector, "f4") for progress in backend.step()}
    return np.array([found[number] for number in range(len(texts))])


def test_vectors_are_those_of_the_model_computed_in_numpy(backend):
    assert np.allclose(vectors(backend, TEXTS), SentenceEncoder(packaged()).encode(TEXTS), atol=1e-4)
    assert backend.card.dimensions == 384


def test_tokens_are_those_of_its_own_tokenizer(backend):
    own = transformers.AutoTokenizer.from_pretrained(packaged())
    for text in TEXTS:
        assert backend.tokenizer.encode(text, special=True) == own(text)["input_ids"]


def test_a_text_that_is_too_long_is_refused(backend):
    with pytest.raises(CannotTake, match="tokens"):
        backend.add(1, [5] * (backend.card.context + 1), Sampling())


def test_weights_that_are_not_there(tmp_path):
    path = shutil.copytree(packaged(), tmp_path / "copy")
    text = (path / "config.json").read_text().replace('"num_hidden_layers": 6', '"num_hidden_layers": 8')
    (path / "config.json").write_text(text)
    with pytest.raises(ModelUnusable, match="tensors are missing"):
        load(LocalConfig(model=str(path)))


@pytest.mark.parametrize("library", ["transformers", "openvino"])
def test_one_that_the_memory_has_no_room_for_in_fp32(library, in_openvino):
    model = inspect(packaged() if library == "transformers" else in_openvino)
    encoder = importlib.import_module(f"penstock.engine.{library}_encoder")
    with pytest.raises(ModelUnusable, match="are free"):
        encoder.load(msgspec.structs.replace(model, half_bytes=10**12), LocalConfig(threads=1, exact=True))
