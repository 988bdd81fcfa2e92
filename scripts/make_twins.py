"""Write the client's twins: from the one that is async and for httpx2, those for httpx, and the sync ones.

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
NOTE = "# Made from _async_httpx2.py by scripts/make_twins.py; change that one.\n\n"

TO_SYNC = (  # in this order
    (r"await anyio\.to_thread\.run_sync\(work, \*args\)", "work(*args)"),
    (r"with anyio\.CancelScope\(shield=True\):", "with nullcontext():  # async, this must not be cancelled"),
    (r"anyio\.sleep", "time.sleep"),
    (r"import anyio\n", ""),
    (r"import urllib\.request\n", "import time\nimport urllib.request\n"),
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
)
TO_HTTPX = ((r"\bhttpx2\b", "httpx"),)


def twins() -> dict[Path, str]:
    """Every twin with its text."""
    source = SOURCE.read_text()
    head, _, rest = source.partition('\n"""\n')
    source = f'{head.partition(chr(10))[0]}"""\n{rest}' if rest else source
    texts = {
        "_sync_httpx2.py": TO_SYNC,
        "_async_httpx.py": TO_HTTPX,
        "_sync_httpx.py": TO_SYNC + TO_HTTPX,
    }
    return {
        CLIENT / name: _formatted(NOTE + _substituted(source, rules), name) for name, rules in texts.items()
    }


def _substituted(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _formatted(text: str, name: str) -> str:
    """As ruff would have it: lines may be shorter now, and imports in another order."""
    for command in (["check", "--select", "I", "--fix-only", "--quiet"], ["format", "--quiet"]):
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
            print(f"{path.name} is not what scripts/make_twins.py makes of {SOURCE.name}", file=sys.stderr)
        return 1 if stale else 0
    for path, text in twins().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
