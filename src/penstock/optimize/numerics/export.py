"""The same numbers for another runtime."""

from __future__ import annotations

from pathlib import Path

from penstock.optimize.model_directory import ModelDirectory, Runtime
from penstock.optimize.numerics import onnx, openvino
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Export, Notes


def make(step: Export, source: ModelDirectory, into: Path, tell: Tell) -> Notes:
    if step.runtime is Runtime.OPENVINO:
        return openvino.build(source, into, step.to, tell)
    return onnx.build(source, into, step.to, tell)
