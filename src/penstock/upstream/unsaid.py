"""What an upstream is not told of a call, because the configuration says so (``leave_out``)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.messages import Call

_encode = msgspec.json.Encoder().encode


def without(call: Call, names: Sequence[str]) -> Call:
    """The call as it is asked there; the same, where its body has none of these members."""
    if not names or call.fields.keys().isdisjoint(names):
        return call
    fields = {name: value for name, value in call.fields.items() if name not in names}
    return msgspec.structs.replace(call, fields=fields, body=_encode(fields))
