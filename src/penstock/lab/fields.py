"""Members of a request's body, each in the type that the API wants; the errors say it as the provider does."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.errors import BadRequest
from penstock.lab.transcript import encode


def wrong(param: str, expected: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': expected {expected}.", param=param, code="invalid_type")


def text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong(param, "a string")
    return value


def whole(body: dict[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(name, "an integer")
    if value < least:
        raise BadRequest(
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value}.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(name, "a boolean")
    return value


def mapping(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(param, "an object")
    return value


def array(value: Any, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(param, "an array")
    return value


def texts(value: Any, param: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(text(item, param) for item in array(value, param))


def model(body: dict[str, Any]) -> str:
    model = body.get("model")
    if model is None or model == "":
        raise BadRequest(
            "you must provide a model parameter", param="model", code="missing_required_parameter"
        )
    return text(model, "model")


def arguments(text: str) -> str:
    """A tool call's arguments, in one form whoever wrote them."""
    try:
        return encode(msgspec.json.decode(text or "{}"))
    except msgspec.DecodeError:
        return text
