"""What a browser would send for a page, against the control port as it is served."""

import asyncio
from unittest.mock import Mock

import pytest

from penstock.admin.control import make_app
from penstock.admin.pages import PagesKeptOut, is_nobodys


def status(method, path, host="localhost:8081", *, server="127.0.0.1", keyed=False, **more):
    """Of the answer to such a request."""
    told = []
    headers = {"host": host, **{name.replace("_", "-"): value for name, value in more.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": (server, 8081),
        "client": ("127.0.0.1", 5),
        "scheme": "http",
        "http_version": "1.1",
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        told.append(message)

    supervisor = Mock()
    supervisor.config.control_key = None
    supervisor.readiness.return_value = (True, [])
    supervisor.slots = []
    asyncio.run(PagesKeptOut(make_app(supervisor), lambda: keyed)(scope, receive, send))
    assert told[0]["status"] != 403 or not supervisor.mock_calls
    return told[0]["status"]


def test_a_page_of_another_origin_has_nothing_done():
    for origin in ("https://evil.example", "null", "http://localhost:3000"):
        for keyed in (False, True):
            assert status("POST", "/v1/reload", origin=origin, keyed=keyed) == 403
            assert status("DELETE", "/v1/upstreams/x/drain", origin=origin, keyed=keyed) == 403


def test_a_name_that_a_stranger_may_own_is_not_ours_on_the_loopback_interface():
    for path in ("/readyz", "/healthz"):
        assert status("GET", path, "evil.example:8081") == 403
        assert status("GET", path, "evil.example:8081", server="::1") == 403
        assert status("GET", path, "penstock.prod.svc.cluster.local:8081", server="10.1.2.3") == 200
        assert status("GET", path, "evil.example:8081", keyed=True) == 200
        assert status("GET", path, "penstock:8081") == 200
        assert status("GET", path) == 200


@pytest.mark.parametrize(
    ("host", "nobodys"),
    [
        ("localhost", True),
        ("LOCALHOST:8081", True),
        ("a.localhost:8081", True),
        ("127.0.0.1:8081", True),
        ("127.1.2.3", True),
        ("[::1]:8081", True),
        ("10.0.0.7:8081", True),
        ("gateway:8081", True),
        ("", True),
        ("evil.example:8081", False),
        ("evil.example.", False),
        ("127.0.0.1.evil.example:8081", False),
        ("localhost.evil.example", False),
        ("evillocalhost.example", False),
        ("1.2.3:8081", False),
    ],
)
def test_whose_a_name_may_be(host, nobodys):
    assert is_nobodys(host) is nobodys
