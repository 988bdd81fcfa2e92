"""Transformers as the backend: any causal language model of Hugging Face's, as it is.

Its continuous batching keeps keys and values in pages, computes common beginnings once and reads long prompts in
parts.  It is written to run a thread of its own; here it is driven step by step, with an attention and a drawing of
our own (``_attention``, ``_drawing``), which is why its minor version is pinned: these are not its public names.

What it computes with pages is compared with what the model says without, before anybody is answered: an
architecture whose attention is of another kind would go wrong without a word.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from penstock.config.model import LocalConfig
from penstock.engine import _attention, _packed
from penstock.engine._drawing import Drawing, Rule, contradiction, draw_all
from penstock.engine._hf_tokenizer import HFTokenizer
from penstock.engine.backend import CannotTake, ModelCard, Progress, Sampling, check_ends, usable
from penstock.engine.grammar import Grammars
from penstock.engine.memory import cache_pages
from penstock.engine.model_dir import ModelDir, check_memory, in_fp32
from penstock.errors import ModelUnusable

PAGE = 32  # tokens of one page
STEP_TOKENS = 256
_UNSAID_CONTEXT = 2_048  # of a model that does not say
_PROBES = (40, 7)  # tokens of the prompts by which pages are tried out
_PROBE_TOKENS = 3
_NEAR = 1e-2  # log probabilities that are the same but for rounding
_QUESTION = "is it a causal language model that the library knows itself, and is all of it there?"


class TransformersBackend:
    """One model as Hugging Face has it, in fp32 on the CPU.  Weights are read from safetensors only.

    :raises penstock.errors.ModelUnusable: it does not fit into memory, or the library cannot batch it
    """

    def __init__(self, model: ModelDir, config: LocalConfig) -> None:
        if config.cache_precision == "int8":
            raise ModelUnusable(
                f"{model.path}: transformers keeps keys and values as they are computed: "
                "leave cache_precision out, or convert the model for OpenVINO"
            )
        quiet(config)
        context, token_bytes, head_bytes = _sizes(model)
        pages = max(2, cache_pages(config, context, token_bytes, PAGE))
        check_memory(in_fp32(model), pages * PAGE * token_bytes + head_bytes)
        seats = config.slots + max(1, config.slots // 4)
        self._drawings: dict[int, Drawing] = {}
        self._drawn: list[Progress] = []
        self._room = _attention.Room()
        try:
            self._model = loaded(AutoModelForCausalLM, model)
            vocabulary = int(self._model.get_input_embeddings().num_embeddings)
            probes = _probe_prompts(vocabulary)
            expected = [_plainly(self._model, prompt) for prompt in probes]
            _packed.pack(self._model, lambda: _is_near(_plainly(self._model, probes[-1]), expected[-1]))
            self._manager = _manager(self._model, config, pages, seats)
            self._processor: Any = self._manager.batch_processor
            self._processor.model_runner._sample = self._sample  # noqa: SLF001 - see above
            self._given = self._processor.inputs_and_outputs.get_model_kwargs
            self._processor.inputs_and_outputs.get_model_kwargs = self._give
            self._tokenizer = HFTokenizer(model.path, vocabulary)
            self._ends = _ends(self._model.generation_config.eos_token_id, self._tokenizer.end)
            check_ends(self._ends, vocabulary, model.path)
            source = self._tokenizer.source
            self._grammars = Grammars(source, vocabulary, min(self._ends)) if source and self._ends else None
            self._card = ModelCard(
                directory=str(model.path),
                # One page is more than the library asks for, whatever it needs.
                context=min(context, (pages - 1) * PAGE),
                vocabulary=vocabulary,
                backend=f"transformers {transformers.__version__}",
                step_tokens=max(STEP_TOKENS, seats),
                draws=True,
                defaults=usable(_defaults(self._model.generation_config)),
            )
            self._try_out(probes, expected)
        except ModelUnusable:
            raise
        except Exception as error:  # what makes no sense is told by any kind of error, of any library below
            raise unusable(model, error, _QUESTION) from error

    def __repr__(self) -> str:
        return f"<TransformersBackend {self._card.directory}, {len(self._drawings)} under way>"

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def tokenizer(self) -> HFTokenizer:
        return self._tokenizer

    def prepare(self, sampling: Sampling) -> None:
        self._rule(sampling)

    def add(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        if why := contradiction(sampling):
            raise CannotTake(why)
        drawing = Drawing(prompt, sampling, self._ends, self._rule(sampling))
        self._drawings[number] = drawing
        self._manager.input_queue.put(
            RequestState(
                request_id=str(number),
                initial_tokens=list(prompt),
                max_new_tokens=sampling.max_tokens,
                eos_token_id=sorted(drawing.ends),
            )
        )

    def cancel(self, number: int) -> None:
        if self._drawings.pop(number, None) is not None:
            self._manager.cancel_request(str(number))
            # Set while the cache is full, and taken back only where an answer ends by itself.
            self._processor.scheduler.block_new_requests = False

    def step(self) -> list[Progress]:
        processor = self._processor
        self._drawn = []
        # A step is some thousand small operations; this way none of them keeps account for gradients.
        with torch.inference_mode():
            has_work = processor.prepare_next_batch()
            if has_work:
                processor._generation_step(self._model)  # noqa: SLF001
                processor.update_batch()
        if not has_work and self._drawings:
            raise RuntimeError("transformers has nothing to compute, and answers are under way")
        self._drop_outputs()
        for progress in self._drawn:
            if self._drawings[progress.number].ended_by_rule:
                self.cancel(progress.number)  # of rules the library knows nothing
            elif progress.finish:
                del self._drawings[progress.number]
        return self._drawn

    def rest(self) -> None:
        """Nothing gathers here."""

    def statistics(self) -> dict[str, float]:
        cache = self._processor.cache
        used = 1 - cache.get_num_free_blocks() / cache.num_blocks
        return {
            "cache_usage_percent": 100 * used,
            "cache_bytes": float(sum(2 * layer.numel() * layer.itemsize for layer in cache.key_cache)),
            "scheduled": float(len(self._processor.scheduler.active_requests)),
        }

    def close(self) -> None:
        self._drawings.clear()
        self._manager.destroy()
        del self._manager, self._processor, self._model

    def _rule(self, sampling: Sampling) -> Rule | None:
        if self._grammars is not None:
            return self._grammars.rule(sampling)
        if sampling.is_ruled:
            raise CannotTake("this model's answers cannot be ruled: its tokenizer is not a quick one")
        return None

    def _give(self, *, use_padding: bool = False) -> dict[str, Any]:
        """What the model gets for a step: as the library has it, and how attention goes about it."""
        given: dict[str, Any] = self._given(use_padding=use_padding)
        return given | {"plans": _attention.plans(given), "room": self._room}

    def _sample(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """In the place of the library's own: a token for each request that has read its prompt.

        :param scores: (1, at least as many, vocabulary)
        :param output_ids: (1, places), which are filled in the same order
        """
        numbers = [
            int(future.state.request_id)
            for future in self._processor.inputs_and_outputs.requests_in_batch
            if future.has_new_token
        ]
        if not numbers:
            return
        drawings = [self._drawings[number] for number in numbers]
        tokens, logprobs = draw_all(scores[0, : len(numbers)].float().numpy(), drawings)
        output_ids[0, : len(numbers)] = torch.tensor(tokens, dtype=output_ids.dtype)
        self._drawn = [
            Progress(number, [token], [] if logprob is None else [logprob], drawing.finish)
            for number, token, logprob, drawing in zip(numbers, tokens, logprobs, drawings, strict=True)
        ]

    def _drop_outputs(self) -> None:
        """The library tells of ended answers in a queue of its own; they are known already."""
        outputs = self._manager.output_router.output_queue
        while True:
            try:
                output = outputs.get_nowait()
            except queue.Empty:
                return
            if output.status == RequestStatus.FAILED:
                raise RuntimeError(f"transformers gave an answer up: {output.error}")

    def _try_out(self, prompts: list[list[int]], expected: list[list[tuple[int, float]]]) -> None:
        """Compare a few tokens with what the model said without pages.

        :raises ValueError: they are others
        """
        told: dict[int, list[tuple[int, float]]] = {}
        sampling = Sampling(max_tokens=_PROBE_TOKENS, temperature=0.0, ignore_eos=True, logprobs=True)
        for number, prompt in enumerate(prompts, start=-len(prompts)):
            told[number] = []
            self.add(number, prompt, sampling)
        while self._drawings:
            for progress in self.step():
                told[progress.number].append((progress.ids[0], progress.logprobs[0].value))
        if not all(map(_is_near, told.values(), expected)):
            raise ValueError("with its keys and values in pages it says something else than without")


def _is_near(said: Sequence[tuple[int, float]], wanted: Sequence[tuple[int, float]]) -> bool:
    """Whether tokens and their log probabilities are the same but for rounding."""
    for (token, logprob), (right, sure) in zip(said, wanted, strict=True):
        if not abs(logprob - sure) <= _NEAR:
            return False
        if token != right:
            break  # two that are equally likely
    return True


def _sizes(model: ModelDir) -> tuple[int, int, int]:
    """What the model takes besides its weights, whatever its configuration calls it.

    :returns: its context; the bytes of one token's keys and values; those of the last layer in the order that it is
        computed in, where its weights are the embedding's and both have to be there

    :raises penstock.errors.ModelUnusable: the library does not know such a model
    """
    try:
        config = AutoConfig.from_pretrained(
            model.path, trust_remote_code=False, local_files_only=True
        ).get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        context = getattr(config, "max_position_embeddings", None) or _UNSAID_CONTEXT
        head = config.vocab_size * config.hidden_size if getattr(config, "tie_word_embeddings", False) else 0
        of_token = 2 * config.num_hidden_layers * heads * size
        return int(context), of_token * torch.float32.itemsize, head * torch.float32.itemsize
    except Exception as error:  # any kind, see above
        raise unusable(model, error, _QUESTION) from error


def quiet(config: LocalConfig) -> None:
    """Have the libraries compute with as many threads as they are to, and say nothing meanwhile."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    if config.threads:
        torch.set_num_threads(config.threads)


def loaded(kind: Any, model: ModelDir) -> Any:
    """The weights in fp32, as the model that its configuration names; no code of its own, no pickle.

    :param kind: one of the library's ``AutoModel`` classes
    :raises ValueError: there are tensors missing, or of another shape
    """
    found, told = kind.from_pretrained(
        model.path,
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told, and named below
    )
    # An encoder is often stored without the layer that was put on top of it for training.
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, {missing[0]} for one")
    for name, stored, wanted in sorted(told["mismatched_keys"])[:1]:
        raise ValueError(f"{name} is {tuple(stored)} in its file and {tuple(wanted)} by config.json")
    return found.eval()


def _manager(model: Any, config: LocalConfig, pages: int, seats: int) -> Any:
    """The library's batching, without the thread that would drive it."""
    _attention.register()
    model.set_attn_implementation(_attention.NAME)
    if model.config.get_text_config()._attn_implementation != _attention.NAME:  # noqa: SLF001
        raise ValueError("its attention cannot be exchanged")
    batching = ContinuousBatchingConfig(
        block_size=PAGE,
        num_blocks=pages,
        max_batch_tokens=max(STEP_TOKENS, seats),
        max_requests_per_batch=seats,
        max_memory_percent=1.0,
        allow_block_sharing=config.prefix_cache,
        use_async_batching=False,
        use_cuda_graph=False,
    )
    # Nothing of what a call may say: that is ours to do.
    plain = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(generation_config=plain, continuous_batching_config=batching)
    manager.warmup()
    return manager


def _ends(said: int | list[int] | None, of_tokenizer: int | None) -> frozenset[int]:
    if said is None:
        said = of_tokenizer
    return frozenset([said] if isinstance(said, int) else said or ())


def _defaults(said: Any) -> Sampling:
    """What the model's own ``generation_config.json`` says."""
    return Sampling(
        temperature=float(said.temperature or 1.0) if said.do_sample else 0.0,
        top_p=float(said.top_p or 1.0),
        top_k=int(said.top_k or 0),
        min_p=float(said.min_p or 0.0),
        repetition_penalty=float(said.repetition_penalty or 1.0),
    )


def _probe_prompts(vocabulary: int) -> list[list[int]]:
    return [[(7 + 31 * place * place) % vocabulary for place in range(length)] for length in _PROBES]


def _plainly(model: Any, prompt: list[int]) -> list[tuple[int, float]]:
    """What the model says to a prompt without a cache: the likeliest tokens, and how sure it is of them."""
    said: list[tuple[int, float]] = []
    for _ in range(_PROBE_TOKENS):
        ids = torch.tensor([[*prompt, *(token for token, _ in said)]])
        with torch.no_grad():
            shares = model(input_ids=ids, use_cache=False).logits[0, -1].float().log_softmax(0)
        token = int(shares.argmax())
        said.append((token, float(shares[token])))
    return said


def unusable(model: ModelDir, error: Exception, question: str) -> ModelUnusable:
    """The error for a model that the library cannot use, for a reason of its own."""
    why = " ".join(str(error).split())[:400] or type(error).__name__
    return ModelUnusable(
        f"{model.path} ({model.architecture}) cannot be used by transformers {transformers.__version__}: {why}; {question}"
    )
