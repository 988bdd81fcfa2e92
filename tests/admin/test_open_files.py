"""The limit of open files is raised to what the configuration may need, or it is said that it cannot be."""

import resource

import pytest

from penstock.admin import open_files
from penstock.config.load import parse

CONFIG = parse(
    "upstreams: {a: {kind: sim, pool: {max_open: 300}}, b: {kind: sim, pool: {max_open: 500}}}\n"
    "listener: {max_connections: 4000}\n"
)


@pytest.fixture
def limits(monkeypatch):
    """The limits of a process, which are those of none."""
    held = {"now": 1_024, "most": 524_288}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (held["now"], held["most"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: held.update(now=limits[0], most=limits[1]))
    return held


def test_it_is_raised_to_what_callers_and_upstreams_may_need(limits, caplog):
    open_files.allow_open_files(CONFIG)
    assert limits == {"now": 5_000, "most": 524_288}
    assert caplog.text == ""


@pytest.mark.parametrize("now", [5_000, 524_288, resource.RLIM_INFINITY])
def test_one_that_suffices_stays(limits, caplog, now):
    limits["now"] = now
    open_files.allow_open_files(CONFIG)
    assert limits["now"] == now
    assert caplog.text == ""


def test_a_hard_limit_that_is_too_low_is_reached_and_told(limits, caplog):
    limits.update(now=64, most=256)
    open_files.allow_open_files(CONFIG)
    assert limits["now"] == 256
    assert "may open 256 files" in caplog.text
    assert "comes to 5000" in caplog.text


def test_a_system_that_grants_nothing_is_told_of(limits, caplog, monkeypatch):
    def refuse(*_):
        raise ValueError("no")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    open_files.allow_open_files(CONFIG)
    assert "may open 1024 files" in caplog.text
