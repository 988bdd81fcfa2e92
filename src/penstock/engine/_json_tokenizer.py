"""The tokenizer of a directory with a ``tokenizer.json``, without transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Read

from penstock.engine._chat_template import ChatTemplate
from penstock.engine.backend import NOTHING, CannotTake
from penstock.engine.vocabulary import pieces_of
from penstock.errors import ModelUnusable
from penstock.messages import JSON


class JSONTokenizer:
    """Text to ids and back, and the chat template of ``tokenizer_config.json`` or ``chat_template.jinja``.

    :param vocabulary: token ids that the model knows, which may be more than have a text
    :raises penstock.errors.ModelUnusable: there is none, or it cannot be read
    """

    def __init__(self, path: Path, vocabulary: int) -> None:
        file = path / "tokenizer.json"
        try:
            self.source = file.read_text("utf-8")
            self._tokenizer = Read.from_str(self.source)
        except Exception as error:  # the library raises nothing narrower
            raise ModelUnusable(
                f"{file} cannot be read ({' '.join(str(error).split())[:200]}): copy the model's tokenizer there"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary = vocabulary
        told = _told(path / "tokenizer_config.json")
        source = _template(path, told)
        tokens = {name: text for name in _NAMED if (text := _text(told.get(name))) is not None}
        try:
            self._template = ChatTemplate(source, tokens) if source else None
        except ValueError as error:
            raise ModelUnusable(f"{path} cannot be used: {error}") from error

    def __repr__(self) -> str:
        return f"<JSONTokenizer {self.vocabulary} tokens>"

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def render(
        self,
        messages: Sequence[JSON],
        *,
        answer: bool,
        tools: Sequence[JSON] = (),
        more: Mapping[str, JSON] = NOTHING,
    ) -> str:
        if self._template is None:
            raise CannotTake("the model has no chat template: ask it for completions")
        return self._template.render(messages, answer=answer, tools=tools, more=more)

    def pieces(self) -> list[bytes] | None:
        """The vocabulary's bytes, if putting them together is what this tokenizer does."""
        words = [self._tokenizer.id_to_token(token) for token in range(self._tokenizer.get_vocab_size())]
        alone = [self.decode([token]) for token in range(len(words))]
        return pieces_of(words, alone, self.decode, self.vocabulary)


_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def _told(file: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{file} cannot be read ({error}): copy it again") from error


def _text(token: Any) -> str | None:
    """A special token, which may stand there with its properties."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _template(path: Path, told: dict[str, Any]) -> str:
    own = path / "chat_template.jinja"
    if own.is_file():
        return own.read_text("utf-8")
    found = told.get("chat_template")
    if isinstance(found, list):  # several, by name
        named = [each for each in found if isinstance(each, dict)]
        found = {str(each.get("name")): each.get("template") for each in named}.get("default")
    return found if isinstance(found, str) else ""


__all__ = ["JSONTokenizer"]
