"""What the simulator will say: the parts of one answer, cut into tokens, before any API gives them its form."""

from __future__ import annotations

import re
import zlib
from typing import Literal, Protocol

import msgspec

from penstock.lab.instance import instance
from penstock.lab.scenario import MAX, Script
from penstock.lab.text import salted, tokens
from penstock.lab.transcript import Request

THINKING_TOKENS = 16
_PIECE = 7  # characters of JSON in one token
_THINKING_SALT = 1_000
_NATURAL = 64  # length of an answer with tokens=max whose caller sets no limit


class Pieces(Protocol):
    """The tokens of one part, UTF-8, escaped as inside of a JSON string."""

    def slice(self, start: int, stop: int) -> list[bytes]: ...


class Words:
    """Prose of any length, made when it is asked for."""

    __slots__ = ("_digest",)

    def __init__(self, digest: int) -> None:
        self._digest = digest

    def slice(self, start: int, stop: int) -> list[bytes]:
        return tokens(self._digest, start, stop)


class Listed:
    """Pieces that are there already."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = [msgspec.json.encode(piece)[1:-1] for piece in pieces]

    def slice(self, start: int, stop: int) -> list[bytes]:
        return self._pieces[start:stop]


class Further:
    """Some pieces that are there already, and then prose from its token ``start`` on."""

    __slots__ = ("_digest", "_first", "_start")

    def __init__(self, first: list[str], digest: int, start: int) -> None:
        self._first = [msgspec.json.encode(piece)[1:-1] for piece in first]
        self._digest = digest
        self._start = start

    def slice(self, start: int, stop: int) -> list[bytes]:
        first = self._first[start:stop]
        skipped = len(self._first)
        if stop <= skipped:
            return first
        shift = self._start - skipped
        return first + tokens(self._digest, max(start, skipped) + shift, stop + shift)


def token_id(piece: bytes) -> int:
    """The number of a token in this model's vocabulary."""
    return 1_000 + zlib.crc32(piece) % 100_000


class Part(msgspec.Struct):
    kind: Literal["text", "thinking", "tool"]
    pieces: Pieces
    count: int
    name: str = ""  # of the tool
    whole: bool = True  # False: the caller's limit cut it short

    def escaped(self) -> bytes:
        """All of it, escaped as inside of a JSON string."""
        return b"".join(self.pieces.slice(0, self.count))


class Answer(msgspec.Struct):
    """One choice."""

    parts: list[Part]
    stop: Literal["stop", "length", "tool_calls", "stop_sequence"]
    stop_sequence: str = ""

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def thinking(self) -> int:
        return sum(part.count for part in self.parts if part.kind == "thinking")


def answer(request: Request, script: Script, choice: int = 0) -> Answer:
    """Decide what to say."""
    digest = salted(request.digest, choice)
    parts: list[Part] = []
    if (script.thinking or request.thinking) and (request.anchor or not _begun(request)):
        parts.append(Part("thinking", Words(salted(digest, _THINKING_SALT)), THINKING_TOKENS))
    reply = Answer(parts, "stop")
    called = _tools_to_call(request, script)
    if called:
        for i, (name, schema) in enumerate(called):
            parts.append(_json_part("tool", instance(schema or {"type": "object"}, salted(digest, i)), name))
        reply.stop = "tool_calls"
    elif request.schema is not None:
        parts.append(_json_part("text", instance(request.schema or _ANY_OBJECT, digest)))
    else:
        wanted = script.tokens if script.tokens != MAX else request.limit or _NATURAL
        part = Part("text", Words(digest), wanted)
        if _begun(request):
            part = _rest(request, script, digest, _NATURAL if script.tokens == MAX else wanted)
            wanted = part.count
        if request.stop:
            left = wanted if request.limit is None else min(wanted, request.limit - reply.count)
            _stop_at(part, left, request.stop, reply)
        parts.append(part)
    if request.limit is not None and reply.count > request.limit:
        _cut(reply, request.limit)
    return reply


def _begun(request: Request) -> bool:
    return bool(request.prefix or request.prefix_ids)


def _rest(request: Request, script: Script, digest: int, wanted: int) -> Part:
    """What follows the beginning of the answer: the rest of it if it is that, else another text."""
    first: list[str] = []
    if not request.prefix_ids:
        if script.preamble:
            first += ["Sure,", " here", " is", " the", " rest:", "\n\n"]
        if request.anchor and not script.deaf:
            first += re.findall(r"\S+\s*", request.anchor)
            first[-1] = first[-1].rstrip()
        if script.overlap:
            first += re.findall(r"\s*\S+", request.prefix)[-script.overlap :]
    said, rest = _spoken(request, digest)
    if said < 0:
        digest, said = salted(digest, zlib.crc32(request.prefix.encode("utf-8", "surrogatepass")) | 1), 0
    elif rest:
        first.append(rest)
        said += 1
    # A limit of the caller's is one for what is still to come, and was made smaller by what was said.
    left = request.limit if script.tokens == MAX and request.limit else max(0, wanted - said)
    count = len(first) + left
    return Part("text", Further(first, digest, said), count)


def _spoken(request: Request, digest: int) -> tuple[int, str]:
    """How many whole tokens of the answer were said, and what of the next one was not; -1: it is another text."""
    if request.prefix_ids:
        pieces = tokens(digest, 0, len(request.prefix_ids))
        same = [token_id(piece) for piece in pieces] == list(request.prefix_ids)
        return (len(pieces) if same else -1), ""
    prefix = request.prefix
    at = count = 0
    while at < len(prefix):
        for piece in (one.decode() for one in tokens(digest, count, count + 64)):
            part = prefix[at : at + len(piece)]
            if not piece.startswith(part):
                return -1, ""
            if not part:
                break
            if len(part) < len(piece):
                return count, piece[len(part) :]
            at += len(part)
            count += 1
    return count, ""


_ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}}


def _tools_to_call(request: Request, script: Script) -> list[tuple[str, object]]:
    if not request.tools or request.tool_choice == "none":
        return []
    tools = [(name, schema) for name, _, schema in request.tools]
    if request.tool_choice.startswith("="):
        tools = [tool for tool in tools if tool[0] == request.tool_choice[1:]]
    elif request.after_tool or (
        request.tool_choice != "any" and not script.tool and "call the tool" not in request.last_said.lower()
    ):
        return []
    if not tools:
        return []
    many = script.parallel if request.parallel_tools else 1
    return [tools[i % len(tools)] for i in range(many)]


def _json_part(kind: Literal["text", "tool"], value: object, name: str = "") -> Part:
    text = msgspec.json.encode(value).decode()
    size = max(1, min(_PIECE, len(text) // 2))  # at least two pieces, so that whoever joins them must join
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return Part(kind, Listed(pieces), len(pieces), name)


def _stop_at(part: Part, tokens_left: int, stops: tuple[str, ...], reply: Answer) -> None:
    """Cut the text before the first of the stop sequences that its first ``tokens_left`` tokens hold."""
    pieces = [piece.decode() for piece in part.pieces.slice(0, max(0, tokens_left))]
    text = "".join(pieces)
    found = [(text.find(stop), stop) for stop in stops if stop]
    end, stop = min(((at, stop) for at, stop in found if at >= 0), default=(-1, ""))
    if end < 0:
        return
    kept: list[str] = []
    for piece in pieces:
        if end <= 0:
            break
        kept.append(piece[:end])
        end -= len(piece)
    part.pieces, part.count = Listed(kept), len(kept)
    reply.stop, reply.stop_sequence = "stop_sequence", stop


def _cut(reply: Answer, limit: int) -> None:
    left = limit
    for i, part in enumerate(reply.parts):
        if part.count >= left:
            part.whole = part.count == left
            part.count = left
            del reply.parts[i + 1 :]
            break
        left -= part.count
    reply.stop, reply.stop_sequence = "length", ""
