"""How reasoning survives the way to the caller and back.

Anthropic's upstreams sign each thinking block and refuse it, in the next turn of a tool loop, if a
letter of it has changed.  A response's reasoning item has no member for a signature, and clients are
free to drop its readable text: LangChain does when it streams.  What every client that replays
reasoning at all does keep is ``encrypted_content``, which is opaque by contract.  So the whole block
goes there, and on the way back it is the only thing that counts; the readable text is for display.
Nothing is secret in it: the caller has seen the text anyway, and the signature is the provider's.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from penstock.errors import BadRequest, Untranslatable
from penstock.wire.conversation import Thinking

_MARK: Final = "penstock1."
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str, str]).decode


def seal(thinking: Thinking) -> str:
    """The block as an opaque string for ``encrypted_content``."""
    block = _encode((thinking.text, thinking.signature, thinking.redacted))
    return _MARK + base64.urlsafe_b64encode(block).decode()


def unseal(sealed: str, where: str) -> Thinking:
    """The block that :func:`seal` was given.

    :param where: the path of the member, for the error
    :raises Untranslatable: another provider made the string, and only it can read it
    :raises BadRequest: ours, but damaged
    """
    if not sealed.startswith(_MARK):
        raise Untranslatable(
            f"{where} was made by another provider; the upstream of this model cannot read it", param=where
        )
    try:
        text, signature, redacted = _decode(base64.urlsafe_b64decode(sealed[len(_MARK) :]))
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        raise BadRequest(f"{where} is damaged; send it back as it came", param=where) from None
    return Thinking(text=text, signature=signature, redacted=redacted)
