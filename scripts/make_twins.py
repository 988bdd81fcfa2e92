"""Write the client's twins: of what is async the sync one, and of the shell that is for httpx2 those for httpx.

    python scripts/make_twins.py          write them
    python scripts/make_twins.py --check  fail if one is not what it would write

Substitution word by word, as in unasync: so the source may only use what has a counterpart in ``TO_SYNC``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "src" / "penstock" / "client"
SOURCE = CLIENT / "_async_httpx2.py"
UPLOADS = CLIENT / "_async_uploads_httpx2.py"
HEADS = CLIENT / "_async_heads.py"
NOTE = "# Made from {} by scripts/make_twins.py; change that one.\n\n"

TO_SYNC = (  # in this order
    (r"await anyio\.to_thread\.run_sync\(work, \*args\)", "work(*args)"),
    (r"with anyio\.CancelScope\(shield=True\):", "with nullcontext():  # async, this must not be cancelled"),
    (r"anyio\.sleep", "time.sleep"),
    (r"import anyio\n", "import time\n"),
    (r"from contextlib import aclosing", "from contextlib import closing, nullcontext"),
    (r"\basync (def|for|with) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\baclosing\b", "closing"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"__aiter__", "__iter__"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"\bhandle_async_request\b", "handle_request"),
    (r"\bAsyncHTTPTransport\b", "HTTPTransport"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\bAsyncByteStream\b", "SyncByteStream"),
    (r"\bAsyncClient\b", "Client"),
    (r"\bAsyncTransport\b", "Transport"),
    (r"\basync_http_client\b", "http_client"),
    (r"\bof_tasks\b", "of_threads"),
    (r"\bTasks\b", "Threads"),
    (r"\b_async_(heads|uploads)", r"_sync_\1"),
    (r"\bAsyncConnection(s?)\b", r"Connection\1"),
    (r"  # noqa: ASYNC109.*", ""),
)
TO_HTTPX = ((r"(\b|_)http(x|core)2\b", r"\1http\2"),)


def twins() -> dict[Path, str]:
    """Every twin with its text."""
    made = (
        ("_sync_httpx2.py", SOURCE, TO_SYNC),
        ("_async_httpx.py", SOURCE, TO_HTTPX),
        ("_sync_httpx.py", SOURCE, TO_SYNC + TO_HTTPX),
        ("_sync_uploads_httpx2.py", UPLOADS, TO_SYNC),
        ("_async_uploads_httpx.py", UPLOADS, TO_HTTPX),
        ("_sync_uploads_httpx.py", UPLOADS, TO_SYNC + TO_HTTPX),
        ("_sync_heads.py", HEADS, TO_SYNC),
    )
    return {CLIENT / name: _made(source, rules, name) for name, source, rules in made}


def _made(source: Path, rules: tuple[tuple[str, str], ...], name: str) -> str:
    text = source.read_text()
    head, _, rest = text.partition('\n"""\n')
    text = f'{head.partition(chr(10))[0]}"""\n{rest}' if rest else text
    return _formatted(NOTE.format(source.name) + _substituted(text, rules), name)


def _substituted(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _formatted(text: str, name: str) -> str:
    """As ruff would have it: lines may be shorter now, imports in another order, and some of no use."""
    for command in (["check", "--select", "I,F401", "--fix-only", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(  # noqa: S603 - our own formatter
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(CLIENT / name), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def main(arguments: list[str]) -> int:
    stale = [path for path, text in twins().items() if not path.exists() or path.read_text() != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is not what scripts/make_twins.py makes", file=sys.stderr)
        return 1 if stale else 0
    for path, text in twins().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
