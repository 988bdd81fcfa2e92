"""What the official SDKs can ask for and no gateway answers: by path, and where it is to be had.

Whatever names no model, and is kept or run by one provider, is that provider's: which one is meant, nothing in such a
request says.  Whoever asks is told so, instead of only that there is nothing.
"""

from __future__ import annotations

from typing import Final

PROVIDERS: Final = "one provider keeps and runs it, so ask that one itself"
_SUCCESSORS: Final = "responses and conversations have taken its place"
_LIVE: Final = "sound is not relayed both ways at once, so ask the provider itself"
_ACCOUNTS: Final = (
    "accounts at a provider are its own affair; keys and limits of this gateway stand in its configuration"
)
_FORM: Final = (
    "files are kept in OpenAI's form alone, and known to no provider; send what is in them with the message"
)
_STORED: Final = (
    "completions that were stored are with the upstream that has stored them; responses are kept here"
)

ELSEWHERE: Final[dict[str, str]] = {
    "/v1/chat/completions": _STORED,
    "/v1/assistants": _SUCCESSORS,
    "/v1/threads": _SUCCESSORS,
    "/v1/live": _LIVE,
    "/v1/realtime": _LIVE,
    "/v1/organization": _ACCOUNTS,
    "/v1/organizations": _ACCOUNTS,
    "/v1/projects": _ACCOUNTS,
    **dict.fromkeys(
        (
            "/v1/agents",
            "/v1/audio/voice_consents",
            "/v1/audio/voices",
            "/v1/chatkit",
            "/v1/containers",
            "/v1/content_provenance_checks",
            "/v1/decisions",
            "/v1/deployment_runs",
            "/v1/deployments",
            "/v1/dreams",
            "/v1/environments",
            "/v1/evals",
            "/v1/fine_tuning",
            "/v1/memory_stores",
            "/v1/safety",
            "/v1/sessions",
            "/v1/skills",
            "/v1/tunnels",
            "/v1/user_profiles",
            "/v1/vaults",
            "/v1/vector_stores",
            "/v1/videos",
            "/v1/webhook_endpoints",
            "/v1/webhook_event_types",
        ),
        PROVIDERS,
    ),
}
"""Beginnings of paths, and what to do instead."""

ANTHROPICS_FILES: Final = _FORM
"""The same of ``/v1/files``, for who asks by Anthropic's API."""


def where(path: str) -> str:
    """What to do instead, to be put behind what is not there; empty: nobody has such a path."""
    steps = (path if path.startswith("/v1/") else "/v1" + path).split("/")
    for depth in (3, 4):
        if found := ELSEWHERE.get("/".join(steps[:depth])):
            return ": " + found
    return ""
