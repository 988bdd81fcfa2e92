"""What the messages and tools of a request for a response say, part by part."""

from __future__ import annotations

from typing import Literal

from penstock.errors import BadRequest, Untranslatable
from penstock.messages import JSON
from penstock.wire.conversation import (
    Audio,
    Document,
    Image,
    Part,
    Refusal,
    Text,
)
from penstock.wire.responses._strict import Object, Strict, converted, no_equivalent


class _Breakpoint(Strict):
    mode: Literal["explicit"]
    ttl: str | None = None


class _InputText(Strict):
    type: str
    text: str
    prompt_cache_breakpoint: _Breakpoint | None = None


class _InputImage(Strict):
    type: str
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _InputFile(Strict):
    type: str
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: _Breakpoint | None = None


class _AudioData(Strict):
    data: str
    format: str


class _InputAudio(Strict):
    type: str
    input_audio: _AudioData


class _OutputText(Strict):
    type: str
    text: str
    annotations: JSON = None
    logprobs: JSON = None


class _OutputRefusal(Strict):
    type: str
    refusal: str


def message_part(part: Object, role: str, where: str) -> Part:
    """What a message says in one of its parts.

    :raises BadRequest: it is no such part
    :raises Untranslatable: no upstream of another API knows such
    """
    kind = part.get("type")
    if role == "assistant":
        if kind == "output_text":
            return Text(converted(_OutputText, part, where).text)
        if kind == "refusal":
            return Refusal(converted(_OutputRefusal, part, where).refusal)
    elif kind == "input_audio":
        audio = converted(_InputAudio, part, where).input_audio
        return Audio(audio.data, audio.format)
    return _input_part(part, where)


def result_parts(output: str | list[Object], where: str) -> tuple[Text | Image | Document, ...]:
    """What a tool has answered; raises as :func:`message_part` does."""
    if isinstance(output, str):
        return (Text(output),)
    return tuple(_input_part(part, f"{where}[{index}]") for index, part in enumerate(output))


def _input_part(part: Object, where: str) -> Text | Image | Document:
    kind = part.get("type")
    if kind == "input_text":
        text = converted(_InputText, part, where)
        return Text(text.text, cache=_cache(text.prompt_cache_breakpoint))
    if kind == "input_image":
        return _image(converted(_InputImage, part, where), where)
    if kind == "input_file":
        return _document(converted(_InputFile, part, where), where)
    if kind is None:
        raise BadRequest(f"{where} must have a type", param=f"{where}.type", code="missing_parameter")
    raise Untranslatable(f"{where} cannot be a {kind}", param=f"{where}.type")


def _image(image: _InputImage, where: str) -> Image:
    if image.file_id is not None:
        raise Untranslatable(
            f"{where} names an uploaded file, which the upstream of this model does not have;"
            " send the image as a data: URL",
            param=f"{where}.file_id",
        )
    if not image.image_url:
        raise BadRequest(f"{where} must have image_url", param=f"{where}.image_url", code="missing_parameter")
    detail = "" if image.detail in {None, "auto"} else image.detail or ""
    cache = _cache(image.prompt_cache_breakpoint)
    if image.image_url.startswith("data:"):
        media_type, data = _data_url(image.image_url, f"{where}.image_url")
        return Image(data=data, media_type=media_type, detail=detail, cache=cache)
    return Image(url=image.image_url, detail=detail, cache=cache)


def _document(file: _InputFile, where: str) -> Document:
    if file.detail not in {None, "auto"}:
        raise no_equivalent(f"{where}.detail")
    sources = [name for name in ("file_data", "file_url", "file_id") if getattr(file, name)]
    if len(sources) != 1:
        raise BadRequest(f"{where} must have one of file_data, file_url and file_id", param=where)
    name = file.filename or ""
    media_type, data = "", file.file_data or ""
    if data.startswith("data:"):
        media_type, data = _data_url(data, f"{where}.file_data")
    elif data and name.lower().endswith(".pdf"):
        media_type = "application/pdf"
    return Document(
        media_type=media_type,
        data=data,
        url=file.file_url or "",
        file_id=file.file_id or "",
        name=name,
        cache=_cache(file.prompt_cache_breakpoint),
    )


def _cache(breakpoint_: _Breakpoint | None) -> JSON:
    return None if breakpoint_ is None else {"type": "ephemeral"}


def _data_url(url: str, where: str) -> tuple[str, str]:
    head, comma, data = url.partition(",")
    media_type, semicolon, coding = head[len("data:") :].rpartition(";")
    if not comma or not semicolon or coding != "base64":
        raise BadRequest(f"{where} must be data:<media type>;base64,<data>", param=where)
    return media_type, data
