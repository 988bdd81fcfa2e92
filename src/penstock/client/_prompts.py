"""Prompts with less in them before they are sent: by the gateway's own rules and code, and only where asked for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.config.model import PromptConfig
from penstock.config.patterns import resolve
from penstock.errors import BadRequest
from penstock.messages import Endpoint
from penstock.wire import request as wire_request
from penstock.wire.prompt_left import Left, read_stated
from penstock.wire.tidy import ENDPOINTS, tidied

HEADER = "Penstock-Prompt-Changed"


def read_rules(told: Mapping[str, object]) -> dict[str, PromptConfig]:
    """The rules of each model, as an application says them.

    :raises ValueError: there is no such rule, or it has no such value
    """
    try:
        return msgspec.convert(dict(told), dict[str, PromptConfig])
    except msgspec.ValidationError as error:
        raise ValueError(f"prompts: {error}") from None


def shortened(
    rules: Mapping[str, PromptConfig], endpoint: Endpoint | None, headers: Mapping[str, str], body: bytes
) -> tuple[bytes, Left] | None:
    """The body of a call with less in its prompt, and what was left out; None: nothing was.

    :param headers: of the call, case-insensitive
    """
    if endpoint not in ENDPOINTS or "content-encoding" in headers:
        return None
    try:
        asked = wire_request.read(endpoint, body)
    except BadRequest:  # which is for the server to say
        return None
    name = resolve(rules, asked.model)
    found = tidied(endpoint, asked.fields, rules[name]) if name is not None else None
    if found is None:
        return None
    fields, left = found
    return wire_request.rewritten(fields, asked.model), left


def stated(left: Left, told: str | None) -> str:
    """What the application is told.

    :param told: what a gateway says that it has left out of the rest
    """
    more = read_stated(told.encode("latin-1", "replace")) if told is not None else None
    return (left if more is None else left.then(more)).stated().decode()
