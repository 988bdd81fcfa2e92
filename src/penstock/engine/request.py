"""A request to a local model, from its JSON: what is asked, in token ids, and how the answer is wanted.

The API is OpenAI's, with the members that vLLM adds to it: ``top_k``, ``min_p``, ``repetition_penalty``, ``min_tokens``,
``ignore_eos``, ``stop_token_ids``, ``return_token_ids``, ``continue_final_message``, what rules an answer's form
(``ruled``), and token ids as a prompt.  What a model here cannot do is refused, and not left out in silence: the
caller would take the answer for what it is not.  Members that are not known at all are passed over, as OpenAI's own servers do with many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from penstock.engine.backend import CannotTake, ModelCard, Sampling, Tokenizer
from penstock.engine.ruled import RuledBody, ruling
from penstock.errors import BadRequest
from penstock.messages import JSON, Endpoint
from penstock.wire.not_json import NOT_JSON

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_LETTERS = 1_000
MAX_PROMPTS = 64
MAX_TOOLS = 128

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(RuledBody, kw_only=True):
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
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = 0
    ignore_eos: bool | None = False
    stop_token_ids: list[int] | None = None
    return_token_ids: bool | None = False
    prompt_logprobs: int | None = None


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _CalledFunction(msgspec.Struct):
    name: str
    arguments: str = "{}"  # JSON text


class _ToolCall(msgspec.Struct):
    function: _CalledFunction
    id: str = ""
    type: str = "function"


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


class _Function(msgspec.Struct, omit_defaults=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    description: str = ""
    parameters: dict[str, JSON] = {}


class _Tool(msgspec.Struct):
    type: Literal["function"]
    function: _Function


class _Chat(_Body, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = 0
    tools: Annotated[list[_Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: JSON = None
    parallel_tool_calls: bool | None = None
    functions: list[JSON] | None = None
    audio: JSON = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = False


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
    tools: tuple[str, ...] = ()  # names of those that the model may call

    @property
    def input_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


_chat = msgspec.json.Decoder(_Chat).decode
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
            chat = _chat(body)
            return _asked(endpoint, chat, [_chat_prompt(chat, tokenizer)], card, _of_chat(chat))
        completion = _completion(body)
        return _asked(
            endpoint, completion, _prompts(completion.prompt, tokenizer), card, _of_completion(completion)
        )
    except msgspec.ValidationError as error:
        text = str(error)
        param = text.rpartition("at `$.")[2].rstrip("`") if "at `$." in text else None
        raise BadRequest(text, param=param) from None
    except NOT_JSON as error:
        raise BadRequest(f"the body is no JSON: {error}", code="invalid_json") from None
    except CannotTake as refusal:
        raise BadRequest(str(refusal)) from None


def _asked(
    endpoint: Endpoint, body: _Body, prompts: list[list[int]], card: ModelCard, logprobs: bool
) -> Asked:
    if body.logit_bias:
        raise _unsupported("logit_bias")
    if body.prompt_logprobs is not None:
        raise _unsupported("prompt_logprobs", ": only those of the answer's tokens are known")
    limit = body.max_tokens
    if isinstance(body, _Chat) and body.max_completion_tokens is not None:
        limit = body.max_completion_tokens
    if endpoint is Endpoint.COMPLETIONS and limit is None:
        limit = 16  # as the API has it
    _check_prompts(endpoint, prompts, limit, card)
    options = body.stream_options or _StreamOptions()
    return Asked(
        endpoint=endpoint,
        model=body.model,
        prompts=prompts,
        sampling=_sampling(body, limit, logprobs, card),
        choices=body.n or 1,
        stops=_stops(body.stop),
        stream=bool(body.stream),
        include_usage=options.include_usage,
        running_usage=options.continuous_usage_stats,
        wants_ids=bool(body.return_token_ids),
        tools=tuple(tool.function.name for tool in _offered(body)) if isinstance(body, _Chat) else (),
    )


def _sampling(body: _Body, limit: int | None, logprobs: bool, card: ModelCard) -> Sampling:
    usual = card.defaults
    if limit is not None and (body.min_tokens or 0) > limit:
        raise BadRequest(f"min_tokens is more than the limit of {limit}", param="min_tokens")
    for token in body.stop_token_ids or ():
        if not 0 <= token < card.vocabulary:
            raise BadRequest(f"stop_token_ids: {token} is no token of this model", param="stop_token_ids")
    rule = ruling(body)
    return Sampling(
        max_tokens=limit or 0,
        min_tokens=body.min_tokens or 0,
        temperature=_or(body.temperature, usual.temperature),
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
        schema=rule.schema,
        regex=rule.regex,
    )


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


def _unsupported(param: str, why: str = "") -> BadRequest:
    return BadRequest(
        f"{param} is not supported by local models{why}", param=param, code="unsupported_parameter"
    )


# ---- chats -----------------------------------------------------------------------------------------


def _of_chat(chat: _Chat) -> bool:
    if chat.functions and chat.tool_choice != "none":
        raise _unsupported("functions", "; say it with tools")
    if chat.tools and chat.tool_choice not in (None, "auto", "none"):
        raise _unsupported("tool_choice", " but as auto or none: what the model calls is its own choice")
    if _offered(chat):
        if chat.parallel_tool_calls is False:
            raise _unsupported(
                "parallel_tool_calls", " as false: how many it calls is the model's own choice"
            )
        if rule := ruling(chat).param:
            raise _unsupported(rule, " together with tools")
        if chat.continue_final_message:
            raise _unsupported("continue_final_message", " together with tools")
    if chat.audio is not None:
        raise _unsupported("audio")
    if chat.top_logprobs:
        raise _unsupported("top_logprobs", ", only the log probability of the token that was chosen is known")
    return bool(chat.logprobs)


def _chat_prompt(chat: _Chat, tokenizer: Tokenizer) -> list[int]:
    messages: list[JSON] = [_plain(message, place) for place, message in enumerate(chat.messages)]
    continued = bool(chat.continue_final_message)
    answer = not continued if chat.add_generation_prompt is None else chat.add_generation_prompt
    if continued and answer:
        raise BadRequest(
            "continue_final_message and add_generation_prompt contradict each other",
            param="continue_final_message",
        )
    tools: list[JSON] = [
        {"type": "function", "function": msgspec.to_builtins(tool.function)} for tool in _offered(chat)
    ]
    text = tokenizer.render(messages, answer=answer, tools=tools)
    if tools and text == tokenizer.render(messages, answer=answer):
        raise _unsupported("tools", " of this kind: the model's chat template does not tell it of any")
    if continued:
        text = _open_end(text, messages[-1]["content"])
    return tokenizer.encode(text, special=False)


def _offered(chat: _Chat) -> list[_Tool]:
    return (chat.tools or []) if chat.tool_choice != "none" else []


def _open_end(text: str, content: str) -> str:
    """A rendered conversation up to the end of its last message's text; a template may have stripped that."""
    for wanted in (content, content.strip()):
        at = text.rfind(wanted) if wanted else -1
        if at >= 0:
            return text[: at + len(wanted)]
    raise BadRequest("the last message cannot be continued: its text is not in the prompt", param="messages")


def _plain(message: _Message, place: int) -> dict[str, JSON]:
    content = message.content
    if isinstance(content, list):
        for part in content:
            if part.type != "text":
                raise _unsupported(f"messages[{place}].content", f", of the type {part.type}")
        content = "\n".join(part.text for part in content)
    plain: dict[str, JSON] = {"role": message.role, "content": content or ""}
    if message.tool_calls:
        plain["tool_calls"] = [_call(call, f"messages[{place}].tool_calls") for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None and message.role == "tool":
        plain["name"] = message.name
    return plain


def _call(call: _ToolCall, where: str) -> JSON:
    """As templates want it: the arguments are no text."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, JSON])
    except NOT_JSON as error:
        raise BadRequest(f"{where}: the arguments are no JSON object: {error}", param=where) from None
    return {
        "id": call.id,
        "type": call.type,
        "function": {"name": call.function.name, "arguments": arguments},
    }


# ---- completions -----------------------------------------------------------------------------------


def _of_completion(completion: _Completion) -> bool:
    if completion.echo:
        raise _unsupported("echo")
    if completion.suffix:
        raise _unsupported("suffix")
    if (completion.best_of or 1) > (completion.n or 1):
        raise _unsupported("best_of")
    if completion.logprobs:
        raise _unsupported(
            "logprobs", " above 0: only the log probability of the token that was chosen is known"
        )
    return completion.logprobs is not None


def _prompts(prompt: str | list[str | int | list[int]], tokenizer: Tokenizer) -> list[list[int]]:
    if isinstance(prompt, str):
        return [tokenizer.encode(prompt, special=True)]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids:
        if len(ids) != len(prompt):
            raise BadRequest("prompt must be of one kind: texts, or token ids", param="prompt")
        return [ids]
    if not 0 < len(prompt) <= MAX_PROMPTS:
        raise BadRequest(f"prompt must be 1 to {MAX_PROMPTS} texts", param="prompt")
    return [
        tokenizer.encode(item, special=True) if isinstance(item, str) else list(_ids(item)) for item in prompt
    ]


def _ids(item: int | list[int]) -> Sequence[int]:
    return item if isinstance(item, list) else (item,)
