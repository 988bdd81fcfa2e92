"""The root of the command line."""

import subprocess
import sys
import types

import pytest

from penstock import __version__, cli


def test_the_help_names_every_command_with_its_line(penstock):
    status, out, _ = penstock("--help")
    assert status == 0
    for name, summary in cli.COMMANDS.items():
        assert name in out
        assert summary in out


def test_without_a_word_it_gives_the_help(penstock):
    assert "import-litellm" in "".join(penstock()[1:])


def test_it_tells_its_version(penstock):
    assert penstock("--version")[:2] == (0, f"penstock {__version__}\n")


def test_a_command_that_does_not_exist_is_refused_with_a_hint(penstock):
    status, _, err = penstock("chekc")
    assert status == 2
    assert "check" in err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_can_be_loaded_and_has_help(penstock, name):
    status, out, err = penstock(name, "--help")
    assert status == 0, err
    assert "Usage: penstock" in out


def test_a_command_whose_module_is_missing_says_so_and_the_others_work(penstock, monkeypatch):
    monkeypatch.setitem(sys.modules, "penstock.cli.serve", None)
    status, _, err = penstock("serve", "--port", "1")
    assert status == 1
    assert "serve cannot be loaded" in err
    assert penstock("--help").status == 0


def test_a_command_that_lacks_its_extra_names_it(penstock, monkeypatch):
    def lacking(_):
        raise ModuleNotFoundError("No module named 'httpx2'", name="httpx2")

    monkeypatch.setattr(cli.importlib, "import_module", lacking)
    status, _, err = penstock("ask", "x")
    assert status == 1
    assert err.endswith("-m pip install 'penstock[client]'\n")


def test_an_error_on_purpose_is_one_line_not_a_traceback(penstock, monkeypatch):
    from penstock.errors import InternalError

    def fail():
        raise InternalError("it is broken")

    monkeypatch.setitem(sys.modules, "penstock.cli.serve", types.SimpleNamespace(serve=fail))
    assert penstock("serve") == (1, "", "penstock: it is broken\n")


HEAVY = (
    "fastapi",
    "pydantic",
    "rich",
    "uvicorn",
    "uvloop",
    "yaml",
    "httptools",
    "penstock.gateway",
    "penstock.config",
)


def test_what_is_not_asked_for_is_not_imported():
    """In a process of its own: here everything is imported already."""
    code = f"import sys; from penstock.cli import application; application(['--version']); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"penstock {__version__}\n"


def test_a_reader_that_goes_away_is_no_error():
    """As with `penstock schema | head`: the other end of the pipe is closed before anything is written."""
    with subprocess.Popen(
        [sys.executable, "-m", "penstock", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert errors == b""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_place_for_other_files(closed):
    script = (
        "import os, sys; from penstock import cli; cli._open_standard_streams(); print('heard'); "
        "os._exit(0 if all(os.fstat(n) for n in range(3)) and os.open(os.devnull, 0) > 2 else 3)"
    )
    command = f'exec "$0" -c "$1" {closed}'
    ended = subprocess.run(["sh", "-c", command, sys.executable, script], check=False, timeout=60)
    assert ended.returncode == 0


def test_a_full_disk_is_said_in_a_line_and_no_traceback():
    command = [sys.executable, "-m", "penstock", "schema"]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines() == ["penstock: [Errno 28] No space left on device"]
