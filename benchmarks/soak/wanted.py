"""What visitors ask for, in bytes, and what they keep of the answer."""

from __future__ import annotations

import json
from typing import Any

QUESTION = "Tell me a story about a penstock, and make it long. " * 8
ENDS = {
    "/v1/chat/completions": b"data: [DONE]",
    "/v1/completions": b"data: [DONE]",
    "/v1/responses": b"response.completed",
    "/v1/messages": b"message_stop",
}
PATHS = tuple(ENDS)
KINDS = ("openai", "anthropic", "sim")


def body(path: str, model: str, *, stream: bool, mark: int) -> bytes:
    question = f"{mark} {QUESTION}"  # the mark makes the prompt another one
    asked: dict[str, Any] = {"model": model}
    if path == "/v1/embeddings":
        return json.dumps(asked | {"input": [question, "short"]}).encode()
    if path == "/v1/completions":
        asked |= {"prompt": question, "max_tokens": 100_000}
    elif path == "/v1/responses":
        asked |= {"input": question}
    else:
        asked |= {"messages": [{"role": "user", "content": question}]}
        if path.startswith("/v1/messages"):
            asked["max_tokens"] = 100_000
    if stream:
        asked["stream"] = True
    return json.dumps(asked).encode()


def head(path: str, length: int, *, method: str = "POST", more: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\n{more}content-length: {length}\r\n\r\n"
    ).encode()


class Answer:
    """What came back: the end of it, and whether ``mark`` was in it (by which whole streams are known)."""

    def __init__(self, mark: bytes = b"") -> None:
        self.status = 0
        self.tail = b""
        self.marked = False
        self._mark = mark

    def on_head(self, status: int, headers: Any) -> None:
        del headers
        self.status = status

    def on_data(self, data: bytes) -> None:
        joined = self.tail + data
        self.marked = self.marked or self._mark in joined
        self.tail = joined[-2_000:]
