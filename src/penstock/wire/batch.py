"""OpenAI's batch format, JSON Lines: a request a line in, a result a line out; no I/O.

The input of every batch is in this form; the results of Anthropic's are in their own (:mod:`.message_batch`).

Every line is read twice: when the batch is validated, and when its turn has come.  The body of a request is
never parsed here, so what reaches the pipeline are the caller's own bytes.
"""

from __future__ import annotations

import hashlib

import msgspec

from penstock.messages import Endpoint
from penstock.wire.not_json import NOT_JSON

ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS, Endpoint.RESPONSES)
}
"""What a batch of OpenAI's may call."""

MAX_CUSTOM_ID = 512  # characters

_MODES = ("stream", "background")  # ways of answering that a line of results has no place for


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a line, as ``errors.data`` of a batch tells it."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None  # from 1


class Line(msgspec.Struct, frozen=True):
    """One request of a batch."""

    custom_id: str
    body: bytes


class _Raw(msgspec.Struct):
    custom_id: msgspec.Raw = msgspec.Raw()
    method: msgspec.Raw = msgspec.Raw()
    url: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Raw).decode
_string = msgspec.json.Decoder(str).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def read_line(text: bytes, endpoint: Endpoint) -> Line | Fault:
    """A request, or why it is none; an empty line is a fault, too."""
    try:
        raw = _decode(text)
    except NOT_JSON:
        return Fault("invalid_json_line", "This line is not a JSON object.")
    words: dict[str, str] = {}
    for name in ("custom_id", "method", "url"):
        word = _word(getattr(raw, name))
        if word is None:
            return Fault("missing_required_parameter", f"{name} must be a string.", name)
        words[name] = word
    if not 1 <= len(words["custom_id"]) <= MAX_CUSTOM_ID:
        return Fault("invalid_request", f"custom_id must have 1 to {MAX_CUSTOM_ID} characters.", "custom_id")
    if words["method"] != "POST":
        return Fault("invalid_method", "method must be POST.", "method")
    if words["url"] != endpoint.path:
        return Fault("url_mismatch", f"url must be the batch's endpoint, {endpoint.path}.", "url")
    body = bytes(raw.body)
    if not body:
        return Fault("missing_required_parameter", "body must be an object.", "body")
    try:
        members = _members(body)
    except NOT_JSON:
        return Fault("invalid_request", "body must be an object.", "body")
    for mode in _MODES:
        if mode in members and bytes(members[mode]) not in (b"false", b"null"):
            return Fault("invalid_request", f"{mode} is not possible in a batch.", f"body.{mode}")
    return Line(words["custom_id"], body)


def _word(raw: msgspec.Raw) -> str | None:
    try:
        return _string(raw)
    except NOT_JSON:
        return None


# ---- results ---------------------------------------------------------------------------------------------


def result_id(batch_id: str, custom_id: str) -> str:
    """The same whenever the line is run: also the key by which its call is known to the pipeline."""
    digest = hashlib.blake2b(
        custom_id.encode("utf-8", "surrogatepass"), key=batch_id.encode()[:64], digest_size=16
    )
    return "batch_req_" + digest.hexdigest()


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _Result(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


def answered_line(batch_id: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The result of a line that was answered, whatever its status; ``body`` is the answer's JSON."""
    response = _Response(status, request_id, msgspec.Raw(one_line(body)))
    return _encode(_Result(result_id(batch_id, custom_id), custom_id, response)) + b"\n"


def unanswered_line(batch_id: str, custom_id: str, code: str, message: str) -> bytes:
    """The result of a line that was never answered."""
    return _encode(_Result(result_id(batch_id, custom_id), custom_id, None, _Error(code, message))) + b"\n"


def one_line(body: bytes) -> bytes:
    """JSON text without line ends: between its tokens they are blanks, and within strings there are none."""
    if b"\n" in body or b"\r" in body:
        body = body.replace(b"\r", b" ").replace(b"\n", b" ")
    try:
        _any(body.decode())  # as text: of bytes within strings it would not be seen that they are none
    except NOT_JSON:  # an upstream's answer that is no JSON, kept as text
        return _encode(body.decode("utf-8", "replace"))
    return body


_any = msgspec.json.Decoder(msgspec.Raw).decode


class _Became(msgspec.Struct):
    type: str = ""


class _Done(msgspec.Struct):
    custom_id: str
    response: msgspec.Raw = msgspec.Raw()
    result: _Became | None = None


class Done(msgspec.Struct, frozen=True):
    """What a line of results says, in either form: of which request it is, and whether that was run."""

    custom_id: str
    run: bool


_done = msgspec.json.Decoder(_Done).decode


def done(line: bytes) -> Done | None:
    """What a line of results says; None: it was not written to its end."""
    try:
        read = _done(line)
    except NOT_JSON:
        return None
    if read.result is not None:
        return Done(read.custom_id, read.result.type in {"succeeded", "errored"})
    return Done(read.custom_id, bytes(read.response) != b"null")
