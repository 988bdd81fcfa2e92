"""The real tritonserver, from nvidia-pytriton's wheel; `make triton` runs these tests in an environment of its own."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("pytriton") else ["test_*.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "triton":
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="module")
def triton(tmp_path_factory):
    """A server with models whose every batch costs 10 ms, however large."""
    from triton_models import write_models
    from triton_server import TritonServer

    folder = tmp_path_factory.mktemp("triton")
    write_models(folder / "models")
    with TritonServer(folder / "models", folder) as server:
        yield server
