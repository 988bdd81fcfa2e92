"""Rules for answers, compiled beside OpenVINO GenAI's steps.

The library compiles a rule within the first step of an answer that keeps to it, which takes everybody's time, and one that it
refuses there leaves it in a state in which no step succeeds any more.  What it has compiled it keeps with the
tokenizer, for every pipeline that has the same one, for ever: so they are weighed, and forgotten with it when nobody is
computed (``Backend.rest``).  Each rule is given first to another pipeline, whose model says
nothing and costs nothing: what that survives, the steps find compiled.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino import opset13

from penstock.engine import right_linear
from penstock.engine._schema_work import check_work
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.schema_rules import grammar_of
from penstock.errors import Overloaded

MOST_BYTES = 256_000_000  # of rules that the library has compiled and keeps; beyond that no new one is
_KEPT_LETTERS = 4_000_000  # of grammars that were made of schemas


class RuleCompiler:
    """Compiles rules for the answers of one pipeline; used by one thread.

    :param tokenizer: that pipeline's own
    :param width: of its model's logits; no smaller than the tokenizer's vocabulary
    """

    def __init__(self, tokenizer: Any, width: int) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._pipeline: Any = None
        self._known: set[str] = set()  # grammars that are compiled
        self._bytes = 0
        self._compiling = threading.Lock()
        self._alone = threading.Lock()
        self._written: dict[str, str] = {}  # grammars by their schemas, the one that was used last at the end

    def __repr__(self) -> str:
        return f"<RuleCompiler {len(self._known)} rules, some {self._bytes / 1e6:.0f} MB>"

    @property
    def are_many(self) -> bool:
        """Whether they should be forgotten as soon as nobody uses them."""
        return self._bytes > MOST_BYTES // 2

    @contextmanager
    def forgotten(self) -> Iterator[Callable[[Any], None]]:
        """In the block nothing is compiled and no rule is kept; it gives the tokenizer to go on with."""
        with self._compiling:
            self._tokenizer = self._pipeline = None
            self._known.clear()
            self._bytes = 0
            yield partial(setattr, self, "_tokenizer")

    def compile(self, sampling: Sampling) -> None:
        """Have the rule ready for the next step.

        :raises CannotTake: the library does not take it, or would take too long for it
        :raises penstock.errors.Overloaded: there are too many
        """
        rule = self.structured(sampling)
        if rule is None:
            return
        grammar = sampling.grammar
        if (
            grammar is not None
            and not grammar.right_linear()
            and grammar.open_ends() > right_linear.MOST_OPEN
        ):
            raise CannotTake(
                "the rule cannot be used: parts that may end at many places are repeated in one another, and each step "
                "would hold up everybody; give fewer repetitions, or bounds that are smaller"
            )
        with self._compiling:
            if rule.grammar not in self._known:
                self._compile(rule)

    def _compile(self, rule: Any) -> None:
        if self._bytes > MOST_BYTES:
            raise Overloaded(
                "there is no memory for another rule of answers until the model has nothing to do; have few of them, and "
                "not a new one for each call",
                retry_after=1.0,
            )
        if self._pipeline is None:
            self._pipeline = _silent_pipeline(self._tokenizer, self._width)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.ignore_eos = True
        config.structured_output_config = rule
        try:
            self._pipeline.generate(openvino.Tensor(np.zeros((1, 1), dtype=np.int64)), config)
        except RuntimeError as error:
            why = str(error).strip().rpartition("error at ")[2].splitlines()[0][:300]
            raise CannotTake(f"the rule cannot be used: {why}") from error
        self._known.add(rule.grammar)
        self._bytes += self._taken_by(rule.grammar)

    def _taken_by(self, grammar: str) -> int:
        """Bytes, about, and rather too many: measured with 4,096 tokens, and it grows with these."""
        tokens = self._width
        return (
            len(grammar) + grammar.count("::=") * (2_500 + tokens // 4) + grammar.count("[") * 3 * tokens // 2
        )

    def structured(self, sampling: Sampling) -> Any:
        """The library's own form of what an answer keeps to, a grammar; None: it keeps to nothing.

        Not its forms for schemas and expressions: of these it makes automata, which are large for some.  May be
        called by any thread.

        :raises CannotTake: no grammar can be made of the schema
        """
        if sampling.schema:
            return openvino_genai.StructuredOutputConfig(grammar=self._of_schema(sampling.schema))
        if sampling.grammar is not None:
            grammar = sampling.grammar
            return openvino_genai.StructuredOutputConfig(grammar=grammar.right_linear() or grammar.ebnf())
        return None

    def _of_schema(self, schema: str) -> str:
        """What was made in the rules' thread is there for the engine's, which has no time for it."""
        with self._alone:
            written = self._written.pop(schema, None)
        if written is None:
            check_work(schema)
            written = grammar_of(schema)
        with self._alone:
            self._written[schema] = written
            while sum(map(len, self._written.values())) > _KEPT_LETTERS and len(self._written) > 1:
                del self._written[next(iter(self._written))]
        return written


def _silent_pipeline(tokenizer: Any, width: int) -> Any:
    """One whose model has all tokens equally likely."""
    inputs = []
    for name, kind, shape in (
        ("input_ids", np.int64, [-1, -1]),
        ("attention_mask", np.int64, [-1, -1]),
        ("position_ids", np.int64, [-1, -1]),
        ("beam_idx", np.int32, [-1]),
    ):
        given = opset13.parameter(shape, kind, name=name)
        given.output(0).set_names({name})
        inputs.append(given)
    each = opset13.unsqueeze(opset13.convert(inputs[0], "f32"), opset13.constant(np.array([2])))
    logits = opset13.tile(each, opset13.constant(np.array([1, 1, width])))
    logits.output(0).set_names({"logits"})
    model = openvino.Model([opset13.result(logits)], inputs, "silent")
    with tempfile.TemporaryDirectory() as directory:
        openvino.save_model(model, Path(directory) / "openvino_model.xml")
        return openvino_genai.LLMPipeline(
            directory,
            tokenizer,
            "CPU",
            ATTENTION_BACKEND="SDPA",
            INFERENCE_NUM_THREADS=1,
            ENABLE_CPU_PINNING=False,
        )


__all__ = ["RuleCompiler"]
