"""The real vLLM, in a build for CPUs; `make vllm` runs these tests in an environment of its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# This folder is found under that name, too; only the library has a file to begin with.
_library = importlib.util.find_spec("vllm")
collect_ignore_glob = ["test_*.py"] if _library is None or _library.origin is None else []

sys.path.append(str(Path(__file__).parents[2] / "engine"))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "vllm":
            # What these libraries warn of is not ours to mend.
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def vllm(tmp_path_factory):
    """A small model with weights at random."""
    from torch_models import write_readable_model
    from vllm_server import VllmServer

    folder = tmp_path_factory.mktemp("vllm")
    with VllmServer(write_readable_model(folder / "model", hidden_size=128, head_dim=32), folder) as server:
        yield server
