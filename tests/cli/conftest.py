"""The command line, run within the test's process."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from penstock.cli import main


class Ended(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def penstock(capsys, monkeypatch):
    """``penstock("check", "file")`` gives status, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Ended(ended.value.code or 0, out, err)

    return run
