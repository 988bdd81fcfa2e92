"""Puts the fragments of ``changes.d/`` together: ``changelog.py`` shows what the next release brings, and
``changelog.py VERSION`` makes it so, in ``CHANGELOG.md`` and in the package's version, and removes the fragments.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TITLE = "# Changes\n"

# A folder of changes.d, and what its fragments are about; those beside the folders come last.
AREAS = {
    "calling": "What callers speak",
    "answers": "Answers that break, or are asked for twice",
    "sending": "Large requests and files",
    "batches": "Batches and webhooks",
    "caching": "Caching",
    "limits": "Limits and queues",
    "routing": "Who is asked",
    "providers": "Providers",
    "ledger": "Ledger",
    "operating": "Operating it",
    "client": "The client",
    "local-models": "Local models",
    "optimizing": "Making models smaller",
    "trying": "To try and test",
    "": "Also",
}
# In the order in which they stand, behind the fragment that has its area's name; what is merely new says so itself.
KINDS = {"new": "", "changed": "Changed: ", "fixed": "Fixed: ", "removed": "Removed: "}


def section(fragments: Path) -> str:
    """What the fragments say, by area, and in each by kind.

    :raises SystemExit: a fragment lies where it belongs to no area
    """
    found: dict[str, list[tuple[bool, int, str, str]]] = {area: [] for area in AREAS}
    for path in sorted(fragments.rglob("*.*.md")):
        folder = path.parent.relative_to(fragments).as_posix()
        area = "" if folder == "." else folder
        subject, kind, _ = path.name.split(".")
        if area not in AREAS or kind not in KINDS:
            raise SystemExit(f"{path}: there is no such area or kind")
        line = f"- {KINDS[kind]}{path.read_text('utf-8')}"
        found[area].append((subject != area, list(KINDS).index(kind), subject, line))
    return "\n".join(
        f"### {title}\n\n{''.join(line for *_, line in sorted(found[area]))}"
        for area, title in AREAS.items()
        if found[area]
    )


def with_section(changelog: str, version: str, day: dt.date, text: str) -> str:
    """The change log with one section more, the newest first."""
    earlier = changelog.removeprefix(TITLE)
    return f"{TITLE}\n## {version} ({day})\n\n{text}{earlier}"


def release(root: Path, version: str, day: dt.date) -> None:
    """Make the fragments a section of the change log, and the version the package's.

    :raises SystemExit: the version is no version, or there is nothing to release
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+(rc\d+)?", version):
        raise SystemExit(f"{version} is no version such as 0.2.0 or 0.2.0rc1")
    fragments, changelog = root / "changes.d", root / "CHANGELOG.md"
    text = section(fragments)
    if not text:
        raise SystemExit("changes.d has no fragments: there is nothing to release")
    package = root / "src" / "penstock" / "__init__.py"
    code = re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', package.read_text("utf-8"))
    package.write_text(code, "utf-8")
    earlier = changelog.read_text("utf-8") if changelog.exists() else TITLE
    changelog.write_text(with_section(earlier, version, day, text), "utf-8")
    for path in fragments.rglob("*.*.md"):
        path.unlink()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        release(ROOT, sys.argv[1], dt.datetime.now(dt.UTC).date())
    else:
        print(section(ROOT / "changes.d"), end="")
