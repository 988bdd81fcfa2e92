"""Makes the model that comes with the package, from nothing: text, tokenizer, training, int4.

::

    python3.11 -m venv .venv-demo
    .venv-demo/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    .venv-demo/bin/pip install "optimum-intel[openvino]==2.2.0" "nncf==3.4.0" "openvino-tokenizers"
    nice -n 19 .venv-demo/bin/python scripts/train_demo_model.py src/penstock/engine/models/demo

Everything is seeded: the same Python, libraries and kind of CPU give the same weights.  It takes some five minutes of
one core.

The text is the interpreter's own: the language reference that `help()` shows (``pydoc_data.topics``) and the
docstrings of the standard library, which stand under the PSF license.  Half of it is asked for: "What is
json.dumps?", with the beginning of its docstring as the answer, so that the model knows turns, and ends.  It has seen
a hundred thousandth of what a useful model has, and it shows.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import platform
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SEED = 1
VOCABULARY = 4_096
CONTEXT = 1_024  # tokens that the model may be asked for
LENGTH = 256  # tokens of a training example
BATCH = 8
PACE = 1.5e-3  # the learning rate at its highest
HELD_BACK = 0.02  # of the documents, to measure the loss on
MOST_BYTES = 4_000_000  # of what the package carries
END, USER, ASSISTANT, SYSTEM = "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if not loop.last or message['role'] != 'assistant' or add_generation_prompt %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CARD = """# demo

A language model of {parameters:,} parameters that comes with Penstock, so that a gateway without any configuration answers with a real one.

**It babbles.** It knows what Python's documentation looks like, and nothing else: do not use anything that it says. It has no idea of what is true, was never taught to refuse anything, and may say any word that stands in its text.

| | |
|---|---|
| form | Llama, 4 layers of 256, context of {context} tokens; int4 in groups of 32, OpenVINO's form |
| made by | `scripts/train_demo_model.py`, from nothing |
| text | {tokens:,} tokens: docstrings of the standard library of Python {python}, and the topics of its `help()` |
| training | {seen:,} tokens, seeded, on one core |
| perplexity | {perplexity} on text of the same kind that it has not seen, before int4 |
| license | of the text: the PSF License Agreement, Copyright © 2001 Python Software Foundation; of the weights: Apache 2.0, as Penstock |
"""
KEPT = (
    "config.json",
    "generation_config.json",
    "openvino_detokenizer.bin",
    "openvino_detokenizer.xml",
    "openvino_model.bin",
    "openvino_model.xml",
    "openvino_tokenizer.bin",
    "openvino_tokenizer.xml",
    "tokenizer_config.json",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the directory of the finished model")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--work", type=Path, help="keep what is made on the way here")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="demo-model-"))
    work.mkdir(parents=True, exist_ok=True)
    documents = list(texts())
    random.Random(SEED).shuffle(documents)
    print(f"{len(documents)} documents, {sum(map(len, documents)):,} characters")
    tokenizer = train_tokenizer(documents, work / "hf")
    told = train(documents, tokenizer, work / "hf", options.steps)
    export(work / "hf", work / "ov")
    finish(work / "ov", options.out, told)


# ---- text ------------------------------------------------------------------------------------------


def texts() -> Iterator[str]:
    """Documents, each ended; questions and answers among them."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"{topics[name].strip()}\n{END}"
    for name, text in docstrings():
        yield f"{name}\n\n{text}\n{END}"
        answer = text.split("\n\n")[0]
        yield f"{USER}{question(name)}{END}{ASSISTANT}{answer}{END}"


def question(name: str) -> str:
    """The same for the same name, whatever else is asked."""
    asked = ("What is {}?", "What does {} do?", "Tell me about {}.", "Explain {}.", "How does {} work?")
    return random.Random(name).choice(asked).format(name)


def docstrings() -> Iterator[tuple[str, str]]:
    """Dotted name and docstring of everything public in the standard library that has one."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        parts = module.split(".")
        if "site-packages" in parts or "test" in parts or "tests" in parts or "idlelib" in parts:
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield from walk(tree, module)


def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and len(text) > 40:
        yield name, text
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not child.name.startswith("_"):
            yield from walk(child, f"{name}.{child.name}")


# ---- tokenizer -------------------------------------------------------------------------------------


def train_tokenizer(documents: list[str], out: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    return fast


# ---- training --------------------------------------------------------------------------------------


def train(documents: list[str], tokenizer, out: Path, steps: int) -> dict[str, object]:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    held = max(1, int(len(documents) * HELD_BACK))
    check, learn = (
        torch.tensor([token for text in part for token in tokenizer.encode(text, add_special_tokens=False)])
        for part in (documents[:held], documents[held:])
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {len(learn):,} tokens to learn from")
    decayed = [each for each in model.parameters() if each.dim() > 1]
    others = [each for each in model.parameters() if each.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PACE, betas=(0.9, 0.95))
    places = torch.Generator().manual_seed(SEED)
    warm_up = min(100, steps // 10 + 1)
    begun = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            ahead = (step - warm_up) / max(1, steps - warm_up)
            group["lr"] = PACE * (
                (step + 1) / warm_up if step < warm_up else 0.1 + 0.45 * (1 + math.cos(math.pi * ahead))
            )
        starts = torch.randint(len(learn) - LENGTH - 1, (BATCH,), generator=places).tolist()
        batch = torch.stack([learn[start : start + LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - begun:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        pieces = [check[at : at + LENGTH] for at in range(0, len(check) - LENGTH, LENGTH)][:100]
        losses = [model(input_ids=piece[None], labels=piece[None]).loss.item() for piece in pieces]
    perplexity = math.exp(sum(losses) / len(losses))
    print(f"perplexity {perplexity:.1f} on {len(pieces) * LENGTH:,} tokens that it has not seen")
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        repetition_penalty=1.2,
    )
    model.save_pretrained(out)
    return {
        "python": platform.python_version(),
        "parameters": model.num_parameters(),
        "tokens": len(learn),
        "seen": steps * BATCH * LENGTH,
        "perplexity": round(perplexity, 1),
    }


# ---- int4 ------------------------------------------------------------------------------------------


def export(hf: Path, ov: Path) -> None:
    """OpenVINO's IR, weights in int4 by groups of 32, tokenizer and detokenizer beside it."""
    command = Path(sys.executable).parent / "optimum-cli"
    words = ["export", "openvino", "--model", str(hf), "--task", "text-generation-with-past"]
    words += [
        "--weight-format",
        "int4",
        "--group-size",
        "32",
        "--sym",
        "--ratio",
        "1.0",
        "--all-layers",
        str(ov),
    ]
    subprocess.run([command, *words], check=True)


def finish(ov: Path, out: Path, told: dict[str, object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(ov / name, out / name)
    config = json.loads((out / "config.json").read_text())
    config.pop("_name_or_path", None)
    (out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (out / "README.md").write_text(CARD.format(context=CONTEXT, **told), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size:,} bytes; {json.dumps(told)}")
    if size > MOST_BYTES:
        raise SystemExit(f"that is more than {MOST_BYTES:,}")


if __name__ == "__main__":
    main()
