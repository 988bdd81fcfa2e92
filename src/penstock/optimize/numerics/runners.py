"""Who runs a model directory to measure it: one small interface over each runtime."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from penstock.optimize.faults import UnusableModel
from penstock.optimize.model_directory import OPENVINO_GRAPH, ModelDirectory, Runtime

Tokens = npt.NDArray[np.int64]
_ALONE = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}


class Runner(Protocol):
    """A loaded model."""

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Of each position of a batch, ``[batch, length, vocabulary]``."""

    def begin(self, tokens: Tokens, room: int) -> None:
        """Read a batch of prompts, after which up to ``room`` tokens follow."""

    def step(self) -> None:
        """One more token for each, greedily."""


def runner_of(source: ModelDirectory) -> Runner:
    """Load it with its own runtime.

    :raises UnusableModel: that cannot
    """
    if source.runtime is Runtime.TRANSFORMERS:
        return TransformersRunner(source)
    try:
        return (OnnxRunner if source.runtime is Runtime.ONNX else OpenVINORunner)(source.path)
    except RuntimeError as error:
        # What is wrong stands at its end, behind names of functions and files of theirs.
        raise UnusableModel(
            f"{source.runtime} cannot load {source.path}, which may be damaged: make it again "
            f"(… {' '.join(str(error).split())[-200:]})"
        ) from error


class TransformersRunner:
    """transformers with a dynamic key-value cache, in the type that is stored."""

    def __init__(self, source: ModelDirectory) -> None:
        import torch  # noqa: PLC0415 - another runtime does without it

        from penstock.optimize.numerics.loading import load_model  # noqa: PLC0415

        torch.set_num_threads(1)
        self._torch = torch
        self._model = load_model(source, "auto")
        self._cache: Any = None
        self._last: Any = None

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        with self._torch.inference_mode():
            found = self._model(input_ids=self._torch.from_numpy(tokens)).logits
        return found.float().numpy()  # type: ignore[no-any-return]

    def begin(self, tokens: Tokens, room: int) -> None:  # noqa: ARG002 - this cache grows
        self._cache = None
        self._forward(self._torch.from_numpy(tokens))

    def step(self) -> None:
        self._forward(self._last)

    def _forward(self, ids: Any) -> None:
        with self._torch.inference_mode():
            out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        self._last = out.logits[:, -1].argmax(-1, keepdim=True)


class OnnxRunner:
    """ONNX Runtime GenAI with static batches.

    :param options: more of its session
    """

    def __init__(self, path: Path, **options: Any) -> None:
        import onnxruntime_genai as genai  # noqa: PLC0415

        with contextlib.suppress(AttributeError):
            genai.disable_telemetry_events()
        self._genai = genai
        config = genai.Config(str(path))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {**_ALONE, **options}}}}))
        self._model = genai.Model(config)
        self._generator: Any = None

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        self.begin(tokens, 1)
        return np.asarray(self._generator.get_output("logits"), dtype=np.float32)

    def begin(self, tokens: Tokens, room: int) -> None:
        params = self._genai.GeneratorParams(self._model)
        length = tokens.shape[1] + room
        # As long as it can get, whatever it says: a stop would leave less to measure.
        params.set_search_options(
            do_sample=False, batch_size=len(tokens), max_length=length, min_length=length
        )
        self._generator = self._genai.Generator(self._model, params)
        self._generator.append_tokens(tokens.astype(np.int32))

    def step(self) -> None:
        self._generator.generate_next_token()


class OpenVINORunner:
    """OpenVINO with keys and values in the graph's own state; as the engine's, but without its pages.

    :param options: more of its properties
    """

    def __init__(self, path: Path, **options: Any) -> None:
        import openvino  # noqa: PLC0415

        from penstock.optimize.numerics.openvino import step_inputs  # noqa: PLC0415

        self._inputs = step_inputs
        # Between weights in fp32, as the engine does with one thread: in bf16, which the library takes where the
        # processor has it, that would end the process (https://github.com/openvinotoolkit/openvino/issues/33300).
        told = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", **options}
        compiled = openvino.compile_model(path / OPENVINO_GRAPH, "CPU", told)
        self._request = compiled.create_infer_request()
        self._seen = 0
        self._last: Any = None

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        self._request.reset_state()
        self._seen = 0
        return self._forward(tokens)

    def begin(self, tokens: Tokens, room: int) -> None:  # noqa: ARG002 - this cache grows
        self.logits(tokens)

    def step(self) -> None:
        self._forward(self._last)

    def _forward(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        told: npt.NDArray[np.float32] = np.array(
            self._request.infer(self._inputs(tokens, self._seen))["logits"]
        )
        self._seen += tokens.shape[1]
        self._last = told[:, -1].argmax(-1)[:, None]
        return told
