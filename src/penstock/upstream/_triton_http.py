"""Triton over HTTP, in the form in which the upstream calls tritonclient over gRPC.

For where gRPC does not get through: some proxies and load balancers.  Models that answer in pieces (decoupled) cannot be
asked so: Triton's HTTP has no stream of tensors.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from penstock.errors import BadRequest, UpstreamBroken, UpstreamUnreachable


class _Output(NamedTuple):
    name: str
    datatype: str


class _Response(NamedTuple):
    outputs: list[_Output]


class HTTPResult:
    """One answer; what of gRPC's is looked at."""

    __slots__ = ("_result",)

    def __init__(self, result: Any) -> None:
        self._result = result

    def __repr__(self) -> str:
        return f"<HTTPResult {self.get_response()}>"

    def get_response(self) -> _Response:
        told = self._result.get_response()
        return _Response([_Output(each["name"], each["datatype"]) for each in told.get("outputs", ())])

    def as_numpy(self, name: str) -> Any:
        return self._result.as_numpy(name)


class HTTPClient:
    """tritonclient's, over HTTP.

    :param ssl: with TLS; an ``ssl.SSLContext``, or true
    """

    def __init__(self, address: str, ssl: Any) -> None:
        from tritonclient.http.aio import InferenceServerClient  # noqa: PLC0415 - an extra

        self._address = address
        self._client = InferenceServerClient(
            address, ssl=bool(ssl), ssl_context=None if isinstance(ssl, bool) else ssl
        )

    def __repr__(self) -> str:
        return f"<HTTPClient {self._address}>"

    async def get_model_config(self, name: str, *, headers: dict[str, str], as_json: bool) -> dict[str, Any]:
        """As over gRPC, where it is a member of something."""
        del as_json  # it always is
        return {"config": await self._called(self._client.get_model_config(name, headers=headers))}

    async def infer(
        self, name: str, inputs: list[Any], *, client_timeout: float | None = None, **settings: Any
    ) -> HTTPResult:
        """One run of a model.

        :param client_timeout: seconds, at most
        """
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415

        call = self._called(self._client.infer(name, inputs, **settings))
        if client_timeout is None:
            return HTTPResult(await call)
        try:
            async with asyncio.timeout(client_timeout):
                return HTTPResult(await call)
        except TimeoutError:
            raise InferenceServerException("the call's time is over", status="504") from None

    def stream_infer(self, *_: Any, **__: Any) -> Any:
        """:raises BadRequest: there is no such thing"""
        raise BadRequest(
            "this model answers in pieces, which Triton sends over gRPC only: set triton.protocol to grpc",
            param="model",
        )

    async def close(self) -> None:
        await self._client.close()

    async def _called(self, call: Any) -> Any:
        import aiohttp  # noqa: PLC0415

        try:
            return await call
        except aiohttp.ClientConnectorError as error:
            raise UpstreamUnreachable(f"{self._address} cannot be reached") from error
        except aiohttp.ClientError as error:
            raise UpstreamBroken(f"the connection to {self._address} broke: {error}") from error


__all__ = ["HTTPClient", "HTTPResult"]
