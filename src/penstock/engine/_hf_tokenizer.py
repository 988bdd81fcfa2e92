"""The tokenizer of a model in Hugging Face's form, by transformers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from penstock.engine.backend import NOTHING, CannotTake
from penstock.engine.vocabulary import pieces_of
from penstock.errors import ModelUnusable
from penstock.messages import JSON


class HFTokenizer:
    """The tokenizer of a directory; its own code is never run.

    The library's own may not be asked by two threads at once, so only one is let in.

    :param vocabulary: token ids that the model knows, which may be more than have a text
    :raises penstock.errors.ModelUnusable: there is none, or it cannot be read
    """

    def __init__(self, path: Path, vocabulary: int) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                path, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # `tokenizers` has no kind of its own
            raise ModelUnusable(
                f"{path} has no tokenizer that can be read ({' '.join(str(error).split())[:200]}): "
                "put its tokenizer.json and tokenizer_config.json there"
            ) from error
        self._alone = threading.RLock()
        self.vocabulary = vocabulary

    def __repr__(self) -> str:
        return f"<HFTokenizer {self.vocabulary} tokens>"

    @property
    def source(self) -> str:
        """Its ``tokenizer.json``; empty: it is of the kind that has none."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return "" if backend is None else str(backend.to_str())

    @property
    def end(self) -> int | None:
        """The token that ends a text, if there is one."""
        end = self._tokenizer.eos_token_id
        return end if isinstance(end, int) else None

    @property
    def pad(self) -> int:
        """What texts are padded with."""
        pad = self._tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    def encode(self, text: str, *, special: bool) -> list[int]:
        with self._alone:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        with self._alone:
            return str(
                self._tokenizer.decode(
                    list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )

    def render(
        self,
        messages: Sequence[JSON],
        *,
        answer: bool,
        tools: Sequence[JSON] = (),
        more: Mapping[str, JSON] = NOTHING,
    ) -> str:
        if not self._tokenizer.chat_template:
            raise CannotTake("the model has no chat template: ask it for completions")
        try:
            with self._alone:
                return str(
                    self._tokenizer.apply_chat_template(
                        list(messages),
                        tools=list(tools) or None,
                        add_generation_prompt=answer,
                        tokenize=False,
                        **more,
                    )
                )
        except Exception as error:  # it is foreign code, in a sandbox of Jinja's, and may divide by zero
            raise CannotTake(f"the model's chat template does not take these messages: {error}") from error

    def pieces(self) -> list[bytes] | None:
        """The vocabulary's bytes, if putting them together is what this tokenizer does."""
        with self._alone:
            words = self._tokenizer.convert_ids_to_tokens(list(range(len(self._tokenizer))))
            alone = [self.decode([token]) for token in range(len(words))]
        return pieces_of(words, alone, self.decode, self.vocabulary)


__all__ = ["HFTokenizer"]
