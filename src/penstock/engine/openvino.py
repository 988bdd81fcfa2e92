"""OpenVINO GenAI as the backend: on CPUs the quickest of those that were tried (docs/decisions/).

Its pipeline batches continuously, keeps keys and values in pages, computes common beginnings once and reads long
prompts in parts, beside the tokens of other answers.  What is ours is to drive it step by step.

A handle that is dropped cancels its generation, so each is kept until its end.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import openvino
import openvino_genai

from penstock.config.model import LocalConfig
from penstock.engine._chat_template import ChatTemplate
from penstock.engine._openvino_rules import RuleCompiler
from penstock.engine.backend import (
    NOTHING,
    CannotTake,
    Finish,
    Logprob,
    ModelCard,
    Progress,
    Sampling,
    check_ends,
    usable,
)
from penstock.engine.memory import cache_pages
from penstock.engine.model_dir import ModelDir, check_memory, in_fp32
from penstock.engine.vocabulary import are_all_of_it
from penstock.errors import ModelUnusable
from penstock.messages import JSON

log = logging.getLogger("penstock.engine")

STEP_TOKENS = 256  # the library's own default
BLOCK = 32  # tokens of one page on a CPU
_UNSAID_CONTEXT = 2_048  # of a model that does not say
_FINISH: dict[Any, Finish] = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}
# A text is short: to share it out among threads costs more than it saves.
FOR_TOKENIZERS = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}
_STATUS = openvino_genai.GenerationStatus


class OpenVINOBackend:
    """One model in OpenVINO's own form.

    :raises penstock.errors.ModelUnusable: it does not fit into memory, or the library cannot use it
    """

    def __init__(self, model: ModelDir, config: LocalConfig) -> None:
        context = model.context or _UNSAID_CONTEXT
        token_bytes = model.cache_bytes * (2 if config.exact or config.cache_precision == "fp32" else 1)
        blocks = cache_pages(config, context, token_bytes, BLOCK)
        told = properties(config, whole=not model.rounded)
        check_memory(in_fp32(model) if computes_in_fp32(told) else model, blocks * BLOCK * token_bytes)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = STEP_TOKENS
        scheduler.max_num_seqs = config.slots + max(1, config.slots // 4)
        scheduler.num_kv_blocks = blocks
        scheduler.enable_prefix_caching = config.prefix_cache
        self._make: Callable[[], Any] = lambda: openvino_genai.ContinuousBatchingPipeline(
            str(model.path), scheduler, "CPU", told, FOR_TOKENIZERS
        )
        try:
            self._pipeline = self._make()
            tokenizer = self._pipeline.get_tokenizer()
            self._tokenizer = OpenVINOTokenizer(tokenizer)
            defaults = self._pipeline.get_config()
        except ValueError as error:
            raise ModelUnusable(f"{model.path} cannot be used: {error}") from error
        except RuntimeError as error:
            raise ModelUnusable(
                f"{model.path} ({model.architecture}) cannot be used by OpenVINO GenAI: {reason(error)}; "
                "is it a text model that was exported with --task text-generation-with-past?"
            ) from error
        self._end = defaults.eos_token_id
        self._ends = set(defaults.stop_token_ids)
        check_ends({self._end, *self._ends} - {-1}, self._tokenizer.vocabulary, model.path)
        self._card = ModelCard(
            directory=str(model.path),
            context=min(context, blocks * BLOCK),
            vocabulary=self._tokenizer.vocabulary,
            backend=f"OpenVINO GenAI {openvino_genai.__version__.partition('-')[0]}",
            step_tokens=STEP_TOKENS,
            defaults=usable(_defaults(defaults)),
            scores=not config.prefix_cache,  # of what is not computed anew nothing is told
        )
        said = model.config.get("vocab_size")
        width = max(self._tokenizer.vocabulary, said if isinstance(said, int) else 0)
        self._rules = RuleCompiler(tokenizer, width)
        self._handles: dict[int, Any] = {}
        self._echoed: dict[int, int] = {}  # tokens of the prompt, which come before the answer's
        self._logged: set[int] = set()  # whose log probabilities are wanted; the library gives them to all

    def __repr__(self) -> str:
        return f"<OpenVINOBackend {self._card.directory}, {len(self._handles)} under way>"

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def tokenizer(self) -> OpenVINOTokenizer:
        return self._tokenizer

    def prepare(self, sampling: Sampling) -> None:
        self._rules.compile(sampling)

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        try:
            self._handles[number] = self._pipeline.add_request(number, ids, self._config(sampling))
        except (RuntimeError, ValueError, TypeError) as error:
            raise CannotTake(reason(error)) from error
        if sampling.logprobs:
            self._logged.add(number)
        if sampling.prompt_logprobs is not None:
            self._echoed[number] = len(prompt)

    def cancel(self, number: int) -> None:
        self._forget(number)
        handle = self._handles.pop(number, None)
        if handle is not None:
            handle.cancel()

    def step(self) -> list[Progress]:
        self._pipeline.step()
        progress = []
        for number, handle in list(self._handles.items()):
            ids: list[int] = []
            logprobs: list[Logprob] = []
            of_prompt: list[Logprob] = []
            finish: Finish = ""
            while handle.can_read():
                for output in handle.read().values():
                    echoed = self._echoed.pop(number, 0)
                    ids += output.generated_ids[echoed:]
                    if number in self._logged:
                        logprobs += map(Logprob, output.generated_log_probs[echoed:])
                    if echoed:  # the first has none
                        of_prompt += map(Logprob, output.generated_log_probs[1:echoed])
                    finish = _FINISH.get(output.finish_reason, "")
            if not finish and handle.get_status() != _STATUS.RUNNING:
                finish = "memory" if handle.get_status() == _STATUS.IGNORED else "stop"
            if finish:
                del self._handles[number]
                self._forget(number)
            if ids or finish:
                progress.append(Progress(number, ids, logprobs, finish, prompt=of_prompt))
        return progress

    def rest(self) -> None:
        """The library forgets no rule: where there are many, it is all made anew, which takes as long as loading."""
        if self._rules.are_many:
            log.info("loading the model anew, because of the memory that rules of answers have taken")
            with self._rules.forgotten() as use, self._tokenizer.exchanged() as exchange:
                del self._pipeline
                self._pipeline = self._make()
                tokenizer = self._pipeline.get_tokenizer()
                exchange(tokenizer)
                use(tokenizer)

    def statistics(self) -> dict[str, float]:
        figures = self._pipeline.get_metrics()
        return {
            "cache_usage_percent": figures.cache_usage,
            "cache_bytes": float(figures.cache_size_in_bytes),
            "scheduled": float(figures.scheduled_requests),
        }

    def _forget(self, number: int) -> None:
        self._logged.discard(number)
        self._echoed.pop(number, None)

    def close(self) -> None:
        self._handles.clear()
        del self._pipeline

    def _config(self, sampling: Sampling) -> Any:
        """The library's own form of it.

        :raises RuntimeError: it contradicts itself
        """
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.min_new_tokens = sampling.min_tokens
        if not sampling.ignore_eos:
            config.eos_token_id = self._end
            config.stop_token_ids = {*self._ends, *sampling.stop_token_ids}
        elif sampling.stop_token_ids:  # the library's own ignore_eos would ignore these as well
            config.stop_token_ids = set(sampling.stop_token_ids)
        else:
            config.ignore_eos = True
        config.apply_chat_template = False
        config.echo = sampling.prompt_logprobs is not None
        config.logprobs = int(sampling.logprobs or config.echo)
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            # Left to itself, the library gives every call the same seed, and the same question the same answer.
            seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
            config.rng_seed = seed % 2**64
        if (rule := self._rules.structured(sampling)) is not None:
            config.structured_output_config = rule
        config.validate()
        return config


class OneWayTokenizer:
    """Text to ids; the way back needs a graph that encoders come without.

    Two threads within the library's at once wait for each other for ever, and with them whoever needs the
    interpreter's lock: one of them holds that, the other one what is computed with.  So only one is let in.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._alone = threading.RLock()

    def __repr__(self) -> str:
        return "<OneWayTokenizer>"

    @contextmanager
    def exchanged(self) -> Iterator[Callable[[Any], None]]:
        """In the block it is nobody's, and is given another of the library's of the same kind."""
        with self._alone:
            self._tokenizer = None
            yield partial(setattr, self, "_tokenizer")

    def encode(self, text: str, *, special: bool) -> list[int]:
        with self._alone:
            encoded = self._tokenizer.encode(text, add_special_tokens=special)
            ids: list[int] = encoded.input_ids.data[0].tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        del ids
        return ""

    def render(
        self,
        messages: Sequence[JSON],
        *,
        answer: bool,
        tools: Sequence[JSON] = (),
        more: Mapping[str, JSON] = NOTHING,
    ) -> str:
        del messages, answer, tools, more
        raise CannotTake("the model makes embeddings and has no chat template")

    def pieces(self) -> list[bytes] | None:
        return None


class OpenVINOTokenizer(OneWayTokenizer):
    """The tokenizer of a pipeline: both ways.

    :raises ValueError: its chat template makes no sense
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._words: dict[bytes, int] = tokenizer.get_vocab()
        self.vocabulary = max(self._words.values(), default=0) + 1
        source = tokenizer.get_original_chat_template()
        tokens = {
            "bos_token": tokenizer.get_bos_token(),
            "eos_token": tokenizer.get_eos_token(),
            "pad_token": tokenizer.get_pad_token(),
        }
        # The library's own reading of it has less of the language, and ends the process where one divides by zero.
        self._template = ChatTemplate(source, {k: v for k, v in tokens.items() if v}) if source else None

    def __repr__(self) -> str:
        return f"<OpenVINOTokenizer {self.vocabulary} tokens>"

    def decode(self, ids: Sequence[int]) -> str:
        with self._alone:
            return str(self._tokenizer.decode(list(ids))) if ids else ""

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
        """The vocabulary's bytes, if putting them together is what this tokenizer does: that is tried out."""
        with self._alone:
            alone = self._tokenizer.decode([[token] for token in range(self.vocabulary)])
        pieces = [b""] * self.vocabulary
        for word, token in self._words.items():
            if alone[token]:  # what stands for no text has none
                pieces[token] = word
        return pieces if are_all_of_it(pieces, alone, self.decode) else None


def properties(config: LocalConfig, *, cache: bool = True, whole: bool = False) -> dict[str, Any]:
    """What the library is told.

    :param cache: the model keeps keys and values
    :param whole: its weights are floating-point numbers, and not rounded to integers
    """
    # Threads that stay on one core each wait there for whoever else is on it.
    told: dict[str, Any] = {"ENABLE_CPU_PINNING": False}
    if config.threads:
        told["INFERENCE_NUM_THREADS"] = config.threads
    if config.exact:
        told["INFERENCE_PRECISION_HINT"] = "f32"
        told["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if not cache:
        return told
    if config.cache_precision == "fp32" or (whole and _computes_alone(config)):
        # In bf16 the library keeps no keys and values in fp32; and with a single thread, where weights are not
        # rounded, it divides by zero while it is made: https://github.com/openvinotoolkit/openvino/issues/33300
        told["INFERENCE_PRECISION_HINT"] = "f32"
    if config.threads:
        told["sampler_num_threads"] = config.threads  # it draws with as many as there are cores otherwise
    if config.exact or config.cache_precision == "fp32":
        told["KV_CACHE_PRECISION"] = "f32"
    elif config.cache_precision == "int8":
        told["KV_CACHE_PRECISION"] = "u8"
    return told


def _computes_alone(config: LocalConfig) -> bool:
    """Whether there is one thread that computes, because that is wanted or there is no other core."""
    return config.threads == 1 or (hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1)


def computes_in_fp32(told: Mapping[str, Any]) -> bool:
    """Whether it does so with these properties: by itself in bf16 or fp16, where the processor has one of them."""
    abilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return told.get("INFERENCE_PRECISION_HINT") == "f32" or {"BF16", "FP16"}.isdisjoint(abilities)


def _defaults(config: Any) -> Sampling:
    """What the model's own ``generation_config.json`` says."""
    return Sampling(
        temperature=config.temperature if config.do_sample else 0.0,
        top_p=config.top_p,
        top_k=config.top_k if config.top_k < 2**31 else 0,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
    )


def reason(error: Exception) -> str:
    """The sentence of an error of OpenVINO's, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[-1]
