"""Each extra is tried by ``make extras``; here those are used that these tests have anyway."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "try-extras"


@pytest.fixture(scope="module")
def script():
    loader = importlib.machinery.SourceFileLoader("try_extras", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("try_extras", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_each_extra_is_one_that_is_tried(script):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(script.USES) == set(project["optional-dependencies"])


def test_what_it_is_tried_by_works_where_it_is_installed(script):
    """In one process: what each is for is found, and none is used in a way that it does not have."""
    needs = {
        "client": "httpx2",
        "aws": "botocore",
        "google": "google.auth",
        "entra": "azure.identity",
        "brotli": "brotli",
        "engine": "openvino_genai",
        "granian": "granian",
        "http2": "hpack",
        "http3": "aioquic",
        "hypercorn": "hypercorn",
        "otel": "opentelemetry.sdk",
        "redis": "hiredis",
        "s3": "obstore",
        "semantic": "tokenizers",
    }
    there = [extra for extra, module in needs.items() if _is_there(module)]
    code = script.BEFORE + "".join(f"exec({script.USES[extra]!r}, {{}})\n" for extra in there)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3_000:]


def _is_there(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize(
    ("name", "is_cuda"),
    [
        ("nvidia-cublas-cu12", True),
        ("nvidia-cuda-runtime", True),
        ("cuda-bindings", True),
        ("triton", True),
        ("nvidia-ml-py", False),
        ("tritonclient", False),
        ("torch", False),
    ],
)
def test_cuda_is_known_by_its_packages(script, name, is_cuda):
    assert bool(script.CUDA.match(name)) == is_cuda
