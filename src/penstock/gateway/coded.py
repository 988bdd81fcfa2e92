"""Bodies and answers in another coding or form than plain JSON: decoded before the pipeline, encoded behind it.

The pipeline sees a :class:`CodedExchange`: a request that was never coded, and an answer whose coding is not its
affair.  Whether a request is one of these its head says (:meth:`Codings.of`); the others do not come here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock.config.model import CodingsConfig
from penstock.errors import BodyTooLarge, ConfigError, UnsupportedMedia
from penstock.gateway.dictionaries import Dictionaries
from penstock.gateway.over import OverExchange
from penstock.installing import install_command
from penstock.messages import Endpoint, Headers
from penstock.net.exchange import Exchange, HeaderList
from penstock.wire import codings, forms
from penstock.wire.forms import Form

if TYPE_CHECKING:
    from penstock.wire.codings import Encoder

KEEP = b"keep"  # of Penstock-Dictionary: remember this body

_LARGE = 65_536  # bytes of a coded body from which on it is decoded in a thread: at 0.5 µs for each, at worst
_JSON = b"application/json"
_PLAIN = frozenset({None, b"*/*", b"application/json"})


class Coding(msgspec.Struct, frozen=True):
    """What the head of one request says."""

    body: list[str]  # codings of the body, in the order in which they were applied
    packed: Form | None  # the body's form; None: JSON
    answer: str  # the answer's coding; empty: none
    pack_answer: Form | None  # of a plain answer
    keep: bool  # the body is to be remembered as a dictionary
    ask: bool  # which codings there are is to be told


class Codings:
    """What is understood and offered here.

    :param shared: a directory where the workers of a machine have dictionaries together
    :raises ConfigError: the configuration wants a coding whose package is missing
    """

    def __init__(self, config: CodingsConfig, max_body: int, shared: Path | None = None) -> None:
        missing = [name for name in config.answers if name not in codings.CODINGS]
        if missing:
            raise ConfigError(f"codings.answers: br needs the extra: {install_command('brotli')}")
        self._offered = tuple(config.answers)
        self._least = config.least_bytes
        self._flush_after = config.flush_after
        self._dictionaries = Dictionaries(config.dictionary_bytes, shared)
        self._keeps = bool(config.dictionary_bytes)
        self._max_body = max_body
        understood = (*codings.CODINGS, codings.DCZ) if self._keeps else codings.CODINGS
        self._understood = ", ".join(understood).encode()

    def __repr__(self) -> str:
        return f"<Codings {', '.join(self._offered) or 'of bodies only'}, {self._dictionaries}>"

    def of(self, headers: Headers, endpoint: Endpoint) -> Coding | None:
        """What is coded of a request and its answer; None: nothing, as usual.

        :raises UnsupportedMedia: the body has a coding or a form that is not understood here
        """
        coding = headers.get(b"content-encoding")
        kind = headers.get(b"content-type")
        accept = headers.get(b"accept")
        if (  # of most requests
            coding is None
            and kind in _PLAIN
            and accept in _PLAIN
            and b"penstock-dictionary" not in headers
            and not (self._offered and b"accept-encoding" in headers)
        ):
            return None
        answer = ""
        if self._offered and b"accept-encoding" in headers:
            answer = codings.preferred(headers[b"accept-encoding"], self._offered)
        ask = headers.get(b"penstock-dictionary", b"").strip().lower() == KEEP
        embeddings = endpoint is Endpoint.EMBEDDINGS
        packed = None if kind is None else forms.form_of(kind)
        if packed is Form.PROTOBUF and not embeddings:
            raise UnsupportedMedia("in Protocol Buffers there are embeddings only")
        pack_answer = None if accept is None else forms.preferred(accept, embeddings=embeddings)
        if coding is None and not (answer or ask or packed or pack_answer):
            return None
        body = [] if coding is None else codings.codings_in(coding)
        return Coding(body, packed, answer, pack_answer, ask and self._keeps, ask)

    async def exchange(self, beneath: Exchange, coding: Coding, owner: str) -> CodedExchange:
        """The exchange that the pipeline is to see.

        :raises PenstockError: the body cannot be decoded
        """
        body = beneath.whole_body()
        digest = None
        if coding.body or coding.packed or coding.keep:
            waits = self._dictionaries.may_wait and (coding.keep or codings.DCZ in coding.body)
            if waits or len(body) > _LARGE or len(coding.body) > 1:
                loop = asyncio.get_running_loop()
                body, digest = await loop.run_in_executor(None, self._decoded, body, coding, owner)
            else:
                body, digest = self._decoded(body, coding, owner)
        told: list[tuple[bytes, bytes]] = []
        if coding.ask:
            told.append((b"accept-encoding", self._understood))
        if digest is not None:
            told.append((b"penstock-dictionary", digest.hex().encode()))
        return CodedExchange(beneath, coding, body, told, self._least, self._flush_after)

    def _decoded(self, body: bytes, coding: Coding, owner: str) -> tuple[bytes, bytes | None]:
        """The body, and its SHA-256 if it is remembered."""
        plain = codings.decoded(
            body, coding.body, self._max_body, lambda digest: self._dictionaries.get(owner, digest)
        )
        if coding.packed is not None:
            plain = forms.json_of(plain, coding.packed)
            if len(plain) > self._max_body:  # a byte of MessagePack may be five of JSON
                raise BodyTooLarge(f"The request's body, in JSON, is larger than {self._max_body} bytes.")
        return plain, self._dictionaries.keep(owner, plain) if coding.keep else None


class CodedExchange(OverExchange):
    """The exchange over one whose bytes are coded."""

    def __init__(
        self,
        beneath: Exchange,
        coding: Coding,
        body: bytes,
        told: HeaderList,
        least: int,
        flush_after: float,
    ) -> None:
        headers = dict(beneath.headers)
        headers.pop(b"content-encoding", None)
        if coding.packed:
            headers[b"content-type"] = _JSON
        super().__init__(beneath, beneath.method, beneath.path, beneath.query, headers)
        self._coding = coding
        self._body = body
        self._told = told
        self._least = least
        self._flush_after = flush_after
        self._encoder: Encoder | None = None
        self._waiting: list[bytes] = []
        self._timer: asyncio.Handle | None = None
        self._ready = True  # the client takes what is written

    def __repr__(self) -> str:
        return f"<CodedExchange {self._coding.answer or 'plain'} over {self._beneath!r}>"

    def whole_body(self) -> bytes:
        return self._body

    @property
    def unsent(self) -> bool:
        return bool(self._waiting) or super().unsent

    def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        fields = [*headers, *self._told]
        form = self._coding.pack_answer
        if form is not None and body and _kind_of(fields).startswith(_JSON):
            packed = forms.answer_in(body, form)
            if packed is not None:
                body = packed
                fields = [field for field in fields if field[0] != b"content-type"]
                fields.append((b"content-type", form.value))
        depends = [b"accept"] * (form is not None) + [b"accept-encoding"] * bool(self._coding.answer)
        if depends:
            fields.append((b"vary", b", ".join(depends)))
        if self._coding.answer and len(body) >= self._least and status != 204:
            encoder = codings.encoder(self._coding.answer)
            body = encoder.encode(body) + encoder.end()
            fields.append((b"content-encoding", self._coding.answer.encode()))
        super().respond(status, fields, body)

    def start(self, status: int, headers: HeaderList) -> None:
        fields = [*headers, *self._told]
        if self._coding.answer:
            self._encoder = codings.encoder(self._coding.answer)
            fields.append((b"vary", b"accept-encoding"))
            fields.append((b"content-encoding", self._coding.answer.encode()))
        super().start(status, fields)

    def write(self, data: bytes) -> bool:
        if self._encoder is None:
            return self._beneath.write(data)
        self._waiting.append(data)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if self._flush_after:
                self._timer = loop.call_later(self._flush_after, self._flush)
            else:
                self._timer = loop.call_soon(self._flush)
        return self._ready

    def _flush(self) -> None:
        """Encode what has come in one go: what is flushed together takes fewer bytes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and self._encoder is not None and not self.gone:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._ready = self._beneath.write(self._encoder.encode(data))

    def end(self) -> None:
        if self._encoder is not None and not self.gone:
            self._flush()
            self._beneath.write(self._encoder.end())
        super().end()

    def abort(self) -> None:
        self._flush()
        super().abort()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super()._end()

    def on_writable(self) -> None:
        self._ready = True
        super().on_writable()


def _kind_of(fields: HeaderList) -> bytes:
    for name, value in fields:
        if name == b"content-type":
            return value
    return b""
