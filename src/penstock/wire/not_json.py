"""What msgspec raises at bytes that are no JSON, or JSON of another shape than expected."""

from __future__ import annotations

import msgspec

NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Text that is not UTF-8 is a ``UnicodeError``, and what is nested too deeply a ``RecursionError``."""
