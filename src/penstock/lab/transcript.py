"""A prompt as the simulator takes it in: a marker wherever the speaker changes, then every part in its order.

The tools and the output schema stand after it.  Its digest decides the answer's text; it is the same for a prompt and
for its faithful translation into the other dialect.

Tokens of a prompt: its text, in UTF-8, at 4 bytes a token, rounded up once over the whole; tools and schema
count with their JSON.  An image counts :data:`IMAGE_TOKENS`, other attachments one token per KiB of their
encoded form, begun ones included.
"""

from __future__ import annotations

import hashlib

import msgspec

from penstock.messages import JSON, Endpoint

IMAGE_TOKENS = 256
BYTES_PER_TOKEN = 4
_encoder = msgspec.json.Encoder(order="sorted")
_MARK = "\x1f"  # before a part
_TURN = "\x1e"  # before a speaker


def encode(value: JSON) -> str:
    """JSON in the one form in which it is in a transcript."""
    return _encoder.encode(value).decode()


class Request(msgspec.Struct, eq=False):
    """One request as the simulator sees it."""

    endpoint: Endpoint
    model: str
    digest: int = 0
    text: bytes = b""  # the whole transcript
    input_tokens: int = 0
    stream: bool = False
    background: bool = False  # of a response: it is made whether anybody reads it or not
    limit: int | None = None  # the caller's most output tokens
    choices: int = 1
    stop: tuple[str, ...] = ()
    tools: tuple[tuple[str, str, JSON], ...] = ()  # name, description, JSON Schema of the arguments
    tool_choice: str = "auto"  # "none", "auto", "any", or "=" and a name
    parallel_tools: bool = True
    schema: JSON = None  # the answer must be JSON that this schema admits; {}: any object
    thinking: bool = False
    include_usage: bool = False
    running_usage: bool = False
    last_said: str = ""  # the last text of the user
    after_tool: bool = False  # the prompt ends in results of tools
    prompts: tuple[Request, ...] = ()  # of a completion that has several, each read by itself
    inputs: tuple[str, ...] = ()  # of an embeddings call
    dimensions: int = 0
    base64: bool = False
    prefix: str = ""  # the beginning of the answer, which is to be gone on with
    anchor: str = ""  # the words that it was asked to begin with, because it was asked in words
    prefix_ids: tuple[int, ...] = ()  # the same as tokens
    wants_ids: bool = False  # return_token_ids
    kept: tuple[JSON, ...] = ()  # the items that a compaction leaves as they are


class Transcript:
    """Collects the parts of a prompt, and tells its digest and its tokens."""

    __slots__ = ("_aside", "_marks", "_more", "_pieces", "_speaker", "_tokens", "after_tool", "last_said")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._speaker = ""
        self._marks = 0  # bytes of markers
        self._aside = 0  # bytes of attachments, which are counted otherwise
        self._tokens = 0  # of attachments
        self._more = 0  # bytes of what was answered already
        self.last_said = ""
        self.after_tool = False

    def add(self, speaker: str, kind: str, text: str) -> None:
        if not text:
            return
        if speaker == self._speaker:
            mark = _MARK + kind + _MARK
        else:
            self._speaker = speaker
            mark = _TURN + speaker + _MARK + kind + _MARK
            self.after_tool = speaker == "tool"
        if speaker == "user" and kind == "text":
            self.last_said = text
        self._marks += len(mark)
        self._pieces.append(mark)
        self._pieces.append(text)

    def attach(self, speaker: str, kind: str, data: str) -> None:
        """An image or a file: counted by kind, not by its text."""
        if data:
            self.add(speaker, kind, data)
            self._aside += len(data.encode("utf-8", "surrogatepass"))
            self._tokens += IMAGE_TOKENS if kind == "image" else 1 + (len(data) - 1) // 1024

    def answered(self, text: str) -> None:
        """The beginning of the answer, or words about it: prompt that does not change what is answered."""
        self._more += len(text.encode("utf-8", "surrogatepass"))

    def finish(self, request: Request) -> Request:
        request.after_tool = self.after_tool  # as it is now: what follows was not said by anybody
        for name, description, schema in request.tools:
            self.add("tools", "name", name)
            self.add("tools", "text", description)
            self.add("tools", "json", encode(schema))
        if request.schema is not None:
            self.add("schema", "", encode(request.schema))
        whole = "".join(self._pieces).encode("utf-8", "surrogatepass")
        request.text = whole
        request.digest = int.from_bytes(hashlib.sha256(whole).digest()[:8], "big")
        text_bytes = len(whole) - self._marks - self._aside + self._more
        request.input_tokens = -(-text_bytes // BYTES_PER_TOKEN) + self._tokens
        request.last_said = self.last_said
        return request
