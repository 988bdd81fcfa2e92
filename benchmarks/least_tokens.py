"""Has a prompt ever fewer tokens than words?  Counted with the vocabularies that PyPI's packages bring along.

::

    pip install tiktoken tokenizers sentencepiece mistral-common dashscope litellm
    python -m benchmarks.least_tokens

Texts are the pages and sources of this repository, and strings put together by chance of what vocabularies find hard.
Exits with 1 if a text has fewer tokens than words.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Count = Callable[[str], int]
ROOT = Path(__file__).parents[1]
PIECES = [
    *(
        "a",
        " ",
        "  ",
        "\n",
        "\t",
        ".",
        " the",
        " a",
        " I",
        "1",
        " 1",
        "=",
        "-",
        " -",
        "é",
        " é",
        "中",
        "\u00a0",
    ),
    *(
        "\x0b",
        "\x0c",
        "\r\n",
        "'s",
        "' ",
        "don't",
        " \n ",
        "🙂",
        " 🙂",
        "ا",
        " ا",
        "x y",
        "}",
        "{ ",
        " {",
        "\\n",
        " / ",
    ),
]
REPEATED = (
    " a",
    " the",
    " I",
    ". ",
    " -",
    "\n\n",
    "\r\n\r\n a",
    "a\n",
    "\tif",
    " \t ",
    "   x",
    "* ",
    "= ",
    "1 ",
)
# How tiktoken's vocabularies cut a text before they look for tokens; Qwen's takes digits one by one.
CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def texts() -> list[str]:
    """What is counted."""
    rand = random.Random(7)
    files = [
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("src/**/*.py"))[:150],
        *ROOT.glob("tests/*/*.py"),
    ]
    found = [file.read_text()[:60_000] for file in files]
    found += ["".join(rand.choices(PIECES, k=rand.randint(1, 200))) for _ in range(3_000)]
    return [text for text in [*found, *(each * 500 for each in REPEATED)] if text.split()]


def vocabularies() -> Iterator[tuple[str, Count]]:
    """By name, how many tokens a text has in each."""
    import sentencepiece
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tokenizers import Tokenizer

    def by_ranks(name: str, ranks: dict[bytes, int], cut: str) -> tuple[str, Count]:
        encoding = tiktoken.Encoding(name, pat_str=cut, mergeable_ranks=ranks, special_tokens={})
        return name, lambda text: len(encoding.encode(text, disallowed_special=()))

    def by_json(name: str, file: Path) -> tuple[str, Count]:
        tokenizer = Tokenizer.from_file(str(file))
        return name, lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)

    def by_pieces(name: str, file: Path) -> tuple[str, Count]:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        return name, lambda text: len(pieces.encode(text))

    ours = _folder("litellm") / "litellm_core_utils" / "tokenizers"
    for name in ("anthropic", "deepseek"):
        yield by_json(name, ours / f"{name}_tokenizer.json")
    for file in sorted(ours.iterdir()):
        if not file.suffix and file.is_file() and "LICENSE" not in file.name:
            ranks = load_tiktoken_bpe(str(file))
            yield by_ranks(f"openai of {len(ranks)}", ranks, CUT % 3)
    yield by_ranks(
        "qwen", load_tiktoken_bpe(str(_folder("dashscope") / "resources" / "qwen.tiktoken")), CUT % 1
    )
    mistral = _folder("mistral_common") / "data"
    yield by_pieces("mistral v1", mistral / "tokenizer.model.v1")
    yield by_pieces("mistral v7", next(mistral.glob("mistral_instruct_tokenizer_*.model.v7")))
    for file in sorted(mistral.glob("tekken_*.json")):
        told = json.loads(file.read_text())
        size = told["config"]["default_vocab_size"] - told["config"]["default_num_special_tokens"]
        ranks = {base64.b64decode(each["token_bytes"]): each["rank"] for each in told["vocab"][:size]}
        yield by_ranks(file.stem, ranks, told["config"]["pattern"])


def _folder(package: str) -> Path:
    """Where a package lies; it is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: see the head of this file")
    return Path(found.origin).parent


def main() -> int:
    """Count, and say what came of it."""
    counted = texts()
    words = [len(text.encode().split()) for text in counted]
    pages = [(ROOT / "docs" / name).read_text() for name in ("flow.md", "routing.md")]
    failed = 0
    for name, tokens in vocabularies():
        ratios = [tokens(text) / number for text, number in zip(counted, words, strict=True)]
        fewer = sum(ratio < 1 for ratio in ratios)
        failed += fewer
        english = statistics.mean(tokens(page) / len(page.split()) for page in pages)
        print(
            f"{name}: {len(ratios)} texts, {fewer} with fewer tokens than words; tokens a word: least {min(ratios):.2f}, "
            f"English {english:.2f}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
