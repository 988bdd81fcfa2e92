"""The control port's first page: who spends, what fails, what is slow, what was saved.

The page holds no figures: its script asks the control API for them, with the ``control_key`` that somebody types in.
It needs nothing from elsewhere, and may load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def page() -> str:
    """The HTML."""
    return files("penstock.admin").joinpath("dashboard.html").read_text("utf-8")


@cache
def policy() -> str:
    """Its Content-Security-Policy: this script alone runs, and it asks this server alone."""
    script = page().partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
