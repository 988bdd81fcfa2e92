"""Requests that a browser makes on behalf of a page that is somebody else's.

Any page in the world can have a browser send a form or a text to this machine; it is not told the answer, but what the
request does is done.  Browsers say whose page it is, and a page cannot change that: ``Sec-Fetch-Site`` (Fetch Metadata)
towards TLS and this machine, ``Origin`` (Fetch, 3.1) with everything that is no mere reading.  Programs say neither.
"""

from __future__ import annotations

from penstock.messages import Headers

# What else has an origin was installed by somebody: an extension, an app.
_OF_PAGES = (b"http://", b"https://")
_OWN = frozenset({b"same-origin", b"none"})


def is_foreign(headers: Headers) -> bool:
    """Whether a page that is not this server's own has made the request."""
    origin = headers.get(b"origin")
    if origin is None:
        return False
    origin = origin.lower()
    if origin != b"null" and not origin.startswith(_OF_PAGES):
        return False
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in _OWN
    return origin.partition(b"://")[2] != headers.get(b"host", b"").lower()
