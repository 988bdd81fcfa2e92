"""Anthropic's Message Batches: one JSON body with all requests in, JSON Lines of results out; no I/O.

Inside, a batch is a file of lines in the one form that :mod:`.batch` reads, whoever's API it came by.  A body of
hundreds of megabytes is cut into its requests as it comes (:class:`RequestReader`): of each, only where it ends is
looked for, and no more than one of them is ever held.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from penstock.errors import BadRequest, BodyTooLarge
from penstock.messages import Endpoint
from penstock.wire.batch import Fault, one_line, read_line
from penstock.wire.not_json import NOT_JSON

MAX_CUSTOM_ID: Final = 64  # characters
_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_BEGINNING: Final = re.compile(rb'\s*\{\s*"requests"\s*:\s*\[')
_LONGEST_BEGINNING: Final = 1_024  # bytes, blanks and all
_BLANKS: Final = re.compile(rb"[ \t\r\n]*")
_MARK: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OPENING: Final = frozenset(b"{[")
_QUOTE: Final = ord('"')


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: str
    params: msgspec.Raw


_decode = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode


class RequestReader:
    """Makes of a body, as it comes, the lines of a batch's input.

    :param most: requests that a batch may have
    :param longest: bytes of one
    """

    def __init__(self, *, most: int, longest: int) -> None:
        self.count = 0
        self._most = most
        self._longest = longest
        self._ids: set[str] = set()
        self._held = bytearray()  # from the beginning of what is not read yet
        self._at = 0  # how far of that was looked at
        self._depth = 0
        self._in_string = False
        self._step: Callable[[list[bytes]], bool] = self._begin

    def __repr__(self) -> str:
        return f"<RequestReader of {self.count} requests, {len(self._held)} bytes held>"

    def feed(self, data: bytes) -> bytes:
        """The lines of those requests that have ended in ``data``.

        :raises BadRequest: the body is none of a batch; ``param`` names the member
        :raises BodyTooLarge: a request is too long
        """
        self._held += data
        lines: list[bytes] = []
        while self._step(lines):
            pass
        return b"".join(lines)

    def close(self) -> None:
        """The body has ended.

        :raises BadRequest: before it should have
        """
        if self._step != self._after:
            raise _not_json("it ends too early")
        if not self.count:
            raise BadRequest("there must be at least one request", param="requests")

    # ---- steps: each returns whether there may be more to do with what is held ----

    def _begin(self, _: list[bytes]) -> bool:
        found = _BEGINNING.match(self._held)
        if found is not None:
            self._drop(found.end())
            self._step = self._next
            return True
        if len(self._held) > _LONGEST_BEGINNING or b"[" in self._held:
            raise BadRequest("the body must be an object with requests, an array, and nothing else")
        return False

    def _next(self, _: list[bytes]) -> bool:
        """Before a request, or the end of none."""
        first = self._first()
        if first is None:
            return False
        if first == b"{":
            self._step = self._inside
        elif first == b"]" and not self.count:
            self._drop(1)
            self._step = self._last
        else:
            raise BadRequest("a request must be an object", param=f"requests.{self.count}")
        return True

    def _inside(self, lines: list[bytes]) -> bool:
        held, at = self._held, self._at
        while True:
            if self._in_string:
                at = _end(_IN_STRING, held, at)
                if at == len(held) or held[at] != _QUOTE:
                    break  # a backslash is the last that has come
                self._in_string = False
                at += 1
            mark = _MARK.search(held, at)
            if mark is None:
                at = len(held)
                break
            at = mark.end()
            byte = held[at - 1]
            if byte == _QUOTE:
                self._in_string = True
            elif byte in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    lines.append(self._line(bytes(held[:at])))
                    self._drop(at)
                    self._step = self._behind
                    return True
        self._at = at
        if at > self._longest:
            raise self._too_long()
        return False

    def _behind(self, _: list[bytes]) -> bool:
        """Behind a request."""
        first = self._first()
        if first is None:
            return False
        self._drop(1)
        if first == b",":
            self._step = self._next
        elif first == b"]":
            self._step = self._last
        else:
            raise _not_json(f"something stands behind request {self.count - 1}")
        return True

    def _last(self, _: list[bytes]) -> bool:
        """Behind all requests."""
        first = self._first()
        if first is None:
            return False
        if first != b"}":
            raise BadRequest("the body must be an object with requests, an array, and nothing else")
        self._drop(1)
        self._step = self._after
        return True

    def _after(self, _: list[bytes]) -> bool:
        if self._first() is not None:
            raise _not_json("something stands behind it")
        return False

    def _first(self) -> bytes | None:
        """What comes first but blanks; None: nothing is there yet."""
        self._drop(_end(_BLANKS, self._held, 0))
        return bytes(self._held[:1]) or None

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._at = 0

    # ---- requests ----

    def _line(self, text: bytes) -> bytes:
        where = f"requests.{self.count}"
        if self.count >= self._most:
            raise BadRequest(f"a batch has at most {self._most} requests", param="requests")
        try:
            request = _decode(text)
        except msgspec.ValidationError as error:
            raise BadRequest(f"a request has custom_id, a string, and params: {error}", param=where) from None
        except NOT_JSON:
            raise _not_json(f"request {self.count} is none") from None
        if not _CUSTOM_ID.fullmatch(request.custom_id):
            raise BadRequest(
                f"must have 1 to {MAX_CUSTOM_ID} letters, digits, hyphens and underscores",
                param=f"{where}.custom_id",
            )
        if request.custom_id in self._ids:
            raise BadRequest("another request has this custom_id", param=f"{where}.custom_id")
        line = b'{"custom_id":%b,"method":"POST","url":"/v1/messages","body":%b}\n' % (
            _encode(request.custom_id),
            one_line(bytes(request.params)),
        )
        if len(line) > self._longest:
            raise self._too_long()
        read = read_line(line, Endpoint.MESSAGES)
        if isinstance(read, Fault):
            member = (read.param or "body").replace("body", "params", 1)
            raise BadRequest(read.message.replace("body", "params", 1), param=f"{where}.{member}")
        self._ids.add(request.custom_id)
        self.count += 1
        return line

    def _too_long(self) -> BodyTooLarge:
        return BodyTooLarge(f"a request is longer than {self._longest} bytes", param=f"requests.{self.count}")


def _end(pattern: re.Pattern[bytes], held: bytearray, at: int) -> int:
    """Where a pattern that matches anywhere, if only nothing, ends."""
    found = pattern.match(held, at)
    return at if found is None else found.end()


def _not_json(why: str) -> BadRequest:
    return BadRequest(f"the body is not valid JSON: {why}", code="invalid_json")


# ---- results ---------------------------------------------------------------------------------------------

_UNRUN: Final = {"batch_cancelled": "canceled", "batch_expired": "expired"}


class _Result(msgspec.Struct, omit_defaults=True):
    type: str
    message: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Line(msgspec.Struct):
    custom_id: str
    result: _Result


def answered_line(_: str, custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """The result of a request that was answered, whatever its status; ``body`` is the answer's JSON."""
    text = one_line(body)
    if 200 <= status < 300:
        result = _Result("succeeded", message=msgspec.Raw(text))
    else:
        result = _Result("errored", error=msgspec.Raw(_error(text, status, request_id)))
    return _encode(_Line(custom_id, result)) + b"\n"


def unanswered_line(_: str, custom_id: str, code: str, message: str) -> bytes:  # noqa: ARG001 - of batch's
    """The result of a request that was never answered; what became of it says it all."""
    return _encode(_Line(custom_id, _Result(_UNRUN[code]))) + b"\n"


def _error(text: bytes, status: int, request_id: str) -> bytes:
    if text.startswith(b"{"):
        return text
    told = {"type": "api_error", "message": f"the answer, of status {status}, makes no sense"}
    return _encode({"type": "error", "error": told, "request_id": request_id or None})
