"""What the simulator answers where no prose is asked for: moderations, images, speech, transcriptions, ranks.

All of it follows from the digest of what was asked: an image is a PNG of eight by eight coloured squares, speech a
WAV of one tone for each word, a transcription the prose of the file's digest.  A form is read by Python's ``email``,
which knows nothing of the gateway's own reader of forms.

What is charged: images and transcriptions tokens (a model called ``whisper…`` is charged by the second), speech the
characters of its text, rerank one search for each hundred documents, begun ones included, and moderations nothing.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.errors import BadRequest
from penstock.lab.stream import Frames, Segment, Stream
from penstock.lab.text import tokens
from penstock.messages import Endpoint

IMAGE_OUTPUT_TOKENS = 272  # what gpt-image-1 takes for a square image of low quality
SOUND_BYTES_PER_SECOND = 16_000  # as long as a file is taken for
TOKENS_PER_SECOND = 10
DOCUMENTS_PER_SEARCH = 100
PIECE = 1_600  # bytes of sound in one write, a fifth of a second
RATE = 8_000  # samples per second of what is spoken
_WORDS = 12  # of a transcription
_MOST_IMAGES = 10
_MOST_SECONDS = 600
_STREAMED = frozenset({Endpoint.IMAGES_GENERATIONS, Endpoint.IMAGES_EDITS, Endpoint.TRANSCRIPTIONS})
_CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")
_JSON, _SSE = b"application/json", b"text/event-stream; charset=utf-8"
_encode = msgspec.json.Encoder().encode
_ordered = msgspec.json.Encoder(order="sorted").encode


class File(msgspec.Struct, frozen=True):
    """A file of a form."""

    name: str
    kind: str
    data: bytes


class Asked(msgspec.Struct, eq=False):
    """One request.  ``files`` by the part's name without its brackets."""

    endpoint: Endpoint
    model: str
    fields: dict[str, Any]
    files: dict[str, list[File]]
    digest: bytes

    @property
    def streams(self) -> bool:
        if self.endpoint is Endpoint.SPEECH:
            return self.fields.get("stream_format") == "sse"
        return self.endpoint in _STREAMED and self.fields.get("stream") in {True, "true"}

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str) or not value:
            raise BadRequest(f"you must provide a {name} parameter", param=name, code="invalid_type")
        return value


class Made(msgspec.Struct, eq=False):
    """An answer, and what is charged for it; ``stream`` where it goes out bit by bit."""

    kind: bytes = _JSON
    body: bytes = b""
    stream: Stream | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    units: int = 0


def read(endpoint: Endpoint, content_type: bytes, body: bytes) -> Asked:
    """Read a request: JSON, or a form.

    :raises BadRequest: it is neither, or names no model
    """
    fields: dict[str, Any] = {}
    files: dict[str, list[File]] = {}
    if content_type[:10].lower() == b"multipart/":
        head = b"Content-Type: " + content_type + b"\r\n\r\n"
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        for part in message.iter_parts():
            name = str(part.get_param("name", "", "content-disposition")).removesuffix("[]")
            content = part.get_payload(decode=True)
            data = content if isinstance(content, bytes) else b""
            if (filename := part.get_filename()) is not None:
                files.setdefault(name, []).append(File(filename, part.get_content_type(), data))
            else:
                fields[name] = data.decode()
    else:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter", param="model", code="invalid_type")
    telling = {name: value for name, value in fields.items() if name not in {"model", "user"}}
    digest = hashlib.sha256(_ordered(telling))
    for name, several in sorted(files.items()):
        for file in several:
            digest.update(name.encode() + hashlib.sha256(file.data).digest())
    return Asked(endpoint, model, fields, files, digest.digest())


def made(asked: Asked) -> Made:
    """The answer.

    :raises BadRequest: something is missing that the API wants
    """
    return _MAKERS[asked.endpoint](asked)


# ---- one by one ------------------------------------------------------------------------------------


def _moderation(asked: Asked) -> Made:
    value = asked.fields.get("input")
    if not value:
        raise BadRequest("you must provide an input parameter", param="input", code="invalid_type")
    results = []
    for one in value if isinstance(value, list) else [value]:
        digest = hashlib.sha256(_ordered(one)).digest()
        scores = {name: digest[i] / 1_000 for i, name in enumerate(_CATEGORIES)}
        if b"violen" in _ordered(one):
            scores["violence"] = 0.9
        flagged = {name: score > 0.5 for name, score in scores.items()}
        results.append({"flagged": any(flagged.values()), "categories": flagged, "category_scores": scores})
    answer = {"id": f"modr-{asked.digest.hex()[:24]}", "model": asked.model, "results": results}
    return Made(body=_encode(answer))


def _image(asked: Asked) -> Made:
    listed = asked.fields.get("images")  # as JSON has them: by their address or a file's id
    images = sum(len(asked.files.get(name, ())) for name in ("image", "mask"))
    images += len(listed) if isinstance(listed, list) else 0
    prompt = ""
    if asked.endpoint is not Endpoint.IMAGES_VARIATIONS:
        prompt = asked.text("prompt")
    if asked.endpoint is not Endpoint.IMAGES_GENERATIONS and not images:
        raise BadRequest("you must provide an image parameter", param="image", code="invalid_type")
    count = min(max(int(asked.fields.get("n") or 1), 1), _MOST_IMAGES)
    drawn = [base64.b64encode(png(asked.digest + bytes([i]))).decode() for i in range(count)]
    text_tokens, image_tokens = -(-len(prompt.encode()) // 4), 256 * images
    usage = {
        "input_tokens": text_tokens + image_tokens,
        "output_tokens": IMAGE_OUTPUT_TOKENS * count,
        "total_tokens": text_tokens + image_tokens + IMAGE_OUTPUT_TOKENS * count,
        "input_tokens_details": {"text_tokens": text_tokens, "image_tokens": image_tokens},
    }
    answer = Made(
        input_tokens=text_tokens + image_tokens, output_tokens=IMAGE_OUTPUT_TOKENS * count, units=count
    )
    kind = "image_generation" if asked.endpoint is Endpoint.IMAGES_GENERATIONS else "image_edit"
    if asked.streams:
        partial = [
            {"type": f"{kind}.partial_image", "b64_json": one, "partial_image_index": i, **_LOOKS}
            for i, one in enumerate(drawn)
        ]
        each = {
            "input_tokens": usage["input_tokens"],
            "output_tokens": IMAGE_OUTPUT_TOKENS,
            "total_tokens": text_tokens + image_tokens + IMAGE_OUTPUT_TOKENS,
            "input_tokens_details": usage["input_tokens_details"],
        }
        none = {**each, "input_tokens": 0, "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}
        ends = [
            {"type": f"{kind}.completed", "b64_json": one, "usage": none if i else each, **_LOOKS}
            for i, one in enumerate(drawn)
        ]
        answer.kind, answer.stream = _SSE, _stream(partial, ends)
    else:
        answer.body = _encode(
            {"created": 1_700_000_000, "data": [{"b64_json": one} for one in drawn], "usage": usage}
        )
    return answer


_LOOKS = {
    "created_at": 1_700_000_000,
    "size": "1024x1024",
    "quality": "low",
    "background": "opaque",
    "output_format": "png",
}


def _speech(asked: Asked) -> Made:
    text = asked.text("input")
    sound = wav(asked.digest, len(text.split()))
    pieces = [sound[at : at + PIECE] for at in range(0, len(sound), PIECE)]
    if not asked.streams:
        stream = Stream(b"", [Segment(Frames(pieces), len(pieces))], b"", b"", b"", lambda _: b"")
        return Made(kind=b"audio/wav", stream=stream, units=len(text))
    deltas = [{"type": "speech.audio.delta", "audio": base64.b64encode(one).decode()} for one in pieces]
    inputs, output = -(-len(text.encode()) // 4), len(deltas)
    usage = {"input_tokens": inputs, "output_tokens": output, "total_tokens": inputs + output}
    end = {"type": "speech.audio.done", "usage": usage}
    return Made(kind=_SSE, stream=_stream(deltas, [end]), input_tokens=inputs, output_tokens=output)


def _transcription(asked: Asked) -> Made:
    files = asked.files.get("file")
    if not files:
        raise BadRequest("you must provide a file parameter", param="file", code="invalid_type")
    file = files[0]
    digest = int.from_bytes(hashlib.sha256(file.data).digest()[:8], "big")
    words = [word.decode() for word in tokens(digest, 0, _WORDS)]
    text = "".join(words)
    seconds = -(-len(file.data) // SOUND_BYTES_PER_SECOND)
    audio = seconds * TOKENS_PER_SECOND
    form = asked.fields.get("response_format") or "json"
    if form in {"text", "srt", "vtt"}:
        body = text if form == "text" else f"1\n00:00:00,000 --> 00:00:{seconds % 60:02d},000\n{text}\n"
        return Made(kind=b"text/plain; charset=utf-8", body=body.encode())  # and nobody tells what it cost
    usage: dict[str, Any]
    if asked.model.startswith("whisper"):
        answer = Made(units=seconds * 1_000)
        usage = {"type": "duration", "seconds": seconds}
    else:
        answer = Made(input_tokens=audio, output_tokens=len(words))
        usage = {
            "type": "tokens",
            "input_tokens": audio,
            "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
            "output_tokens": len(words),
            "total_tokens": audio + len(words),
        }
        if asked.streams:
            deltas = [{"type": "transcript.text.delta", "delta": word} for word in words]
            end = {"type": "transcript.text.done", "text": text, "usage": usage}
            answer.kind, answer.stream = _SSE, _stream(deltas, [end])
            return answer
    told: dict[str, Any] = {"text": text, "usage": usage}
    if form == "verbose_json":
        told |= {"task": "transcribe", "language": "english", "duration": float(seconds), "segments": []}
    answer.body = _encode(told)
    return answer


def _rerank(asked: Asked) -> Made:
    query = asked.text("query")
    documents = asked.fields.get("documents")
    if not isinstance(documents, list) or not documents:
        raise BadRequest("you must provide documents", param="documents", code="invalid_type")
    digests = [hashlib.sha256(query.encode() + _ordered(one)).digest() for one in documents]
    scores = [int.from_bytes(digest[:2], "big") / 65_535 for digest in digests]
    ranked = sorted(range(len(documents)), key=lambda index: -scores[index])
    ranked = ranked[: asked.fields.get("top_n") or len(documents)]
    searches = -(-len(documents) // DOCUMENTS_PER_SEARCH)
    answer = {
        "id": asked.digest.hex()[:32],
        "results": [{"index": index, "relevance_score": scores[index]} for index in ranked],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": searches}},
    }
    return Made(body=_encode(answer), units=searches)


_MAKERS: dict[Endpoint, Callable[[Asked], Made]] = {
    Endpoint.MODERATIONS: _moderation,
    Endpoint.IMAGES_GENERATIONS: _image,
    Endpoint.IMAGES_EDITS: _image,
    Endpoint.IMAGES_VARIATIONS: _image,
    Endpoint.SPEECH: _speech,
    Endpoint.TRANSCRIPTIONS: _transcription,
    Endpoint.TRANSLATIONS: _transcription,
    Endpoint.RERANK: _rerank,
}


# ---- their form ------------------------------------------------------------------------------------


def _stream(events: list[dict[str, Any]], ends: list[dict[str, Any]]) -> Stream:
    """The events, each as one token, and then the closing ones."""
    frames = [_event(one) for one in events]
    finish, terminator = b"".join(map(_event, ends[:-1])), _event(ends[-1])
    error = _event(
        {"type": "error", "error": {"message": "The server had an error.", "type": "server_error"}}
    )
    segment = Segment(Frames(frames), len(frames))
    return Stream(b"", [segment], finish, terminator, b'data: {"type": "transcr\n\n', lambda _: error)


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), _encode(value))


def png(digest: bytes) -> bytes:
    """An image of eight by eight squares, coloured by the digest."""
    colours = hashlib.shake_128(digest).digest(8 * 8 * 3)
    rows = b"".join(b"\0" + colours[row * 24 : row * 24 + 24] for row in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def wav(digest: bytes, words: int) -> bytes:
    """A tenth of a second for each word, of a tone that the digest chooses."""
    length = min(max(words, 1), _MOST_SECONDS * 10) * (RATE // 10)
    period = 8 + digest[0] % 32
    wave = bytes(128 + int(100 * math.sin(2 * math.pi * at / period)) for at in range(period))
    data = (wave * (length // period + 1))[:length]
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + length, b"WAVE", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8, b"data", length)  # fmt: skip
    return head + data
