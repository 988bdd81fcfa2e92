"""ONNX Runtime GenAI's own builder, from a directory of transformers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from pathlib import Path

from onnxruntime_genai.models.builder import create_model, parse_extra_options

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import ModelDirectory
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Form, Notes, Rounding

# It tells of every matrix, twice, and has told the root logger to print that.
logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)

_ALGORITHMS = {Rounding.RTN: "default", Rounding.KQUANT: "k_quant"}


def build(
    source: ModelDirectory,
    into: Path,
    form: Form,
    tell: Tell,
    *,
    group_size: int = 32,
    method: Rounding = Rounding.RTN,
) -> Notes:
    """Write a directory for the CPU.

    :raises StepFailed: the builder does not know the architecture, or gave up
    """
    options = {"hf_token": "false", "hf_remote": "false"}
    if form in {Form.INT8, Form.INT4}:
        # Level 4: activations in int8 as well, for which processors have instructions (VNNI).
        options |= {"block_size": str(group_size), "accuracy_level": "4", "algo_config": _ALGORITHMS[method]}
        if source.config.get("tie_word_embeddings"):
            options["shared_embeddings"] = "true"  # one table for both ends, as the model has it
    tell(f"building ONNX in {form}", 0, 0)
    with tempfile.TemporaryDirectory(dir=into, prefix="cache-") as cache:
        place = (str(source.path), str(into), str(form), "cpu", cache)
        given = [f"{name}={value}" for name, value in options.items()]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                create_model("", *place, **parse_extra_options("", *place, given))
        except NotImplementedError as error:
            raise StepFailed(
                f"ONNX Runtime GenAI's builder does not know this architecture: {error}"
            ) from error
        except (RuntimeError, ValueError, AssertionError) as error:
            raise StepFailed(
                f"ONNX Runtime GenAI's builder gave up: {' '.join(str(error).split())[:400]}"
            ) from error
    return {"builder_options": options}
