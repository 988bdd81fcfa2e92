"""The Makefile and CI."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


def test_make_alone_lists_every_command():
    done = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True, timeout=60)
    targets = re.findall(r"^\.PHONY: (\w+)$", MAKEFILE, re.MULTILINE)
    assert {
        "help",
        "venv",
        "serve",
        "test",
        "lint",
        "types",
        "imports",
        "bench",
        "soak",
        "chaos",
        "clean",
    } <= set(targets)
    for target in targets:
        assert f"make {target} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "configuration", "environ", "needed"),
    [
        ([], None, {}, True),
        (["--workers", "2"], None, {}, True),
        ([], None, {"OPENAI_API_KEY": "k"}, False),
        ([], "upstreams: {a: {kind: sim}}", {}, False),
        ([], "upstreams: {a: {kind: local}}", {}, True),
        (["--workers", "2", "other.yaml"], "upstreams: {a: {kind: local}}", {}, False),
        (["penstock.yaml"], "upstreams: {a: {kind: local, base_url: 'http://127.0.0.1:9/v1'}}", {}, False),
        ([], "upstreams: {a: {kind: local, local: {model: '/nowhere'}}}", {}, False),
        ([], "upstreams: {a: {kind: nothing}}", {}, False),
    ],
)
def test_make_serve_installs_what_computes_models_only_where_one_is_computed(
    arguments, configuration, environ, needed, tmp_path, monkeypatch
):
    spec = importlib.util.spec_from_file_location("needs_engine", ROOT / "scripts" / "needs_engine.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script.discover, "__kwdefaults__", script.discover.__kwdefaults__ | {"servers": ()})
    if configuration is not None:
        (tmp_path / "penstock.yaml").write_text(
            configuration + "\nmodels: {m: {candidates: [{upstream: a}]}}\n"
        )
    assert script.needs_engine(arguments, environ, tmp_path) is needed


def test_ci_runs_what_a_person_runs():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [
        line
        for line in script.read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd ", "export "))
    ]
    assert commands == ["exec make test"]


def test_find_python_passes_over_one_that_does_not_run(tmp_path):
    """As with a pyenv shim whose version is not installed: found first on the PATH, and fails."""
    shims, real = tmp_path / "shims", tmp_path / "real"
    for directory in (shims, real):
        directory.mkdir()
    (shims / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    (real / "python3.11").write_text("#!/bin/sh\nexit 0\n")
    for fake in (shims, real):
        (fake / "python3.11").chmod(0o755)
    environ = {"PATH": f"{shims}:{real}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "scripts" / "find-python", "3.99", "3.11"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(real / "python3.11")


def test_find_python_fails_where_there_is_none(tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "scripts" / "find-python", "3.99"], env=environ, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.fixture
def bare_debian(tmp_path):
    """A machine whose Python cannot make environments until its package is installed; all of it scripts."""
    machine = tmp_path / "bin"
    machine.mkdir()
    package = tmp_path / "package-is-installed"
    python = f"""#!/bin/bash
case "$*" in
  "-m venv"*) [ -e {package} ] || exit 1; mkdir -p "${{@: -1}}/bin"; ln -sf {machine}/python3.11 "${{@: -1}}/bin/python" ;;
  *ensurepip*) [ -e {package} ] ;;
  *python%d.%d-venv*) echo python3.11-venv ;;
  *--version*) echo "Python 3.11.2" ;;
esac
"""
    apt = f'#!/bin/bash\necho "$*" >> {tmp_path}/apt.log\n[ "$1" = update ] || touch {package}\n'
    for name, script in (("python3.11", python), ("apt-get", apt), ("id", '#!/bin/sh\necho "$USER_ID"\n')):
        (machine / name).write_text(script)
        (machine / name).chmod(0o755)

    def make_venv(user_id):
        environ = {"PATH": f"{machine}:/usr/bin:/bin", "HOME": str(tmp_path), "USER_ID": str(user_id)}
        command = [ROOT / "scripts" / "venv", tmp_path / "venv", "3.11"]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    make_venv.log = tmp_path / "apt.log"
    make_venv.python = tmp_path / "venv" / "bin" / "python"
    return make_venv


def test_where_python_cannot_make_environments_root_gets_the_package(bare_debian):
    done = bare_debian(user_id=0)
    assert done.returncode == 0, done.stderr
    assert bare_debian.log.read_text() == "install -qq -y python3.11-venv\n"
    assert bare_debian.python.exists()


def test_where_python_cannot_make_environments_others_are_told_what_to_install(bare_debian):
    done = bare_debian(user_id=1000)
    assert done.returncode == 1
    assert "sudo apt-get install python3.11-venv" in done.stderr
    assert not bare_debian.log.exists()


def test_an_environment_that_works_is_kept(bare_debian):
    bare_debian(user_id=0)
    bare_debian.log.unlink()
    assert bare_debian(user_id=1000).returncode == 0
    assert not bare_debian.log.exists()


def test_without_redis_server_and_apt_the_tests_say_loudly_that_they_are_skipped(tmp_path):
    (tmp_path / "bash").symlink_to("/bin/bash")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    done = subprocess.run(
        [ROOT / "scripts" / "redis-server"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "SKIPPED" in done.stderr
    assert "apt-get install redis-server" in done.stderr


def test_tests_do_not_begin_on_a_disk_that_will_fill_under_them(tmp_path):
    machine = tmp_path / "bin"
    machine.mkdir()
    report = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/full 9999999 9000000 {} 98% /\n"
    for free, begins in ((400 << 10, False), (4 << 20, True)):
        (machine / "df").write_text(f"#!/bin/sh\necho '{report.format(free)}'\n")
        (machine / "df").chmod(0o755)
        done = subprocess.run(
            [ROOT / "scripts" / "run-tests", "/bin/echo", "test-argument"],
            env={"PATH": f"{machine}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode == 0) is begins
        assert ("test-argument" in done.stdout) is begins
        assert ("400" in done.stderr and str(tmp_path) in done.stderr) is not begins
