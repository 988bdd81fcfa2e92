"""Writes the generated parts of the manual anew: what stands between the two marks of a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.config.providers import PROVIDERS
from penstock.config.schema import reference
from penstock.wire import left_out

DOCS = Path(__file__).parent.parent / "docs"
END = "<!-- end -->\n"


class Part(msgspec.Struct, frozen=True):
    """The generated part of one page."""

    page: Path
    source: str
    text: Callable[[], str]

    @property
    def begin(self) -> str:
        return f"<!-- made from {self.source} by `make docs` -->\n"

    def updated(self, page: str) -> str:
        """The page with this part made anew."""
        head, begin, rest = page.partition(self.begin)
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{self.page} has lost its marks")
        return f"{head}{begin}\n{self.text()}\n\n{END}{tail}"


_LEFT_OUT = {
    "CHAT_REQUEST": "a chat completion's body",
    "CHAT_STREAM_OPTIONS": "its `stream_options`",
    "CHAT_MESSAGE": "its assistant's messages",
    "CHAT_TOOL_MESSAGE": "its tool messages",
    "CHAT_PART": "its content parts",
    "CHAT_TOOL_CALL": "its tool calls",
    "MESSAGES_REQUEST": "a Messages body",
    "MESSAGES_TOOL": "its tools",
    "NEUTRAL_TO_ANTHROPIC": "anything, towards Anthropic",
    "NEUTRAL_TO_CHAT": "anything, towards chat completions",
    "NEUTRAL_TO_CONVERSE": "anything, towards Converse",
}


def left_out_table() -> str:
    """What a translation leaves out, and why it may."""
    lines = ["| in | what | why |", "|---|---|---|"]
    for table, where in _LEFT_OUT.items():
        lines += [f"| {where} | `{what}` | {why} |" for what, why in getattr(left_out, table).items()]
    return "\n".join(lines)


def providers_table() -> str:
    """The hosted providers that are looked for in the environment."""
    lines = ["| provider | its key | another address | answers |", "|---|---|---|---|"]
    for provider in PROVIDERS:
        names = (*provider.models, f"{provider.name}/*")
        cells = (provider.key_variables, provider.url_variables, names)
        lines.append(f"| {provider.name} | " + " | ".join(map(_listed, cells)) + " |")
    return "\n".join(lines)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PARTS = (
    Part(DOCS / "configuration-reference.md", "src/penstock/config/model", reference),
    Part(DOCS / "configuration.md", "src/penstock/config/providers.py", providers_table),
    Part(DOCS / "http-api.md", "src/penstock/wire/left_out.py", left_out_table),
)


if __name__ == "__main__":
    for part in PARTS:
        part.page.write_text(part.updated(part.page.read_text(encoding="utf-8")), encoding="utf-8")
