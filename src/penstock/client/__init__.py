"""The client's half: an ``http_client=`` for any SDK, with which calls survive what networks and servers do.

* :func:`http_client`, :func:`async_http_client`: the clients, also as ``penstock.http_client``
* :class:`CacheOptions`: to keep answers on the caller's side
* :class:`Statistics`, :class:`Notice`: what became of the calls
"""

from __future__ import annotations

from penstock.client.clients import async_http_client, http_client
from penstock.client.options import CacheOptions
from penstock.client.statistics import Notice, Statistics

__all__ = ["CacheOptions", "Notice", "Statistics", "async_http_client", "http_client"]
