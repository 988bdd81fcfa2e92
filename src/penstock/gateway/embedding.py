"""Vectors of texts, by asking one of the gateway's own models at /v1/embeddings.

The question goes through the pipeline like anybody's, so it is limited, routed, retried and booked; in the ledger its
tenant is :data:`TENANT`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.batches.exchange import LineExchange
from penstock.errors import UpstreamBroken
from penstock.messages import Endpoint, Tenant
from penstock.net.exchange import Exchange
from penstock.wire.not_json import NOT_JSON

TENANT = Tenant(name="penstock", key_name="embedding")


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Vector]


_answer = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class ModelEncoder:
    """Asks a model of this gateway.

    :param answer: ``Pipeline.answer``
    :param model: as callers name it
    """

    def __init__(self, answer: Callable[[Exchange, Endpoint, Tenant], None], model: str) -> None:
        self._answer = answer
        self._model = model

    def __repr__(self) -> str:
        return f"<ModelEncoder by {self._model}>"

    async def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One row of length 1 for each text.

        :raises UpstreamBroken: there was no answer, or not one that is vectors of one length
        """
        body = _encode({"model": self._model, "input": list(texts), "encoding_format": "float"})
        exchange = LineExchange(Endpoint.EMBEDDINGS.path, body, {})
        self._answer(exchange, Endpoint.EMBEDDINGS, TENANT)
        await exchange.wait_answered()
        if exchange.status != 200:
            raise UpstreamBroken(
                f"{self._model} made no vectors: {exchange.status} {exchange.answer[:200]!r}"
            )
        try:
            found = sorted(_answer(exchange.answer).data, key=lambda vector: vector.index)
            rows = np.array([vector.embedding for vector in found], np.float32)
        except (*NOT_JSON, ValueError):
            raise UpstreamBroken(f"{self._model} answered with something else than vectors") from None
        if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
            raise UpstreamBroken(f"{self._model} did not answer with a vector for each text")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)
