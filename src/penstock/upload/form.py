"""Reading ``multipart/form-data`` (RFC 7578) as it comes, without I/O: bytes in, parts out.

The grammar is ``python_multipart``'s; what is ours are the bounds, one file per form, and errors in the
caller's words.  Nothing is kept of a file but the piece that was fed last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import msgspec
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from penstock.errors import BadRequest
from penstock.wire.form import boundary

MAX_FIELD_BYTES = 16_384  # all fields of a form together; they are short words
MAX_PARTS = 32
MAX_FILENAME = 255  # characters: what file systems take, though it never becomes a path

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Field(msgspec.Struct, frozen=True):
    """A part that is a short text."""

    name: str
    value: str


class FileBegin(msgspec.Struct, frozen=True):
    """A part that is a file begins; ``filename`` is what its sender calls it."""

    name: str
    filename: str


class FileData(msgspec.Struct, frozen=True):
    """A piece of the file that began last."""

    data: bytes


class FileEnd(msgspec.Struct, frozen=True):
    """The file is whole."""


Part: TypeAlias = Field | FileBegin | FileData | FileEnd


class FormReader:
    """Cuts one form into its parts.

    :param content_type: the request's field, with the boundary in it
    :raises UnsupportedMedia: it is no form
    :raises BadRequest: the boundary is missing or wrong
    """

    def __init__(self, content_type: bytes) -> None:
        self._parser = MultipartParser(
            boundary(content_type, "a file is uploaded"),
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        self._parts: list[Part] = []
        self._count = 0
        self._field_bytes = 0
        self._header = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value: bytearray | None = None  # of a field; None: the part is a file
        self._files = 0
        self._ended = False

    def __repr__(self) -> str:
        return f"<FormReader {self._count} parts, {'ended' if self._ended else 'open'}>"

    def feed(self, data: bytes) -> Iterator[Part]:
        """The parts, and pieces of them, that these bytes complete.

        :raises BadRequest: this is no form, or one with too much in it
        """
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise _invalid("it breaks off or breaks the rules of multipart/form-data") from error
        parts, self._parts = self._parts, []
        yield from parts

    def close(self) -> None:
        """There are no more bytes.

        :raises BadRequest: there should be
        """
        if not self._ended:
            raise _invalid("it ends before its last boundary")

    # ---- what the parser says ----

    def _on_part(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise _invalid(f"it has more than {MAX_PARTS} parts")
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header = self._header_value = b""

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise _invalid("a part of it has no name")
        self._name = _text(options[b"name"])
        if b"filename" not in options:
            self._value = bytearray()
            return
        self._files += 1
        if self._files > 1:
            raise _invalid("it holds more than one file")
        self._value = None
        self._parts.append(FileBegin(self._name, name_shown(_text(options[b"filename"]))))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._value is None:
            self._parts.append(FileData(data[start:end]))
            return
        self._field_bytes += end - start
        if self._field_bytes > MAX_FIELD_BYTES:
            raise _invalid(f"its fields hold more than {MAX_FIELD_BYTES} bytes")
        self._value += data[start:end]

    def _on_part_end(self) -> None:
        if self._value is None:
            self._parts.append(FileEnd())
        else:
            self._parts.append(Field(self._name, _text(bytes(self._value))))

    def _on_end(self) -> None:
        self._ended = True


def filename_in(disposition: bytes) -> str:
    """The file's name in a ``Content-Disposition`` that is no form's, to be shown; ``file`` without one."""
    _, options = parse_options_header(disposition)
    return name_shown(_text(options.get(b"filename", b"")))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeError:
        raise _invalid("a name or a field in it is not UTF-8") from None


def name_shown(filename: str) -> str:
    """A name to show, without a path and without what no terminal should print."""
    return _UNPRINTABLE.sub("", filename.replace("\\", "/").rpartition("/")[2])[:MAX_FILENAME] or "file"


def _invalid(why: str) -> BadRequest:
    return BadRequest(f"the form cannot be read: {why}", code="invalid_form")
