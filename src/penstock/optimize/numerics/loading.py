"""Models and tokenizers from a directory, by transformers: offline, no code of the model's own, no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from penstock.optimize.faults import UnusableModel
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.texts import Conversation, as_text, read_documents, windows

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load_model(source: ModelDirectory, dtype: Any = torch.float32) -> Any:
    """The model, on the CPU, ready to be run.

    :param dtype: of its numbers; ``"auto"``: as they are stored
    :raises UnusableModel: transformers does not know it, or what is stored does not fit it, or is no numbers
    """
    kind = source.config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        raise UnusableModel(
            f"{source.path / 'config.json'} is of the type {kind!r}, which transformers {transformers.__version__} "
            "does not know: upgrade it, or use another model"
        )
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UnusableModel(
            f"{source.path} cannot be loaded: {' '.join(str(error).split())[:400]}"
        ) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise UnusableModel(
            f"{source.path} lacks {len(missing)} tensors of its architecture, {missing[0]} for one: "
            "fetch or copy it again"
        )
    for name, each in model.named_parameters():
        if each.is_floating_point() and not each.isfinite().all():
            raise UnusableModel(
                f"{source.path} has numbers that are none (NaN or infinite) in {name}: fetch or make it again"
            )
    model.eval()
    return model


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a directory.

    :raises UnusableModel: there is none, or it cannot be read
    """
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(
            f"{path} has no tokenizer that can be read ({' '.join(str(error).split())[:200]}): "
            "put its tokenizer.json and tokenizer_config.json there"
        ) from error


def pieces(tokenizer: Any, text: Path, length: int, most: int) -> list[list[int]]:
    """Pieces of ``length`` tokens from a file of texts, in its order.

    :raises penstock.optimize.faults.UnusableText: there is not even one
    """
    end = tokenizer.eos_token_id
    tokens: list[int] = []
    for each in read_documents(text):
        tokens += tokenizer(_written(tokenizer, each), add_special_tokens=False)["input_ids"]
        if end is not None and tokens[-1:] != [end]:
            tokens.append(end)
        if len(tokens) >= length * most:
            break
    return windows(tokens, length, most, text)


def _written(tokenizer: Any, document: str | Conversation) -> str:
    """As the model sees it when it is asked: a conversation in its own template."""
    if isinstance(document, str):
        return document
    if not tokenizer.chat_template:
        return as_text(document)
    return str(tokenizer.apply_chat_template(document, tokenize=False))


def as_prompt(tokenizer: Any, asked: str | Conversation) -> str:
    """What the model reads before it answers."""
    if isinstance(asked, str):
        return asked
    if not tokenizer.chat_template:
        return as_text(asked) + "\n\nassistant: "
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))


def save(model: Any, tokenizer: Any, into: Path, **options: Any) -> None:
    """Both, in the form that transformers loads."""
    model.save_pretrained(into, safe_serialization=True, **options)
    tokenizer.save_pretrained(into)
