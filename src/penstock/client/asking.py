"""One question and its answer as text, piece by piece: what ``penstock ask`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec

from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON

PATH = "/v1/chat/completions"


class AskError(Exception):
    """There is no answer, or not all of it."""


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = _Delta()


class _Error(msgspec.Struct):
    message: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Error | str | None = None


_chunk = msgspec.json.Decoder(_Chunk).decode


def ask(client: httpx2.Client, url: str, body: dict[str, Any], key: str = "") -> Iterator[str]:
    """The pieces of the answer, as they come.

    :param url: of the server, with or without ``/v1``
    :param body: of a chat completion
    :raises AskError: what the server said instead, or why nothing came
    """
    url = url.rstrip("/").removesuffix("/v1") + PATH
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    splitter = sse.Splitter()
    try:
        with client.stream("POST", url, json={**body, "stream": True}, headers=headers) as response:
            if response.status_code != 200:
                raise AskError(_refusal(response.status_code, response.read()))
            for piece in response.iter_bytes():
                for frame in splitter.feed(piece):
                    if text := _text(frame):
                        yield text
    except httpx2.HTTPError as error:
        raise AskError(f"{url}: {str(error) or type(error).__name__}") from error


def _text(frame: bytes) -> str:
    data = sse.data_of(frame)
    if not data or data == b"[DONE]":
        return ""
    try:
        chunk = _chunk(data)
    except NOT_JSON:
        raise AskError("the server sent an event that makes no sense") from None
    if chunk.error is not None:
        raise AskError(chunk.error if isinstance(chunk.error, str) else chunk.error.message)
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def _refusal(status: int, body: bytes) -> str:
    try:
        error = _chunk(body).error
    except NOT_JSON:
        error = None
    told = error if isinstance(error, str) else error.message if error is not None else ""
    return f"{told or 'no answer'} (status {status})"
