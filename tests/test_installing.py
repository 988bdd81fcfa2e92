"""What is to be typed to install an extra."""

import subprocess
import sys

from penstock.installing import install_command


def test_it_goes_to_the_python_that_lacks_it():
    """Run to its end, by a shell, with another pip in the place of the real one's work."""
    line = install_command("client")
    assert line.endswith(" -m pip install 'penstock[client]'")
    asked = line.replace("-m pip", "-c 'import sys; print(sys.executable, *sys.argv[1:])'")
    shown = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True, timeout=60).stdout
    assert shown.split() == [sys.executable, "install", "penstock[client]"]


def test_where_its_name_has_a_blank_the_shell_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/my venv/bin/python")
    assert install_command("redis").startswith("'/opt/my venv/bin/python' -m pip ")
