"""What holds for all tests: a slow machine is no fault of the code."""

import gc
import os
from pathlib import Path

import hypothesis
import pytest

# What hypothesis chooses for CI is kept: there it draws the same examples every time.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Ten thousand tests and what they import are there to stay.

    A third of what collecting them cost went into looking whether any of it was garbage, and every full look while they
    run would walk it all again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_terminal_summary(terminalreporter):
    """Tell ``scripts/run-tests`` what failed."""
    if path := os.environ.get("FAILURES"):
        reports = terminalreporter.getreports("failed") + terminalreporter.getreports("error")
        Path(path).write_text("".join(f"{report.nodeid}\n" for report in reports))
