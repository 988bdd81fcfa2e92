"""The same numbers for another runtime."""

from __future__ import annotations

from pathlib import Path

from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.numerics import onnx
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Export, Notes


def make(step: Export, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    return onnx.build(source, into, step.to, tell)
