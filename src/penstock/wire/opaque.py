"""Requests and answers that go through as bytes: what the gateway reads of them, and no more.

Of a request that is the model's name, of an answer what it used, as its provider tells it:

================================  ==========================================================================
images                            ``usage`` in tokens (gpt-image-1), and how many there are
transcriptions, translations      ``usage`` in tokens, or in seconds; else the ``duration`` of a verbose answer
speech                            nothing, but in its last event: so the characters of its text are counted here
rerank                            ``meta.billed_units.search_units`` (Cohere), ``usage`` in tokens (Jina, vLLM)
moderations                       nothing, for they are free; ``usage`` in tokens (Mistral)
================================  ==========================================================================
"""

from __future__ import annotations

import math

import msgspec

from penstock.errors import BadRequest, UpstreamBroken
from penstock.messages import Call, Endpoint, Event, Headers, Usage
from penstock.wire import form, problems, request, sse
from penstock.wire._json_values import check_asked
from penstock.wire.not_json import NOT_JSON, why_not_json
from penstock.wire.usage import BESIDE, MAX_TOKENS, estimate_tokens

DEFAULT_MODERATION = "omni-moderation-latest"
"""What OpenAI takes for the model of a moderation that names none."""

MAX_UNITS = MAX_TOKENS  # more than anybody is charged for; a larger figure would spoil every sum

MAX_IMAGES = 128
"""Of one request: more than any provider draws, whatever is asked for."""

_DONE = b"[DONE]"
_NULL = msgspec.Raw(b"null")
_SPEECH, _MODERATIONS, _RERANK = Endpoint.SPEECH, Endpoint.MODERATIONS, Endpoint.RERANK
_IMAGES = frozenset(endpoint for endpoint in Endpoint if endpoint.unit == "images")
_HEARD = frozenset({Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS})
_FORMS = _HEARD | {Endpoint.IMAGES_EDITS, Endpoint.IMAGES_VARIATIONS}

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_integer = msgspec.json.Decoder(int, strict=False).decode  # a form has all numbers as text

# What an answer has and the report of an error has not.
_SUBSTANCE = frozenset({"data", "results", "text", "segments", "words", "task"})


# ---- requests --------------------------------------------------------------------------------------


class Opening(msgspec.Struct, frozen=True):
    """A request: see ``messages.Call`` for ``fields`` and ``body``."""

    fields: dict[str, msgspec.Raw]
    body: bytes
    model: str


def read(endpoint: Endpoint, headers: Headers, body: bytes) -> Opening:
    """Find the model that a request names.

    :raises BadRequest: neither JSON nor a form, of too many values, or without a model; ``param`` names what is wrong
    """
    kind = headers.get(b"content-type", b"")
    fields: dict[str, msgspec.Raw]
    if endpoint in _FORMS and kind[:10].lower() == b"multipart/":
        found = form.read(kind, body)
        fields, body, model = found.fields, found.body, found.model
    else:
        check_asked(body)
        try:
            fields = _members(body)
        except NOT_JSON as error:
            if endpoint in _FORMS and not body.startswith(b"{"):
                raise BadRequest(
                    f"{endpoint.path} takes multipart/form-data, or JSON", code="invalid_form"
                ) from None
            raise BadRequest(why_not_json(body, error), code="invalid_json") from None
        request.check_names(fields)
        model = _model(fields)
        if model is None and endpoint is _MODERATIONS:
            model = DEFAULT_MODERATION
            body = request.rewritten(fields, model)
            fields = _members(body)
    if model is None:
        raise BadRequest("the body must name a model", param="model", code="missing_parameter")
    if not model or len(model) > 256:
        raise BadRequest("model must be a string of 1 to 256 characters", param="model")
    return Opening(fields, body, model)


def _model(fields: dict[str, msgspec.Raw]) -> str | None:
    try:
        return _string(fields["model"]) if "model" in fields else None
    except NOT_JSON:
        raise BadRequest("model must be a string", param="model", code="invalid_type") from None


def renamed(call: Call, model: str) -> bytes:
    """The request's body for an upstream that knows the model by this name."""
    if form.is_form(call.body):
        return form.renamed(call.body, model)
    return request.rewritten(call.fields, model)


def content_type(call: Call) -> bytes:
    """That of :func:`renamed`."""
    return form.content_type(call.body) if form.is_form(call.body) else b"application/json"


def prompt_tokens(call: Call) -> int:
    """What is reserved for a request, by its size; what a file will cost, nobody knows before."""
    if form.is_form(call.body):  # its fields have the digests of its files
        return estimate_tokens(sum(len(bytes(value)) for value in call.fields.values()))
    return estimate_tokens(len(call.body))


def wanted(call: Call) -> int:
    """How many answers a stream holds: each image has an end of its own."""
    asked = call.fields.get("n")
    if asked is None or call.endpoint not in _IMAGES:
        return 1
    try:
        return max(1, _integer(asked))
    except NOT_JSON:
        return 1


def units(call: Call) -> int:
    """How much that is not counted in tokens a request asks for, as far as it tells; reserved before it is made."""
    if call.endpoint in _IMAGES:
        return min(wanted(call), MAX_IMAGES)
    if call.endpoint is _SPEECH:
        return characters(call)
    return 1 if call.endpoint is _RERANK else 0


def characters(call: Call) -> int:
    """Of the text that is to be spoken: what providers charge for that count by them."""
    try:
        return len(_string(call.fields["input"]))
    except (*NOT_JSON, KeyError):
        return 0


# ---- answers ---------------------------------------------------------------------------------------


def is_whole(endpoint: Endpoint, kind: bytes) -> bool:
    """Whether an answer of this media type is an answer in one piece; if not, it goes on as it comes.

    :raises UpstreamBroken: it is no answer at all, but somebody's web page, say
    """
    kind = kind.partition(b";")[0].strip().lower()
    if kind.endswith(b"json") or (not kind and endpoint is not _SPEECH):
        return True
    if endpoint is _SPEECH and not kind.startswith(b"text/"):
        return False
    if endpoint in _HEARD and kind.startswith((b"text/", b"application/")) and kind != b"text/html":
        return True  # subtitles have many names
    raise UpstreamBroken("the upstream answered with something else than was asked for")


class _InputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None
    image_tokens: int | None = None
    audio_tokens: int | None = None


class _Used(msgspec.Struct, frozen=True):
    """What providers call it."""

    input_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    input_token_details: _InputDetails | None = None  # so the transcriptions have it
    prompt_tokens_details: _InputDetails | None = None
    seconds: float | None = None


class _Billed(msgspec.Struct, frozen=True):
    search_units: float | None = None


class _Meta(msgspec.Struct, frozen=True):
    billed_units: _Billed | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Used | None = None
    meta: _Meta | None = None
    data: list[msgspec.Raw] | None = None
    duration: float | None = None


_answer = msgspec.json.Decoder(_Answer, strict=False).decode
_NO_DETAILS = _InputDetails()


def usage_of(endpoint: Endpoint, body: bytes) -> Usage | None:
    """What an answer in JSON says that it used; None: it does not say."""
    try:
        told = _answer(body)
    except NOT_JSON:
        return None
    units = 0
    if endpoint in _IMAGES:
        units = len(told.data or ())
    elif endpoint in _HEARD:
        seconds = told.duration if told.usage is None else told.usage.seconds
        units = _count(seconds or 0.0, 1_000)
    elif endpoint is _RERANK and told.meta is not None and told.meta.billed_units is not None:
        units = _count(told.meta.billed_units.search_units or 0.0)
    found = _neutral(told.usage, units) if told.usage is not None else None
    if found is None and (units or endpoint is _MODERATIONS):
        return Usage(units=units)
    return found


def _neutral(told: _Used, units: int) -> Usage | None:
    given = told.input_tokens_details or told.input_token_details or told.prompt_tokens_details or _NO_DETAILS
    inputs = told.input_tokens if told.input_tokens is not None else told.prompt_tokens
    output = told.output_tokens if told.output_tokens is not None else told.completion_tokens
    if inputs is None:
        if told.total_tokens is None and not units:
            return None
        inputs = (told.total_tokens or 0) - (output or 0)
    if max(inputs, output or 0) > MAX_TOKENS:
        return None
    parts = (given.cached_tokens, given.audio_tokens, given.image_tokens)
    if any(part is not None and part > inputs + BESIDE for part in parts):
        return None
    return Usage(
        max(inputs, 0),
        max(output or 0, 0),
        max(given.cached_tokens or 0, 0),
        audio_input_tokens=max(given.audio_tokens or 0, 0),
        image_input_tokens=max(given.image_tokens or 0, 0),
        units=units,
    )


def _count(amount: float, scale: int = 1) -> int:
    """Units are whole: a part of one is charged as one."""
    return min(max(math.ceil(amount * scale), 0), MAX_UNITS) if math.isfinite(amount) else 0


def check_substance(endpoint: Endpoint, body: bytes, upstream: str) -> None:
    """Of a plain answer in JSON.

    :raises PenstockError: it is no JSON, or only tells of an error, whatever its status said
    """
    try:
        members = _members(body)
    except NOT_JSON:
        if endpoint in _HEARD and not body.lstrip().startswith(b"{"):
            return  # some call plain text JSON
        raise UpstreamBroken("the upstream's answer is not a JSON object") from None
    if "error" in members and members.keys().isdisjoint(_SUBSTANCE):
        told = problems.error_in_event(body, upstream)
        if told is not None:
            raise told


class _Frame(msgspec.Struct, gc=False):
    type: str = ""
    error: msgspec.Raw = _NULL
    usage: msgspec.Raw = _NULL


_frame = msgspec.json.Decoder(_Frame).decode


class Watch:
    """How far a streamed answer has come: it is complete with the last of its closing events.

    Those are called ``image_generation.completed``, ``transcript.text.done``, ``speech.audio.done`` and so on;
    servers that stream transcriptions like chats end with ``[DONE]``.

    ``closed`` tells how many have come.

    :param answers: how many there will be, as far as the request tells: some upstreams draw one image only
    """

    __slots__ = ("_endpoint", "_upstream", "_used", "answers", "closed", "complete")

    def __init__(self, endpoint: Endpoint, upstream: str, answers: int = 1) -> None:
        self._endpoint = endpoint
        self._upstream = upstream
        self._used: list[bytes] = []
        self.closed = 0
        self.answers = answers
        self.complete = False

    def __repr__(self) -> str:
        return f"<Watch {self.closed} of {self.answers} closed>"

    @property
    def usage(self) -> Usage | None:
        """What the upstream has told so far; each image tells its own."""
        images = self.closed if self._endpoint in _IMAGES else 0
        total: Usage | None = None
        for data in self._used:
            found = usage_of(self._endpoint, data)
            if found is not None:
                total = found if total is None else _sum(total, found)
        if total is None:
            return Usage(units=images) if images else None
        return msgspec.structs.replace(total, units=images or total.units)

    def take(self, frames: list[bytes], kept: list[Event]) -> None:
        """Add the frames that belong to the answer to ``kept``.

        :raises UpstreamBroken: an event makes no sense
        :raises PenstockError: the upstream reports an error inside the stream
        """
        for frame in frames:
            data = sse.data_of(frame)
            if not data:
                continue
            if data == _DONE:
                self.complete = True
                kept.append(sse.without_id(frame))
                continue
            try:
                event = _frame(data)
            except NOT_JSON:
                raise UpstreamBroken("the upstream sent a malformed event") from None
            if event.type == "error" or bytes(event.error) != b"null":
                raise problems.error_in_event(data, self._upstream) or UpstreamBroken(
                    "the upstream reported an error that makes no sense"
                )
            if bytes(event.usage) != b"null":
                if self._endpoint not in _IMAGES:
                    self._used.clear()  # a later one tells all
                self._used.append(data)
            if event.type.endswith((".completed", ".done")):
                self.closed += 1
                self.complete = self.complete or self.closed >= self.answers
            kept.append(sse.without_id(frame))


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cached_input_tokens + other.cached_input_tokens,
        audio_input_tokens=one.audio_input_tokens + other.audio_input_tokens,
        image_input_tokens=one.image_input_tokens + other.image_input_tokens,
        units=one.units + other.units,
    )
