"""What providers' own batch APIs are told, and what they say; no I/O.

OpenAI's is told a file of requests and answers with files of results; Anthropic's is told all requests in one body,
and answers with one list of results.  Both keep the ``custom_id`` of each request, which is all that ties a result to
it: results come in any order.
"""

from __future__ import annotations

import enum
import re
from datetime import datetime
from typing import Final, Protocol

import msgspec

from penstock.errors import PenstockError
from penstock.messages import JSON, Endpoint
from penstock.wire.batch import one_line
from penstock.wire.not_json import NOT_JSON
from penstock.wire.problems import status_of_type

TAG: Final = "penstock"  # the member of OpenAI's metadata that has a batch's own name

MEGABYTE: Final = 1_000_000


class Fate(enum.Enum):
    """How a provider's batch, or a request of it, ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Told(msgspec.Struct, frozen=True):
    """A provider's batch, as it stands.

    :ivar ended: None: it has not
    :ivar created: Unix time
    :ivar lines: its requests; 0: they are not counted yet
    :ivar results: where they are to be had: ids of files, or a part of a path
    :ivar why: it failed, in the provider's words
    :ivar is_crowded: it failed because too much of ours is under way there: nothing was run, and later it may be
    """

    id: str
    ended: Fate | None
    created: float
    lines: int = 0
    tag: str = ""
    input_file: str = ""
    results: tuple[str, ...] = ()
    why: str = ""
    is_crowded: bool = False


class Page(msgspec.Struct, frozen=True):
    """Some of a provider's batches, newest first.

    :ivar after: what the next page is asked for with; empty: there is none
    """

    batches: tuple[Told, ...]
    after: str = ""


class Result(msgspec.Struct, frozen=True):
    """What became of one request.

    :ivar status: of its answer; 0: it was not run
    :ivar fate: why not
    :ivar is_unreadable: it is not known what became of it: ``body`` is what the provider has written of it, if anything
    """

    custom_id: str
    status: int = 0
    body: bytes = b""
    request_id: str = ""
    fate: Fate = Fate.COMPLETED
    why: str = ""
    is_unreadable: bool = False


class NotMade(Exception):
    """The provider has refused to make a batch, so there is none.

    :ivar error: in what words
    """

    def __init__(self, error: PenstockError) -> None:
        super().__init__(error.message)
        self.error = error


class Form(Protocol):
    """One provider's way of saying all this.

    :ivar most_lines: requests of one batch; ``most_bytes``: of them all
    """

    most_lines: int
    most_bytes: int

    def request(self, custom_id: str, endpoint: Endpoint, body: bytes) -> bytes:
        """One request, as a line."""

    def told(self, text: bytes) -> Told:
        """:raises ValueError: this is no batch"""

    def page(self, text: bytes) -> Page:
        """:raises ValueError: this is no list of batches"""

    def result(self, line: bytes) -> Result | None:
        """None: this is no result, or nobody can tell of what."""


_ID = re.compile(
    rb'"custom_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"'
)  # as ours are, whoever else's may look otherwise

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class OpenAIForm:
    """Of ``/v1/batches``: https://platform.openai.com/docs/api-reference/batch."""

    # "The file can contain up to 50,000 requests, and can be up to 200 MB in size."
    most_lines = 50_000
    most_bytes = 200 * MEGABYTE

    def request(self, custom_id: str, endpoint: Endpoint, body: bytes) -> bytes:
        return b'{"custom_id":%b,"method":"POST","url":"%b","body":%b}\n' % (
            _encode(custom_id),
            endpoint.path.encode(),
            one_line(body),
        )

    def told(self, text: bytes) -> Told:
        return _openai(_object(text))

    def page(self, text: bytes) -> Page:
        page = _object(text)
        found = tuple(_openai(each) for each in _list(page.get("data")))
        return Page(found, found[-1].id if found and page.get("has_more") else "")

    def result(self, line: bytes) -> Result | None:
        try:
            told = _openai_line(line)
        except NOT_JSON:
            return _unreadable(line)
        answer = told.response
        if answer is not None and answer.status_code:
            return Result(told.custom_id, answer.status_code, bytes(answer.body), answer.request_id or "")
        error = told.error or _Error()
        fate = _FATE_OF_CODE.get(error.code or "", Fate.FAILED)
        return Result(told.custom_id, fate=fate, why=error.message or "")


def _unreadable(line: bytes) -> Result | None:
    """A line that was spoiled: of which request, if that can be seen yet."""
    found = _ID.search(line)
    return None if found is None else Result(found[1].decode("ascii"), 200, line, is_unreadable=True)


_STATUS = {
    "completed": Fate.COMPLETED,
    "failed": Fate.FAILED,
    "expired": Fate.EXPIRED,
    "cancelled": Fate.CANCELLED,
}
_CROWDED = frozenset({"token_limit_exceeded", "rate_limit_exceeded"})
_FATE_OF_CODE = {"batch_expired": Fate.EXPIRED, "batch_cancelled": Fate.CANCELLED}


class _Error(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Response(msgspec.Struct):
    status_code: int = 0
    request_id: str | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")


class _OpenAILine(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _Error | None = None


_openai_line = msgspec.json.Decoder(_OpenAILine).decode


def _openai(batch: JSON) -> Told:
    batch = _dict(batch)
    errors = _list(_dict(batch.get("errors") or {}).get("data"))
    files = (batch.get("output_file_id"), batch.get("error_file_id"))
    return Told(
        id=_name(batch.get("id")),
        ended=_STATUS.get(_text(batch.get("status"))),
        created=float(batch.get("created_at") or 0),
        lines=int(_dict(batch.get("request_counts") or {}).get("total") or 0),
        tag=_text(_dict(batch.get("metadata") or {}).get(TAG)),
        input_file=_text(batch.get("input_file_id")),
        results=tuple(_name(file) for file in files if file),
        why="; ".join(_text(_dict(error).get("message")) for error in errors)[:1_000],
        is_crowded=any(_dict(error).get("code") in _CROWDED for error in errors),
    )


class AnthropicForm:
    """Of ``/v1/messages/batches``: https://docs.claude.com/en/docs/build-with-claude/batch-processing."""

    # "A Message Batch is limited to either 100,000 Message requests or 256 MB in size, whichever is reached first."
    most_lines = 100_000
    most_bytes = 256 * MEGABYTE

    def request(self, custom_id: str, endpoint: Endpoint, body: bytes) -> bytes:
        del endpoint  # there is one
        return b'{"custom_id":%b,"params":%b}\n' % (_encode(custom_id), one_line(body))

    def told(self, text: bytes) -> Told:
        return _anthropic(_object(text))

    def page(self, text: bytes) -> Page:
        page = _object(text)
        found = tuple(_anthropic(each) for each in _list(page.get("data")))
        return Page(found, found[-1].id if found and page.get("has_more") else "")

    def result(self, line: bytes) -> Result | None:
        try:
            told = _anthropic_line(line)
        except NOT_JSON:
            return _unreadable(line)
        became = told.result
        if became.type == "succeeded":
            return Result(told.custom_id, 200, bytes(became.message))
        if became.type == "errored":
            error = bytes(became.error)
            return Result(told.custom_id, _status_of(error), error)
        return Result(told.custom_id, fate=_ANTHROPIC_FATE.get(became.type, Fate.FAILED))


_ANTHROPIC_FATE = {"expired": Fate.EXPIRED, "canceled": Fate.CANCELLED}


class _Became(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


class _AnthropicLine(msgspec.Struct):
    custom_id: str
    result: _Became


_anthropic_line = msgspec.json.Decoder(_AnthropicLine).decode


def _status_of(error: bytes) -> int:
    """Results tell of an error's type only; the status that the same error has elsewhere."""
    try:
        told = _dict(_decode(error))
        inner = _dict(told.get("error") or {})
    except (*NOT_JSON, ValueError):
        return 500
    return status_of_type(_text(inner.get("type"))) or 500


def _anthropic(batch: JSON) -> Told:
    batch = _dict(batch)
    batch_id = _name(batch.get("id"))
    ended = batch.get("processing_status") == "ended"
    counts = _dict(batch.get("request_counts") or {})
    return Told(
        id=batch_id,
        ended=Fate.COMPLETED if ended else None,
        created=datetime.fromisoformat(_text(batch.get("created_at"))).timestamp(),
        lines=sum(count for count in counts.values() if isinstance(count, int)),
        results=(batch_id,) if ended and batch.get("results_url") else (),
    )


OPENAI: Final[Form] = OpenAIForm()
ANTHROPIC: Final[Form] = AnthropicForm()


def form_of(path: str) -> Form:
    """That of the provider whose endpoint has this path."""
    return ANTHROPIC if path == Endpoint.MESSAGES.path else OPENAI


def file_id(text: bytes) -> str:
    """The id of a file that was uploaded.

    :raises ValueError: this tells of none
    """
    return _name(_object(text).get("id"))


def _object(text: bytes) -> dict[str, JSON]:
    try:
        return _dict(_decode(text))
    except NOT_JSON as error:
        raise ValueError("this is no JSON object") from error


def _dict(value: JSON) -> dict[str, JSON]:
    if isinstance(value, dict):
        return value
    raise ValueError("an object was expected")


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _name(value: JSON) -> str:
    """An id that can stand in a path."""
    name = _text(value)
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{name[:100]!r} is no id")
    return name
