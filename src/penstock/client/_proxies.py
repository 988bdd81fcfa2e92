"""Which proxy the environment wants for a request: without I/O, but for what the operating system keeps of it."""

from __future__ import annotations

import urllib.request


class Proxies:
    """``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` as they were when this was made, and ``NO_PROXY`` as it is.

    :param wanted: whether the environment is looked at; else there is none for anything
    """

    def __init__(self, *, wanted: bool) -> None:
        found = urllib.request.getproxies() if wanted else {}
        # A host and a port are the name of an HTTP proxy, as for every other tool.
        self._by_scheme = {
            scheme: url if "://" in url else f"http://{url}"
            for scheme, url in found.items()
            if scheme != "no"
        }

    def __repr__(self) -> str:
        return f"<Proxies for {', '.join(self._by_scheme) or 'nothing'}>"

    def of(self, scheme: str, host: str, netloc: str) -> str | None:
        """The proxy's URL; None: the server is asked directly.

        :param netloc: the host as the request names it, with its port
        """
        if not self._by_scheme:
            return None
        proxy = self._by_scheme.get(scheme) or self._by_scheme.get("all")
        # Of a name with a port only this port is meant; an address of IPv6 stands there without its brackets.
        if proxy is None or any(map(urllib.request.proxy_bypass, (host, netloc))):
            return None
        return proxy
