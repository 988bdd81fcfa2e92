"""The OpenAI Responses API (``/v1/responses``) as a caller's dialect.

An upstream that has the API itself is passed through, and of this package only the names of its events
matter.  Any other upstream is asked in its own dialect, and the answer is written as a response object
or a stream of response events.  Such an upstream keeps no state, and neither does a translation:

- ``previous_response_id``, references to items and ``conversation`` are refused unless the gateway itself still has
  what they name (:mod:`._history`, :mod:`._conversations`), ``prompt`` always;
- ``background`` is the gateway's own affair: it runs the call without readers, and no such upstream is told;
- ``store`` is accepted, because OpenAI's default is true and every client would break; the response
  object says ``"store": false``;
- ``metadata`` is echoed in the response object and goes no further;
- a reasoning item carries all that the next turn needs in ``encrypted_content``, asked for or not: it
  comes back unharmed even from clients that throw the readable text away (see :mod:`._reasoning`).
"""

from __future__ import annotations

from penstock.wire.responses._answer import encode_answer
from penstock.wire.responses._asked import Asked
from penstock.wire.responses._conversations import (
    added,
    conversation_named,
    gone_on,
    kept_item,
)
from penstock.wire.responses._events import SUCCESSFUL_EVENTS, TERMINAL_EVENTS
from penstock.wire.responses._fold import fold_stream
from penstock.wire.responses._history import Earlier, goes_on, named, whole
from penstock.wire.responses._input_items import input_items, previous_of
from penstock.wire.responses._prompt import decode_prompt
from penstock.wire.responses._reading import StreamDecoder
from penstock.wire.responses._resumed import ResumedEncoder
from penstock.wire.responses._settings import Settings, read_settings
from penstock.wire.responses._stored import (
    id_in,
    id_of,
    sequence_number,
    told_as,
    without_answer,
)
from penstock.wire.responses._stream import StreamEncoder
from penstock.wire.responses._unfold import unfold_body

__all__ = [
    "SUCCESSFUL_EVENTS",
    "TERMINAL_EVENTS",
    "Asked",
    "Earlier",
    "ResumedEncoder",
    "Settings",
    "StreamDecoder",
    "StreamEncoder",
    "added",
    "conversation_named",
    "decode_prompt",
    "encode_answer",
    "fold_stream",
    "goes_on",
    "gone_on",
    "id_in",
    "id_of",
    "input_items",
    "kept_item",
    "named",
    "previous_of",
    "read_settings",
    "sequence_number",
    "told_as",
    "unfold_body",
    "whole",
    "without_answer",
]
