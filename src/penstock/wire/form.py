"""Forms that are relayed (``multipart/form-data``, RFC 7578): the model is found and replaced, files are not touched.

Theory of operation.  What is authorised here and what an upstream reads must be the same, though two parsers seldom
agree on every form that somebody can think of.  And a repetition must be known by its bytes, though SDKs draw a new
boundary for each try.  So a form does not go on as it came: it is put together anew, from what was understood of it,
in one way only: the part ``model`` first, the others in their order, each with its name, its file's name and its
media type and no other field, and between them a boundary that is made of the contents.  The contents are neither
read nor changed.

The boundary is a hash of all that it separates, so that it cannot stand in it.  The form tells its own boundary in
its first line, so that nothing but the body needs to be kept.

The grammar is ``python_multipart``'s.  It is given the whole form at once and tells offsets, so that a file is
copied once, into the new form.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec
from blake3 import blake3
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.errors import BadRequest, UnsupportedMedia

MAX_PARTS = 128
MAX_TEXT_BYTES = 1 << 20  # all parts together that are no files; the longest prompt is some 128 KiB
MAX_NAME_BYTES = 256  # of a part, or of its file

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_MEDIA_TYPE = re.compile(rb"[\w!#$&^.+/=;,:\"' -]{1,200}")
_EXTENDED = re.compile(rb"filename\*\s*=\s*([\w-]+)'[^']*'([^;\s]+)", re.IGNORECASE)  # RFC 8187
_AS_THEY_ARE = frozenset({b"", b"binary", b"8bit", b"7bit"})  # transfer codings that are none
_MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\n'
_MARK = b"--penstock-"
_FIRST_LINE = 80  # bytes: a boundary has 70 at most (RFC 2046, 5.1.1)

_encode = msgspec.json.Encoder().encode


class Form(msgspec.Struct, frozen=True):
    """``body``: the form in the one way in which it is written here; ``fields``: see ``messages.Call``.

    ``model`` is None where the form names none.
    """

    body: bytes
    fields: dict[str, msgspec.Raw]
    model: str | None


class _Part:
    """``data``: its content, in the pieces in which the parser told it."""

    __slots__ = ("coding", "data", "disposition", "kind")

    def __init__(self) -> None:
        self.disposition = self.kind = self.coding = b""
        self.data: list[memoryview] = []


class _Parts:
    """What the parser says."""

    def __init__(self, body: bytes) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._view = memoryview(body)
        self._name = b""
        self._value = b""

    def on_part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        part, name = self.parts[-1], self._name.lower()
        if name == b"content-disposition":
            if part.disposition:
                raise _invalid("a part of it has two dispositions")
            part.disposition = self._value
        elif name == b"content-type":
            part.kind = self._value.strip()
        elif name == b"content-transfer-encoding":
            part.coding = self._value.strip().lower()
        self._name = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        # The parser has one buffer, the body; what it looked back for stands in another, and is short.
        view = self._view if data is self._view.obj else memoryview(data)
        self.parts[-1].data.append(view[start:end])

    def on_end(self) -> None:
        self.ended = True


def read(content_type: bytes, body: bytes) -> Form:
    """Read a form, and write it as it goes on.

    :param content_type: the request's field, with the boundary in it
    :raises UnsupportedMedia: it is no form
    :raises BadRequest: it cannot be read, or in more than one way
    """
    found = _parts(boundary(content_type), body)
    texts: dict[str, list[str]] = {}
    model: str | None = None
    heads: list[tuple[bytes, _Part]] = []
    digest = blake3()
    left = MAX_TEXT_BYTES
    for part in found:
        name, filename = _names(part)
        if part.coding not in _AS_THEY_ARE:
            raise _invalid(f"the content of {_shown(name)} is coded")
        head = _head(name, filename, part.kind)
        if filename is None:
            left -= sum(map(len, part.data))
            if left < 0:
                raise _invalid(f"it holds more than {MAX_TEXT_BYTES} bytes of text")
            value = _text(b"".join(part.data), name)
        else:
            value = _digest(head, part)
        if name == b"model":
            if model is not None or filename is not None or _CONTROL.search(value.encode()):
                raise BadRequest("the form must name one model, in one part", param="model")
            model = value
            continue
        texts.setdefault(_text(name, b"a part"), []).append(value)
        digest.update(b"%d %b%d %b" % (len(head), head, len(value), value.encode()))
        heads.append((head, part))
    fields = {
        name: msgspec.Raw(_encode(values[0] if len(values) == 1 else values))
        for name, values in texts.items()
    }
    digest.update((model or "").encode())
    line = _MARK + digest.hexdigest(16).encode() + b"\r\n"
    pieces: list[bytes | memoryview] = []
    if model is not None:
        fields["model"] = msgspec.Raw(_encode(model))
        pieces += (line, _MODEL, model.encode(), b"\r\n")
    for head, part in heads:
        pieces += (line, head, *part.data, b"\r\n")
    pieces.append(line[:-2] + b"--\r\n")
    return Form(b"".join(pieces), fields, model)


def is_form(body: bytes) -> bool:
    """Whether this is a form as :func:`read` writes them; no JSON begins so."""
    return body.startswith(_MARK)


def content_type(body: bytes) -> bytes:
    """The ``Content-Type`` of a form as :func:`read` writes them."""
    return b"multipart/form-data; boundary=" + body[2 : body.index(b"\r\n", 0, _FIRST_LINE)]


def renamed(body: bytes, model: str) -> bytes:
    """A form as :func:`read` writes them, of another model."""
    start = body.index(b"\r\n", 0, _FIRST_LINE) + 2
    name = model.encode()
    if not body.startswith(_MODEL, start):
        return b"".join((body[:start], _MODEL, name, b"\r\n", body))
    start += len(_MODEL)
    end = body.index(b"\r\n", start)
    if body[start:end] == name:
        return body
    return b"".join((body[:start], name, memoryview(body)[end:]))


def boundary(content_type: bytes, what: str = "this is sent") -> bytes:
    """What stands between the parts.

    :param what: says what is wrong where it is no form: it "… as multipart/form-data"
    :raises UnsupportedMedia: it is no form
    :raises BadRequest: the boundary is missing or wrong
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(f"{what} as multipart/form-data")
    found = options.get(b"boundary", b"")
    if not 1 <= len(found) <= 70:  # RFC 2046, 5.1.1
        raise BadRequest("the Content-Type has no usable boundary", code="invalid_form")
    return found


def _parts(line: bytes, body: bytes) -> list[_Part]:
    told = _Parts(body)
    names = ("part_begin", "header_field", "header_value", "header_end", "part_data", "end")
    try:
        MultipartParser(line, {f"on_{name}": getattr(told, f"on_{name}") for name in names}).write(body)  # type: ignore[arg-type]
    except MultipartParseError as error:
        raise _invalid("it breaks off or breaks the rules of multipart/form-data") from error
    if not told.ended:
        raise _invalid("it ends before its last boundary")
    return told.parts


def _names(part: _Part) -> tuple[bytes, bytes | None]:
    """The part's name, and that of its file; None: it is no file."""
    kind, options = parse_options_header(part.disposition)
    name = options.get(b"name", b"")
    if kind != b"form-data" or not name:
        raise _invalid("a part of it has no name")
    filename = options.get(b"filename")
    if filename is None and (extended := _EXTENDED.search(part.disposition)) is not None:
        # RFC 7578, 4.2 forbids this form, and requests sends it for names that are not ASCII.
        filename = unquote_to_bytes(extended[2])
    for each in (name, filename or b""):
        if len(each) > MAX_NAME_BYTES or _CONTROL.search(each):
            raise _invalid("a part of it has a name that is none")
    return name, filename


def _head(name: bytes, filename: bytes | None, kind: bytes) -> bytes:
    """The head of a part, as it is written here."""
    head = b'Content-Disposition: form-data; name="%b"' % _quoted(name)
    if filename is not None:
        head += b'; filename="%b"' % _quoted(filename)
    if kind:
        if not _MEDIA_TYPE.fullmatch(kind):
            raise _invalid(f"the media type of {_shown(name)} is none")
        head += b"\r\nContent-Type: " + kind
    return head + b"\r\n\r\n"


def _quoted(name: bytes) -> bytes:
    # As browsers do it (HTML, 4.10.22.8): a backslash would be read by some as itself.
    return name.replace(b'"', b"%22")


def _digest(head: bytes, part: _Part) -> str:
    """What stands for a file: its name may tell an upstream its format, so that is in it."""
    digest = blake3(head)
    for piece in part.data:
        digest.update(piece)
    return digest.hexdigest()


def _text(value: bytes, name: bytes) -> str:
    try:
        return value.decode()
    except UnicodeError:
        raise _invalid(f"{_shown(name)} is not UTF-8") from None


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _invalid(why: str) -> BadRequest:
    return BadRequest(f"the form cannot be read: {why}", code="invalid_form")
