"""Ray Serve on this machine; `make ray` runs these tests in an environment of its own, `make vllm` those with vLLM."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import pytest


def _is_here(library: str) -> bool:
    """Whether it can be imported.  Folders of tests are found under such names, too, but have no file to begin with."""
    spec = importlib.util.find_spec(library)
    return spec is not None and spec.origin is not None


collect_ignore_glob = [] if _is_here("ray") else ["test_*.py"]
if not _is_here("vllm"):
    collect_ignore_glob.append("test_llm.py")

# Seconds after which its proxy is taken for dead, before it has begun on a busy machine.
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")

if _is_here("ray"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own use of others
        import ray.serve

        if _is_here("vllm"):
            import ray.serve.llm  # noqa: F401

TESTS = Path(__file__).parent.parent.parent
sys.path[:0] = [str(TESTS / "engine"), str(TESTS.parent / "deploy" / "ray")]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "ray":
            # What these libraries warn of is not ours to mend.
            item.add_marker(pytest.mark.filterwarnings("default"))
