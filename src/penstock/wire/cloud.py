"""Anthropic's Messages as clouds want them: the model stands in the path, and the version in the body."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from penstock.errors import BadRequest
from penstock.wire.request import members

_encode = msgspec.json.Encoder().encode


def invoked(
    body: bytes, version: str, *, betas: bytes = b"", path_streams: bool = False, keeps_model: bool = False
) -> bytes:
    """The body without its model, unless that stands nowhere else.

    :param version: what ``anthropic_version`` says where the caller's body does not
    :param betas: the caller's ``anthropic-beta``, for a cloud that wants it in the body
    :param path_streams: the path says whether the answer is streamed, and the body must not
    """
    fields = members(body)
    if not keeps_model:
        del fields["model"]
    if path_streams:
        fields.pop("stream", None)
    made: dict[str, object] = {"anthropic_version": version, **fields}
    if betas and "anthropic_beta" not in fields:
        made["anthropic_beta"] = [name.strip() for name in betas.decode("latin-1").split(",") if name.strip()]
    return _encode(made)


def segment(model: str) -> str:
    """The model's name as one segment of a path.

    :raises BadRequest: none can be made of it
    """
    if model in {"", ".", ".."}:
        raise BadRequest(f"there is no model {model!r}", param="model")
    return quote(model, safe=":@")
