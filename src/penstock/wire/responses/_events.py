"""The names of the events that end a stream of a response."""

from __future__ import annotations

from typing import Final

COMPLETED: Final = "response.completed"
INCOMPLETE: Final = "response.incomplete"
FAILED: Final = "response.failed"
CANCELLED: Final = "response.cancelled"
ERROR: Final = "error"

SUCCESSFUL_EVENTS: Final = frozenset({COMPLETED, INCOMPLETE})
"""The answer is whole: the model was done, or a limit that the caller knows of stopped it."""

TERMINAL_EVENTS: Final = frozenset({COMPLETED, INCOMPLETE, FAILED, CANCELLED, ERROR})
"""Nothing comes after one of these; a stream that ends without one was broken."""
