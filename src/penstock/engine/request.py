"""A request to a local model, from its JSON: what is asked, in token ids, and how the answer is wanted.

The API is OpenAI's, with the members that vLLM adds to it: ``top_k``, ``min_p``, ``repetition_penalty``, ``min_tokens``,
``ignore_eos``, ``stop_token_ids``, ``return_token_ids``, ``continue_final_message``, what rules an answer's form
(``ruled``), and token ids as a prompt.  What a model here cannot do is refused, and not left out in silence: the
caller would take the answer for what it is not.  Members that are not known at all are passed over, as OpenAI's own servers do with many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from penstock.engine.backend import CannotTake, ModelCard, Sampling, Tokenizer
from penstock.engine.body import decoded
from penstock.engine.conversation import MAX_TOOLS, Message, Tool, conversation_ids, offered
from penstock.engine.forced import Forced, forced, keeping_to
from penstock.engine.ruled import ruling
from penstock.engine.unsupported import UnsupportedBody, refuse_unsupported, unsupported
from penstock.errors import BadRequest
from penstock.messages import JSON, Endpoint

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_LETTERS = 1_000
MAX_PROMPTS = 64
MAX_BIASES = 1_024
MAX_BIAS = 100.0
LEAST_TEMPERATURE = 1e-5  # below it logits are too large once they are divided; vLLM has the same
LEAST_PENALTY = 0.01

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(UnsupportedBody, kw_only=True):
    """What chats and completions have in common.  ``None`` is what nobody said: the model's own default counts."""

    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: _Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = 1
    stop: str | list[str] | None = None
    seed: _Seed | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, float] | None = None
    # vLLM's
    top_k: Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(ge=LEAST_PENALTY, le=10)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = 0
    ignore_eos: bool | None = False
    stop_token_ids: list[int] | None = None
    return_token_ids: bool | None = False
    add_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = False
    prompt_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None


class Chat(_Body, kw_only=True):
    """The body of a chat."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = 0
    tools: Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: JSON = None
    parallel_tool_calls: bool | None = None
    functions: list[JSON] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = False
    chat_template_kwargs: dict[str, JSON] | None = None
    reasoning_effort: JSON = None


class _Completion(_Body, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    echo: bool | None = False
    best_of: int | None = 1
    suffix: str | None = None


class Asked(msgspec.Struct, eq=False):
    """One request.  Each of ``prompts`` is answered ``choices`` times."""

    endpoint: Endpoint
    model: str
    prompts: list[list[int]]
    sampling: Sampling
    choices: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool
    running_usage: bool
    wants_ids: bool
    keeps_stop: bool  # the stop sequence that ended it is part of the answer
    echoes: tuple[str, ...] = ()  # what an answer to each prompt begins with
    tools: tuple[str, ...] = ()  # names of those that the model may call
    forced: Forced | None = None  # the one that the answer is a call of

    @property
    def input_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


_chat = msgspec.json.Decoder(Chat).decode
_completion = msgspec.json.Decoder(_Completion).decode
_T = TypeVar("_T")


def read(endpoint: Endpoint, body: bytes, tokenizer: Tokenizer, card: ModelCard) -> Asked:
    """What a body asks for.

    :raises BadRequest: it cannot be computed as asked; ``context_length_exceeded`` if it is too long
    """
    if card.dimensions:
        raise BadRequest("this model makes embeddings and writes no text", param="model")
    try:
        if endpoint is Endpoint.CHAT:
            chat = decoded(body, _chat)
            chosen = forced(chat)
            asked = _asked(endpoint, chat, [conversation_ids(chat, tokenizer)], card, _of_chat(chat))
            if chosen is not None:
                asked.forced, asked.sampling = chosen, keeping_to(asked.sampling, chosen.rule)
            return asked
        completion = decoded(body, _completion)
        prompts = _prompts(completion, tokenizer)
        echoes = _echoes(completion, prompts, tokenizer) if completion.echo else ()
        return _asked(endpoint, completion, prompts, card, _of_completion(completion), echoes)
    except CannotTake as refusal:
        raise BadRequest(str(refusal)) from None


def _asked(
    endpoint: Endpoint,
    body: _Body,
    prompts: list[list[int]],
    card: ModelCard,
    logprobs: tuple[bool, int],
    echoes: tuple[str, ...] = (),
) -> Asked:
    refuse_unsupported(body)
    limit = body.max_tokens
    if isinstance(body, Chat) and body.max_completion_tokens is not None:
        limit = body.max_completion_tokens
    if endpoint is Endpoint.COMPLETIONS and limit is None:
        limit = 16  # as the API has it
    _check_prompts(endpoint, prompts, limit, card)
    options = body.stream_options or _StreamOptions()
    return Asked(
        endpoint=endpoint,
        model=body.model,
        prompts=prompts,
        sampling=_sampling(body, limit, card, *logprobs),
        choices=body.n or 1,
        stops=_stops(body.stop),
        stream=bool(body.stream),
        include_usage=options.include_usage,
        running_usage=options.continuous_usage_stats,
        wants_ids=bool(body.return_token_ids),
        keeps_stop=bool(body.include_stop_str_in_output),
        echoes=echoes,
        tools=tuple(tool.name for tool in offered(body)) if isinstance(body, Chat) else (),
    )


def _sampling(body: _Body, limit: int | None, card: ModelCard, logprobs: bool, top_logprobs: int) -> Sampling:
    usual = card.defaults
    if top_logprobs and not card.draws:
        name = "top_logprobs" if isinstance(body, Chat) else "logprobs"
        raise unsupported(
            name, " above 0 with this backend: only the log probability of the token that was chosen is known"
        )
    if limit is not None and (body.min_tokens or 0) > limit:
        raise BadRequest(f"min_tokens is more than the limit of {limit}", param="min_tokens")
    for token in body.stop_token_ids or ():
        if not 0 <= token < card.vocabulary:
            raise BadRequest(f"stop_token_ids: {token} is no token of this model", param="stop_token_ids")
    rule = ruling(body)
    temperature = _or(body.temperature, usual.temperature)
    return Sampling(
        prompt_logprobs=_of_prompt(body, card),
        max_tokens=limit or 0,
        min_tokens=body.min_tokens or 0,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_p=_or(body.top_p, usual.top_p),
        top_k=max(0, _or(body.top_k, usual.top_k)),
        min_p=_or(body.min_p, usual.min_p),
        seed=body.seed,
        presence_penalty=_or(body.presence_penalty, usual.presence_penalty),
        frequency_penalty=_or(body.frequency_penalty, usual.frequency_penalty),
        repetition_penalty=_or(body.repetition_penalty, usual.repetition_penalty),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        logit_bias=_biases(body.logit_bias or {}, card),
        schema=rule.schema,
        grammar=rule.grammar,
    )


def _of_prompt(body: _Body, card: ModelCard) -> int | None:
    """How many of the likeliest are told with each token of the prompt; None: nothing is told of these."""
    name, wanted = "prompt_logprobs", body.prompt_logprobs
    if isinstance(body, _Completion) and body.echo and body.logprobs is not None:
        if wanted is not None or body.return_token_ids:
            raise unsupported("echo", " with logprobs, beside prompt_logprobs or return_token_ids")
        name, wanted = "echo", body.logprobs
    elif wanted is not None and body.stream:
        raise unsupported("prompt_logprobs", " in a stream")
    if wanted is None:
        return None
    if not card.scores:
        why = (
            " with log probabilities by this model as it is run: with OpenVINO it takes `prefix_cache: false`"
        )
        raise unsupported(name, why)
    if wanted and not card.draws:
        raise unsupported(name, " above 0 with this backend: only the token that is there is known")
    return wanted


def _biases(said: dict[str, float], card: ModelCard) -> tuple[tuple[int, float], ...]:
    if said and not card.draws:
        raise unsupported("logit_bias", " with this backend, whose library chooses the tokens")
    if len(said) > MAX_BIASES:
        raise BadRequest(f"logit_bias is of up to {MAX_BIASES} tokens", param="logit_bias")
    biases = []
    for token, bias in said.items():
        if not (token.isascii() and token.isdigit() and int(token) < card.vocabulary):
            raise BadRequest(f"logit_bias: {token[:20]} is no token of this model", param="logit_bias")
        if not abs(bias) <= MAX_BIAS:
            raise BadRequest(f"logit_bias: a bias is -{MAX_BIAS:.0f} to {MAX_BIAS:.0f}", param="logit_bias")
        biases.append((int(token), bias))
    return tuple(biases)


def _or(said: _T | None, usual: _T) -> _T:
    return usual if said is None else said


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = tuple([stop] if isinstance(stop, str) else stop or ())
    if len(stops) > MAX_STOPS or any(not 0 < len(one) <= MAX_STOP_LETTERS for one in stops):
        raise BadRequest(
            f"stop must be up to {MAX_STOPS} texts of 1 to {MAX_STOP_LETTERS} characters", param="stop"
        )
    return stops


def _check_prompts(endpoint: Endpoint, prompts: list[list[int]], limit: int | None, card: ModelCard) -> None:
    param = "messages" if endpoint is Endpoint.CHAT else "prompt"
    for prompt in prompts:
        if not prompt:
            raise BadRequest(f"{param}: the prompt has no tokens", param=param)
        if min(prompt) < 0 or max(prompt) >= card.vocabulary:
            raise BadRequest(f"{param}: there are ids that are no tokens of this model", param=param)
        length = len(prompt)
        # A prompt that fills the context leaves no room for a single token.
        if length + (limit or 1) > card.context:
            wanted = f" and {limit} for the answer" if limit is not None else ""
            raise BadRequest(
                f"This model's maximum context length is {card.context} tokens. "
                f"However, you requested {length} in the {param}{wanted}.",
                param=param,
                code="context_length_exceeded",
            )


# ---- chats -----------------------------------------------------------------------------------------


def _of_chat(chat: Chat) -> tuple[bool, int]:
    """Check it; whether log probabilities are wanted, and of how many tokens beside those that were chosen."""
    if chat.functions and chat.tool_choice != "none":
        raise unsupported("functions", "; say it with tools")
    if offered(chat):
        if chat.parallel_tool_calls is False and chat.tool_choice in (None, "auto"):
            raise unsupported("parallel_tool_calls", " as false: how many it calls is the model's own choice")
        if rule := ruling(chat).param:
            raise unsupported(rule, " together with tools")
        if chat.continue_final_message:
            raise unsupported("continue_final_message", " together with tools")
    if chat.top_logprobs and not chat.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return bool(chat.logprobs), chat.top_logprobs or 0


# ---- completions -----------------------------------------------------------------------------------


def _of_completion(completion: _Completion) -> tuple[bool, int]:
    """The same for a completion."""
    if completion.suffix:
        raise unsupported("suffix")
    if (completion.best_of or 1) > (completion.n or 1):
        raise unsupported("best_of")
    return completion.logprobs is not None, completion.logprobs or 0


def _prompts(completion: _Completion, tokenizer: Tokenizer) -> list[list[int]]:
    prompt = completion.prompt
    special = completion.add_special_tokens is not False
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt, special=special)]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids:
        if len(ids) != len(prompt):
            raise BadRequest("prompt must be of one kind: texts, or token ids", param="prompt")
        return [ids]
    if not 0 < len(prompt) <= MAX_PROMPTS:
        raise BadRequest(f"prompt must be 1 to {MAX_PROMPTS} texts", param="prompt")
    return [
        tokenizer.encode(item, special=special) if isinstance(item, str) else list(_ids(item))
        for item in prompt
    ]


def _ids(item: int | list[int]) -> Sequence[int]:
    return item if isinstance(item, list) else (item,)


def _echoes(
    completion: _Completion, prompts: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> tuple[str, ...]:
    """The text of each prompt: as it was sent, or of its ids."""
    sent = [completion.prompt] if isinstance(completion.prompt, str) else completion.prompt
    if len(sent) != len(prompts):  # one prompt, of ids
        return tuple(tokenizer.decode(ids) for ids in prompts)
    return tuple(
        item if isinstance(item, str) else tokenizer.decode(ids)
        for item, ids in zip(sent, prompts, strict=True)
    )
