"""How the two providers say no: status, and an error object in the API's own words."""

from __future__ import annotations

from penstock.lab import anthropic, openai
from penstock.messages import Dialect

# status or scenario -> status, message, OpenAI's type and code, Anthropic's type
_TABLE: dict[str, tuple[int, str, str, str | None, str]] = {
    "400": (400, "The request is wrong.", "invalid_request_error", None, "invalid_request_error"),
    "400-context-length": (
        400,
        "This model's maximum context length is 1000 tokens. However, your messages resulted in {tokens} tokens.",
        "invalid_request_error",
        "context_length_exceeded",
        "invalid_request_error",
    ),
    "400-content-filter": (
        400,
        "The response was filtered due to the prompt triggering our content management policy.",
        "invalid_request_error",
        "content_filter",
        "invalid_request_error",
    ),
    "401": (
        401,
        "Incorrect API key provided.",
        "invalid_request_error",
        "invalid_api_key",
        "authentication_error",
    ),
    "403": (
        403,
        "Your key may not use this.",
        "invalid_request_error",
        "permission_denied",
        "permission_error",
    ),
    "404": (
        404,
        "There is no such thing here.",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
    ),
    "405": (
        405,
        "Only POST is allowed here.",
        "invalid_request_error",
        "method_not_allowed",
        "invalid_request_error",
    ),
    "408": (408, "The request took too long.", "timeout", None, "timeout_error"),
    "409": (409, "There is a conflict.", "invalid_request_error", None, "invalid_request_error"),
    "413": (413, "The request is too large.", "invalid_request_error", None, "request_too_large"),
    "422": (422, "The request cannot be processed.", "invalid_request_error", None, "invalid_request_error"),
    "429": (429, "Rate limit reached for this model.", "requests", "rate_limit_exceeded", "rate_limit_error"),
    "500": (500, "The server had an error while processing your request.", "server_error", None, "api_error"),
    "502": (502, "Bad gateway.", "server_error", None, "api_error"),
    "503": (
        503,
        "The engine is currently overloaded, please try again later.",
        "server_error",
        None,
        "api_error",
    ),
    "504": (504, "The request timed out.", "server_error", None, "timeout_error"),
    "529": (529, "Overloaded", "server_error", None, "overloaded_error"),
}


def refusal(
    scenario: str,
    dialect: Dialect,
    number: int,
    *,
    message: str = "",
    param: str | None = None,
    code: str | None = None,
    tokens: int = 0,
) -> tuple[int, bytes]:
    """Status and body.

    :param scenario: a status, or ``400-context-length``, ``400-content-filter``
    :param message: instead of the usual one
    """
    status, usual, kind, usual_code, anthropic_kind = _TABLE[scenario]
    text = message or usual.format(tokens=tokens)
    if dialect is Dialect.ANTHROPIC:
        if scenario == "400-context-length" and not message:
            text = f"prompt is too long: {tokens} tokens > 1000 maximum"
        return status, anthropic.error(text, anthropic_kind, number)
    return status, openai.error(text, kind, code or usual_code, param)
