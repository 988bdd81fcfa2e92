"""How what an extra of the package brings is installed, for messages."""

from __future__ import annotations

import shlex
import sys


def install_command(extra: str = "") -> str:
    """A line for the shell.  It names this very Python: another one's ``pip`` has never heard of this package, and finds a
    stranger's under its name.
    """
    package = f"'penstock[{extra}]'" if extra else "penstock"
    return f"{shlex.quote(sys.executable or 'python')} -m pip install {package}"
