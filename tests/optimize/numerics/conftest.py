"""A tiny model with weights at random, and text for it; these tests need the extra ``optimize``."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

# `make optimize-tests` runs them, in an environment of its own; `make test` has no room for it.
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "numerics" in item.path.parts:
            # What these libraries warn of is not ours to mend.
            item.add_marker(pytest.mark.filterwarnings("default"))
            # The first of a run waits for the model to be trained: twenty seconds of computing before its own.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """The manual of the language, which every Python has."""
    from pydoc_data import topics

    path = tmp_path_factory.mktemp("text") / "manual.txt"
    path.write_text("\n".join(topics.topics[name] for name in sorted(topics.topics))[:60_000])
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory, text):
    """A Llama of four layers and some hundred thousand parameters, which has learned a little.

    Without having learned anything, every change would be as good as none.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "little"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text.read_text()], trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    )
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    ids = torch.tensor(whole(text.read_text())["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(400):
        starts = torch.randint(0, len(ids) - 64, (16,)).tolist()
        batch = torch.stack([ids[at : at + 64] for at in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    whole.save_pretrained(path)
    return path


@pytest.fixture
def copy(model, tmp_path):
    """The model, to be damaged."""
    return shutil.copytree(model, tmp_path / "copy")
