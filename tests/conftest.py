"""What holds for all tests: a slow machine is no fault of the code."""

import os
from pathlib import Path

import hypothesis

# What hypothesis chooses for CI is kept: there it draws the same examples every time.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


def pytest_terminal_summary(terminalreporter):
    """Tell ``scripts/run-tests`` what failed."""
    if path := os.environ.get("FAILURES"):
        reports = terminalreporter.getreports("failed") + terminalreporter.getreports("error")
        Path(path).write_text("".join(f"{report.nodeid}\n" for report in reports))
