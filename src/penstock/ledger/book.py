"""What a ledger is called among machines that share budgets: no two may have one name, nor one ledger two.

The name of a host does not tell hosts apart: containers and machines that were made from one image often have the same,
and the same path beside it.  What one has spent would then be taken for what the other has told already.  So a new
ledger gets a file beside it with an id that nobody else draws.  One that was there before keeps the name without, under
which it is known elsewhere: with another one, what it has spent would count twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
from pathlib import Path

from penstock.sqlite_files import private_opener

_ID = re.compile(r"[0-9a-f]{32}")

log = logging.getLogger("penstock.ledger")


def book_of(ledger: str) -> str:
    """The name of this ledger; its id is drawn if neither of them is there yet.

    :param ledger: the file's path
    """
    path = Path(ledger).absolute()
    name = f"{socket.gethostname()}:{path}"
    try:
        found = _id_of(path)
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s is known to others by its host's name alone: %s", path, error)
        found = ""
    return f"{name}:{found}" if found else name


def _id_of(ledger: Path) -> str:
    beside = ledger.with_name(ledger.name + "-book")
    with contextlib.suppress(FileNotFoundError):
        return _read(beside)
    if ledger.exists():
        return ""
    # Whole or not at all, and the first one stays, however many workers begin at once.
    drawn = beside.with_name(f"{beside.name}-{secrets.token_hex(8)}")
    with open(drawn, "x", encoding="ascii", opener=private_opener) as file:
        file.write(secrets.token_hex(16))
    try:
        with contextlib.suppress(FileExistsError):
            os.link(drawn, beside)
    finally:
        drawn.unlink()
    return _read(beside)


def _read(beside: Path) -> str:
    text = beside.read_text("ascii").strip()
    if not _ID.fullmatch(text):
        raise OSError(f"{beside} holds no id")
    return text
