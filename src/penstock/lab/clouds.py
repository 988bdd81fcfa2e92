"""The simulator as Bedrock and as Vertex AI: the same answers, at the clouds' paths and in their forms.

A request at a cloud's path is read as one at ``/v1/messages``, and what is written to it is put into the cloud's form:
for Bedrock, events into messages of Amazon's event stream, and errors into Amazon's; for Converse, the answer itself
too.  The formats are named in :mod:`penstock.wire.event_stream`, :mod:`penstock.upstream.cloud` and
:mod:`penstock.wire.converse`.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from typing import Any
from urllib.parse import unquote
from zlib import crc32

import msgspec

from penstock.lab import converse
from penstock.messages import Endpoint
from penstock.net.exchange import Exchange, HeaderList
from penstock.wire.sse import Splitter, data_of

_BEDROCK = re.compile(r"/model/([^/]+)/(invoke|invoke-with-response-stream)")
_CONVERSE = re.compile(r"/model/([^/]+)/(converse|converse-stream)")
_VERTEX = re.compile(
    r"/v1/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/([^/:]+(?::[^/:]+)*):(rawPredict|streamRawPredict)"
)
_MEDIA_TYPE = b"application/vnd.amazon.eventstream"
_EXCEPTIONS = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    529: "ServiceUnavailableException",
}
_IN_STREAM = {"overloaded_error": "serviceUnavailableException", "rate_limit_error": "throttlingException"}


def at_a_cloud(exchange: Exchange) -> Exchange | None:
    """The exchange as one at ``/v1/messages``, or ``…/count_tokens``; None: its path is no cloud's."""
    if exchange.method != "POST":
        return None
    if found := _BEDROCK.fullmatch(exchange.path):
        return _Bedrock(exchange, unquote(found[1]), streams=found[2] != "invoke")
    if found := _CONVERSE.fullmatch(exchange.path):
        return _Converse(exchange, unquote(found[1]), streams=found[2] != "converse")
    if found := _VERTEX.fullmatch(exchange.path):
        if found[1] == "count-tokens":
            return _Cloud(exchange, "", Endpoint.COUNT_TOKENS)
        return _Cloud(exchange, unquote(found[1]), streams=found[2] == "streamRawPredict")
    return None


class _Cloud:
    """An exchange whose request is read as Anthropic's own API has it."""

    def __init__(
        self,
        exchange: Any,
        model: str,
        endpoint: Endpoint = Endpoint.MESSAGES,
        *,
        streams: bool | None = None,
    ) -> None:
        self._exchange = exchange
        self._model = model
        self._streams = streams
        self.path = endpoint.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def whole_body(self) -> bytes:
        data: bytes = self._exchange.whole_body()
        try:
            body = json.loads(data)
        except ValueError:
            return data
        if not isinstance(body, dict) or not body.pop("anthropic_version", ""):
            return b'{"messages": "anthropic_version is missing"}'
        if self._model:
            body["model"] = self._model
        if self._streams is not None:
            body["stream"] = self._streams
        return json.dumps(body).encode()


class _Bedrock(_Cloud):
    """The answer, too, is in a form of its own."""

    def __init__(self, exchange: Any, model: str, *, streams: bool) -> None:
        super().__init__(exchange, model, streams=streams)
        self._splitter = Splitter()

    def start(self, status: int, headers: HeaderList) -> Any:
        if self._streams:
            headers = [(b"content-type", _MEDIA_TYPE), *(one for one in headers if one[0] != b"content-type")]
        return self._exchange.start(status, headers)

    def write(self, data: bytes) -> Any:
        if not self._streams:
            return self._exchange.write(data)
        messages = b"".join(map(self._message, self._splitter.feed(data)))
        return self._exchange.write(messages) if messages else True

    def respond(self, status: int, headers: HeaderList, body: bytes) -> Any:
        if status != 200:
            told = json.loads(body)["error"]["message"]
            body = json.dumps({"message": told}).encode()
            name = _EXCEPTIONS.get(status, "InternalServerException")
            headers = [*headers, (b"x-amzn-errortype", name.encode())]
        return self._exchange.respond(status, headers, body)

    def _message(self, frame: bytes) -> bytes:
        """One frame of server-sent events as messages of the event stream."""
        event = data_of(frame)
        if frame.startswith(b"event: error"):
            error = json.loads(event)["error"]
            name = _IN_STREAM.get(error["type"], "internalServerException")
            fields = {":message-type": "exception", ":exception-type": name}
            return encoded(fields, msgspec.json.encode({"message": error["message"]}))
        return self._told(event)

    def _told(self, event: bytes) -> bytes:
        payload = msgspec.json.encode({"bytes": base64.b64encode(event).decode(), "p": "abcdefghij"})
        return encoded({":event-type": "chunk", ":message-type": "event"}, payload)


class _Converse(_Bedrock):
    """Neither the request nor the answer is in Anthropic's form."""

    def __init__(self, exchange: Any, model: str, *, streams: bool) -> None:
        super().__init__(exchange, model, streams=streams)
        self._events = converse.Events()
        self._fault = ""
        self._plain = bytearray()

    def whole_body(self) -> bytes:
        try:
            body = converse.messages_of(json.loads(self._exchange.whole_body()))
        except (converse.Invalid, ValueError, LookupError, TypeError, AttributeError) as error:
            self._fault = str(error)
            return b"{}"  # refused, in these words
        return json.dumps({**body, "model": self._model, "stream": self._streams}).encode()

    def write(self, data: bytes) -> Any:
        if self._streams:
            return super().write(data)
        if not self._plain and (half := converse.half_of(data)):
            return self._exchange.write(half)
        self._plain += data
        return True

    def end(self) -> Any:
        if self._plain:
            self._exchange.write(_conversed(bytes(self._plain)))
        return self._exchange.end()

    def respond(self, status: int, headers: HeaderList, body: bytes) -> Any:
        if status == 200:
            return self._exchange.respond(status, headers, _conversed(body))
        if self._fault:
            body = json.dumps({"error": {"message": self._fault}}).encode()
        return super().respond(status, headers, body)

    def _told(self, event: bytes) -> bytes:
        return b"".join(
            encoded({":event-type": name, ":message-type": "event"}, payload)
            for name, payload in self._events.of(event)
        )


def _conversed(body: bytes) -> bytes:
    try:
        return json.dumps(converse.answer_of(json.loads(body))).encode()
    except ValueError:
        return body  # broken on purpose


def encoded(fields: dict[str, str], payload: bytes) -> bytes:
    """A message of Amazon's event stream.

    :param fields: its header fields, all of them text
    """
    named = {":content-type": "application/json", **fields}
    headers = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    return framed(headers, payload)


def framed(headers: bytes, payload: bytes) -> bytes:
    """A message with these headers, as they stand in it."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))
