"""Train a tiny Llama to try things on: four million parameters, a quarter of an hour of one core, no downloads.

    make .venv-optimize/.with-tests
    nice -n 19 .venv-optimize/bin/python scripts/train_tiny_llama.py DIRECTORY

Its text is what every Python brings along: the language's manual (``pydoc_data.topics``) and the source of
the standard library, under the PSF licence.  The split, the order and the first weights come from one seed.
What the model says is babble in the form of Python; it is good for showing what quantising, pruning and
distilling cost, in relation, and how fast that runs.

Writes ``DIRECTORY/tiny`` (a model directory for transformers), and beside it ``calibration.jsonl``, text that
the model was trained on, and ``held-out.txt``, text that it never saw.

With ``--large`` it trains one of 93 million parameters instead, ``DIRECTORY/large``, whose speed is that of models
for which memory is the limit; ``--bf16`` makes that several times as quick where the processor multiplies matrices
by itself (AMX).  ``--random`` writes ``DIRECTORY/random-90m``: the same shape, its weights drawn at random.  Training
that was broken off goes on where it last stood.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20_261_121
VOCABULARY = 4_096
LENGTH = 256  # tokens of a training sequence
BATCH = 4  # sequences of a step: few, because steps are what so short a training lacks
PEAK = 3e-3  # learning rate of a model whose hidden states are 256 wide; a wider one takes as much less
WARM_UP = 60  # steps
KEPT_EVERY = 100  # steps
END = "<|endoftext|>"
HELD_OUT_EVERY = 50  # one document in so many is held out
LEFT_OUT = {"test", "tests", "site-packages", "__pycache__", "idlelib", "lib2to3", "encodings", "turtledemo"}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def documents() -> Iterator[tuple[str, str]]:
    """Name and text of each document, always in the same order."""
    from pydoc_data import topics  # noqa: PLC0415 - half a megabyte

    for name, text in sorted(topics.topics.items()):
        yield f"manual/{name}", text
    library = Path(sysconfig.get_path("stdlib"))
    for folder, inner, files in os.walk(library):
        inner[:] = sorted(set(inner) - LEFT_OUT)
        for file in sorted(files):
            if file.endswith(".py"):
                path = Path(folder, file)
                yield str(path.relative_to(library)), path.read_text(encoding="utf-8", errors="replace")


def split() -> tuple[list[str], list[str]]:
    """Documents to train on, and documents held out; which, depends on their names alone."""
    training, held_out = [], []
    for name, text in documents():
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        (training if number % HELD_OUT_EVERY else held_out).append(text)
    return training, held_out


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2_048,
    )


def tiny() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def large() -> LlamaConfig:
    config = tiny()
    config.update(
        {
            "hidden_size": 1_024,
            "intermediate_size": 2_752,
            "num_hidden_layers": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
        }
    )
    return config


def rate_at(step: int, steps: int) -> float:
    """Share of the greatest rate: linear warm-up, then a cosine down to a tenth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def train(model: LlamaForCausalLM, tokens: np.ndarray, steps: int, kept: Path, *, bf16: bool) -> None:
    """So many steps.

    :param kept: file of the state so far, from which training goes on; it is gone when that is done
    """
    matrices = [each for each in model.parameters() if each.dim() > 1]
    others = [each for each in model.parameters() if each.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    draws = np.random.default_rng(SEED)
    peak = PEAK * tiny().hidden_size / model.config.hidden_size
    lower = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    model.train()
    began, smooth, done = time.monotonic(), 0.0, 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        done, smooth = state["done"], state["smooth"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(steps):
        starts = draws.integers(0, len(tokens) - LENGTH, BATCH)
        if step < done:
            continue
        batch = torch.from_numpy(np.stack([tokens[at : at + LENGTH] for at in starts]).astype(np.int64))
        with lower:
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = peak * rate_at(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {smooth:.3f}  {time.monotonic() - began:6.0f} s", flush=True)
        if (step + 1) % KEPT_EVERY == 0:
            keep(kept, {"done": step + 1, "smooth": smooth}, model, optimizer)
    kept.unlink(missing_ok=True)


def keep(path: Path, figures: dict, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> None:
    unfinished = path.with_suffix(".unfinished")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(figures | state, unfinished)
    unfinished.replace(path)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokens: np.ndarray) -> float:
    model.eval()
    losses = []
    for at in range(0, min(len(tokens), 40 * LENGTH) - LENGTH + 1, LENGTH):
        window = torch.from_numpy(tokens[at : at + LENGTH].astype(np.int64))[None]
        losses.append(model(input_ids=window, labels=window).loss.item())
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--large", action="store_true", help="train the large one instead")
    which.add_argument("--random", action="store_true", help="write the large random one instead")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    training, held_out = split()
    tokenizer = tokenizer_of(training)
    given.directory.mkdir(parents=True, exist_ok=True)
    model = LlamaForCausalLM(large() if given.large or given.random else tiny())
    name = "random-90m" if given.random else "large" if given.large else "tiny"
    print(f"{name}: {model.num_parameters() / 1e6:.2f} million parameters, {len(training)} documents")
    if not given.random:
        # Each document begins with the token that stands for the beginning of a text.
        ids = tokenizer(training, add_special_tokens=False)["input_ids"]
        tokens = np.concatenate([np.array([0, *each], dtype=np.uint16) for each in ids])
        print(f"{len(tokens) / 1e6:.2f} million tokens", flush=True)
        train(model, tokens, given.steps, given.directory / f".{name}.kept", bf16=given.bf16)
        unseen = np.array(tokenizer("\n".join(held_out))["input_ids"], dtype=np.uint16)
        print(f"perplexity on text that it never saw: {perplexity(model, unseen):.2f}")
        (given.directory / "held-out.txt").write_text("\n".join(held_out)[:400_000], encoding="utf-8")
        draws = np.random.default_rng(SEED + 1)
        chosen = [training[at] for at in draws.permutation(len(training))[:60]]
        (given.directory / "calibration.jsonl").write_text(
            "".join(json.dumps({"text": each}) + "\n" for each in chosen), encoding="utf-8"
        )
    unfinished = given.directory / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(given.directory / name, ignore_errors=True)
    unfinished.rename(given.directory / name)
    print(f"written to {given.directory / name}", file=sys.stderr)


if __name__ == "__main__":
    main()
