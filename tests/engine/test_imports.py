"""Who serves no local model carries nothing of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVING = (
    "penstock.admin.supervisor, penstock.admin.worker, penstock.gateway.compose, penstock.asgi, penstock.cli"
)
LIBRARIES = ("openvino", "openvino_genai", "torch", "transformers")
OURS = "penstock.engine.server, penstock.engine.embedded, penstock.cli.engine"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [(SERVING, ("penstock.engine", "openvino", "openvino_genai", "torch")), (OURS, LIBRARIES)],
    ids=["a gateway", "an engine whose library is not installed"],
)
def test_what_is_not_needed_is_not_imported(modules, absent):
    words = f"import sys, {modules}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_the_library_every_call_is_told_how_to_get_it(monkeypatch):
    from penstock.config.model import LocalConfig
    from penstock.engine.serve import load
    from penstock.errors import ModelUnusable

    monkeypatch.setitem(sys.modules, "openvino_genai", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "penstock.engine.openvino", raising=False)
    with pytest.raises(ModelUnusable, match=r"pip install 'penstock\[engine\]'"):
        load(LocalConfig())


def test_libraries_tell_nobody_how_they_are_used():
    words = "import sys, penstock.engine.openvino; print(sorted(m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m]))"
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
