"""A transport for SDKs that sends every body in one coding: what an application can do by itself."""

from __future__ import annotations

import gzip

import httpx2
import zstandard

CODINGS = {
    "gzip": lambda body: gzip.compress(body, 6),
    "zstd": lambda body: zstandard.ZstdCompressor(level=3).compress(body),
}


class Coded(httpx2.BaseTransport):
    """Sends every body in one coding."""

    def __init__(self, coding):
        self._coding = coding
        limits = httpx2.Limits(max_connections=1_000, max_keepalive_connections=100)  # the SDKs' own
        self._inner = httpx2.HTTPTransport(limits=limits)
        self.sent = 0

    def handle_request(self, request):
        body = request.content
        if self._coding and body:
            body = CODINGS[self._coding](body)
            request.headers["Content-Encoding"] = self._coding
            request.headers["Content-Length"] = str(len(body))
            request.stream = httpx2.ByteStream(body)
        self.sent += len(body)
        return self._inner.handle_request(request)

    def close(self):
        self._inner.close()
