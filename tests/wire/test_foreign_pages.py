import pytest

from penstock.wire.pages import is_foreign

HERE = b"localhost:8080"


def said(origin, site=None, host=HERE):
    fields = {b"host": host, b"origin": origin, b"sec-fetch-site": site}
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize(
    "headers",
    [
        said(b"https://evil.example"),
        said(b"HTTPS://EVIL.EXAMPLE"),
        said(b"null"),
        said(b"null", b"cross-site"),
        said(b"http://localhost:3000"),
        said(b"http://localhost:3000", b"same-site"),
        said(b"http://localhost:8080", b"cross-site"),
        said(b"http://localhost:8080@evil.example"),
        said(b"http://"),
        said(b"https://evil.example", host=None),
    ],
)
def test_pages_of_others_are_foreign(headers):
    assert is_foreign(headers)


@pytest.mark.parametrize(
    "headers",
    [
        said(None),
        said(None, b"cross-site"),  # a link or an image: no browser does more so
        said(b"http://localhost:8080"),
        said(b"http://LOCALHOST:8080"),
        said(b"https://app.example", b"same-origin"),  # behind a proxy that calls us by another name
        said(b"chrome-extension://abc", b"cross-site"),
        said(b"app://obsidian.md"),
    ],
)
def test_programs_own_pages_and_what_somebody_installed_are_not(headers):
    assert not is_foreign(headers)
