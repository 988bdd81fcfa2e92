"""Answers that keep to a schema, an expression or a grammar: which tokens may come next, by llguidance.

For backends that leave the choice of a token to us; OpenVINO GenAI has a grammar of its own.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt

from penstock.engine.backend import CannotTake, Sampling

log = logging.getLogger("penstock.engine")

_QUIET = 0  # the library writes to stderr otherwise
_BLANKS = r"[ \n]{0,20}"  # between the parts of JSON: the model's own choice, but for their number


KEPT = 64  # rules that are kept compiled


class SchemaRule:
    """What one answer keeps to, and how far it has come; a ``Rule`` of ``_drawing``."""

    __slots__ = ("_matcher", "_row")

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._row = np.empty((vocabulary + 31) // 32, dtype=np.int32)  # a bit for each token

    def __repr__(self) -> str:
        return f"<SchemaRule {'complete' if self._matcher.is_accepting() else 'under way'}>"

    def allowed(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        """For each token of the vocabulary: may it come next?  None may, where a text is too much for the library."""
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(self._row.ctypes.data, self._row.nbytes)
        if self._matcher.is_error():
            log.warning("a rule for an answer failed: %s", self._matcher.get_error())
            return np.zeros(vocabulary, np.bool_)
        return np.unpackbits(self._row.view(np.uint8), bitorder="little")[:vocabulary].view(np.bool_)

    def take(self, token: int) -> bool:
        """It is part of the answer.

        :returns: whether nothing may follow: the answer is complete
        """
        return bool(self._matcher.consume_token(token) and self._matcher.is_stopped())


class Grammars:
    """Makes rules for the answers of one model.

    :param tokenizer: its ``tokenizer.json``, the text of it
    :param vocabulary: ids that the model knows
    :param end: the id that ends an answer
    """

    def __init__(self, tokenizer: str, vocabulary: int, end: int) -> None:
        self._tokenizer = llguidance.LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=end)
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[str, Any] = OrderedDict()  # by the grammar, in the library's own form
        self._alone = threading.Lock()

    def __repr__(self) -> str:
        return f"<Grammars {self._vocabulary} tokens>"

    def rule(self, sampling: Sampling) -> SchemaRule | None:
        """What this call's answer must keep to; None: to nothing.  May be called from any thread.

        :raises CannotTake: that is no rule which the library knows
        """
        said = _said(sampling)
        if not said:
            return None
        with self._alone:
            matcher = self._compiled.get(said)
        if matcher is None:
            matcher = llguidance.LLMatcher(self._tokenizer, said, log_level=_QUIET)
            if matcher.is_error():
                raise CannotTake(f"the rule cannot be used: {matcher.get_error().splitlines()[0]}")
        with self._alone:
            self._compiled[said] = matcher
            self._compiled.move_to_end(said)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return SchemaRule(matcher.deep_copy(), self._vocabulary)


def _said(sampling: Sampling) -> str:
    """The library's form of a rule; empty: there is none."""
    make = llguidance.LLMatcher
    if sampling.schema:
        return str(make.grammar_from_json_schema(sampling.schema, defaults={"whitespace_pattern": _BLANKS}))
    # Letter by letter a grammar has too many rows for the library, so as much as can be is an expression.
    if sampling.grammar is None:
        return ""
    if regex := sampling.grammar.regex():
        return str(make.grammar_from_regex(regex))
    return str(make.grammar_from_lark(sampling.grammar.lark()))


__all__ = ["Grammars", "SchemaRule"]
