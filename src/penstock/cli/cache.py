"""``penstock cache``: fill the cache of a running gateway."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import typer

from penstock.errors import ConfigError

cache = typer.Typer(no_args_is_help=True)

_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"}
)
_PATIENCE = 600.0  # seconds for one answer
_SHOWN = 5  # failures that are told apart


@cache.callback()
def _root() -> None:
    """Fill the cache of a running gateway."""


@cache.command()
def warm(
    file: Path = typer.Argument(
        ..., help="A request a line: a body, or a line of a batch; - reads standard input."
    ),
    url: str = typer.Option("http://127.0.0.1:8080", "--url", help="The gateway."),
    key: str = typer.Option(
        "", "--key", envvar="PENSTOCK_KEY", help="A caller's key: its tenant gets the answers."
    ),
    path: str = typer.Option("/v1/chat/completions", "--path", help="Where lines go that do not say it."),
    anthropic_version: str = typer.Option(
        "2023-06-01", "--anthropic-version", help="What the callers of /v1/messages name."
    ),
    concurrency: int = typer.Option(4, "--concurrency", min=1, max=256, help="Requests at once."),
) -> None:
    """Ask all questions of a file, so that their answers are there when callers ask.

    What is kept is for the gateway's configuration to say; what is there already is not asked again.  Ends
    with 1 if a request failed.
    """
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    requests = list(_requests(file, path))
    outcomes: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        task = progress.add_task("warming", total=len(requests))
        for status, trouble in pool.map(lambda one: _ask(url, key, anthropic_version, *one), requests):
            outcomes[status] += 1
            if trouble:
                failures[trouble] += 1
            progress.advance(task)
    told = ", ".join(f"{count} {status}" for status, count in sorted(outcomes.items()))
    print(f"{len(requests)} requests: {told or 'nothing to do'}")
    for trouble, count in failures.most_common(_SHOWN):
        print(f"penstock: {count} times: {trouble}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def _requests(file: Path, path: str) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies, spelt as the SDKs would: what is spelt in another way is another question (``cache.keys``).

    :raises ConfigError: the file cannot be read, or a line is no request
    """
    if path not in _PATHS:
        raise ConfigError(f"--path must be one of {', '.join(sorted(_PATHS))}")
    try:
        text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            members = _members(line)
            where = path
            if members.get("body", b"").startswith(b"{"):
                where = str(json.loads(members.get("url", json.dumps(path))))
                members = _members(members["body"])
        except ValueError as error:
            raise ConfigError(f"{file}, line {number} is no request: {error}") from None
        if where not in _PATHS:
            raise ConfigError(f"{file}, line {number} is no request to one of {', '.join(sorted(_PATHS))}")
        if "stream" in members:
            members["stream"] = b"false"
        yield (
            where,
            b"{%b}" % b",".join(b"%b:%b" % (_as_sdks(name), value) for name, value in members.items()),
        )


def _members(text: bytes) -> dict[str, bytes]:
    """The members of an object, as an SDK writes them.

    :raises ValueError: it is none
    """
    compact = msgspec.json.format(text, indent=-1)
    found = msgspec.json.decode(compact, type=dict[str, msgspec.Raw])
    return {name: _unescaped(bytes(value)) for name, value in found.items()}


def _unescaped(compact: bytes) -> bytes:
    """A compact value without the escapes that no SDK writes; one that has none keeps its bytes."""
    return _as_sdks(json.loads(compact)) if b"\\u" in compact else compact


def _as_sdks(value: object) -> bytes:
    """JSON as the HTTP client of OpenAI's SDK for Python writes it, as does that of Anthropic's."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _ask(url: str, key: str, anthropic_version: str, path: str, body: bytes) -> tuple[str, str]:
    """What ``Penstock-Status`` said, or ``failed``, and why."""
    request = urllib.request.Request(  # noqa: S310 - whatever the user names
        url.rstrip("/").removesuffix("/v1") + path, body, {"content-type": "application/json"}
    )
    if path == "/v1/messages":
        request.add_header("anthropic-version", anthropic_version)
    if key:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            answer.read()
            return answer.headers.get("penstock-status", "answered"), ""
    except urllib.error.HTTPError as error:
        with error:
            return "failed", f"{error.code} {error.read(300).decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return "failed", str(error)
