"""A model directory behind Triton's Python backend: each batch of prompts is generated at once, greedily.

Written by ``penstock triton-repo``; it needs the packages of its runtime in Triton's Python, and nothing of
Penstock.  Of calls that go together each has its own length; the batch is done when the last of them is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

_TOKENS = 64  # where a call does not say how many it wants


class _Onnx:
    """ONNX Runtime GenAI."""

    def __init__(self, path: Path) -> None:
        import onnxruntime_genai as genai  # noqa: PLC0415

        self._genai = genai
        told = json.loads((path / "genai_config.json").read_text())["model"]
        ends = told["eos_token_id"]
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self._pad = told.get("pad_token_id", min(self.ends))
        self._model = genai.Model(str(path))
        self._tokenizer = genai.Tokenizer(self._model)

    def encode(self, text: str) -> list[int]:
        return [int(each) for each in self._tokenizer.encode(text)]

    def decoder(self) -> Any:
        return self._tokenizer.create_stream().decode

    def begin(self, prompts: list[list[int]], room: int) -> None:
        longest = max(map(len, prompts))
        # On the right: this runtime counts what is not padding, and takes it for the beginning of the row.
        rows = [each + [self._pad] * (longest - len(each)) for each in prompts]
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(
            do_sample=False, batch_size=len(rows), max_length=longest + room, min_length=longest + room
        )
        self._generator = self._genai.Generator(self._model, params)
        self._generator.append_tokens(np.array(rows, dtype=np.int32))

    def step(self) -> list[int]:
        self._generator.generate_next_token()
        return [int(each) for each in self._generator.get_next_tokens()]


class _Transformers:
    """transformers with a dynamic cache."""

    def __init__(self, path: Path) -> None:
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

        self._torch = torch
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, local_files_only=True)
        self._model.eval()
        ends = self._model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self._pad = min((each for each in self.ends if each is not None), default=0)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def decoder(self) -> Any:
        so_far: list[int] = []
        shown = ""

        def decode(token: int) -> str:
            nonlocal shown
            so_far.append(token)
            text = self._tokenizer.decode(so_far)
            if text.endswith("\ufffd"):  # half a character
                return ""
            new: str = text[len(shown) :]
            shown = text
            return new

        return decode

    def begin(self, prompts: list[list[int]], room: int) -> None:  # noqa: ARG002
        longest = max(map(len, prompts))
        rows = [[self._pad] * (longest - len(each)) + each for each in prompts]
        mask = [[0] * (longest - len(each)) + [1] * len(each) for each in prompts]
        self._mask = self._torch.tensor(mask)
        self._cache = None
        self._last = self._torch.tensor(rows)
        self._places = (self._mask.cumsum(-1) - 1).clamp(min=0)

    def step(self) -> list[int]:
        with self._torch.inference_mode():
            out = self._model(
                input_ids=self._last,
                attention_mask=self._mask,
                position_ids=self._places,
                past_key_values=self._cache,
                use_cache=True,
            )
        self._cache = out.past_key_values
        self._last = out.logits[:, -1].argmax(-1, keepdim=True)
        self._mask = self._torch.cat([self._mask, self._torch.ones_like(self._last)], 1)
        self._places = self._mask.sum(-1, keepdim=True) - 1
        return [int(each) for each in self._last[:, 0]]


class _Row:
    """One prompt of a batch, and what has been generated for it."""

    def __init__(self, prompt: list[int], most: int, decode: Any) -> None:
        self.prompt = prompt
        self.most = most
        self.decode = decode
        self.made = 0
        self.finish = ""
        self.pieces: list[str] = []


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"], args["model_version"], "model")
        runtime = config["parameters"]["runtime"]["string_value"]
        self._engine: Any = _Onnx(path) if runtime == "onnx" else _Transformers(path)
        self._decoupled = triton.using_decoupled_model_transaction_policy(config)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        rows = [[self._row(*each) for each in _asked(request)] for request in requests]
        for request, of_request in zip(requests, rows, strict=True):
            temperature = _values(request, "temperature")
            if temperature is not None and any(each > 0 for each in temperature) and of_request:
                of_request[0].finish = "refused"
        if not self._decoupled:
            self._generate([row for of_request in rows for row in of_request], lambda *_: None)
            return [_response(of_request, None) for of_request in rows]
        senders = [request.get_response_sender() for request in requests]
        streamed = [bool((_values(request, "stream") or [False])[0]) for request in requests]
        owner = {id(row): number for number, of_request in enumerate(rows) for row in of_request}

        def tell(row: _Row, piece: str) -> None:
            number = owner[id(row)]
            if streamed[number] and len(rows[number]) == 1:
                senders[number].send(_response([row], piece))

        self._generate([row for of_request in rows for row in of_request], tell)
        for number, sender in enumerate(senders):
            whole = not (streamed[number] and len(rows[number]) == 1)
            if whole:
                sender.send(_response(rows[number], None))
            sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _row(self, text: str, most: int) -> _Row:
        return _Row(self._engine.encode(text) or [min(self._engine.ends)], most, self._engine.decoder())

    def _generate(self, rows: list[_Row], tell: Any) -> None:
        engine = self._engine
        running = [row for row in rows if not row.finish]
        if not running:
            return
        engine.begin([row.prompt for row in running], max(row.most for row in running))
        while any(not row.finish for row in running):
            for row, token in zip(running, engine.step(), strict=True):
                if row.finish:
                    continue
                row.made += 1
                piece = ""
                if token in engine.ends:
                    row.finish = "stop"
                else:
                    piece = row.decode(token)
                    if row.made >= row.most:
                        row.finish = "length"
                row.pieces.append(piece)
                tell(row, piece)


def _asked(request: Any) -> list[tuple[str, int]]:
    texts = [each.decode("utf-8", errors="replace") for each in _values(request, "text_input") or []]
    most = _values(request, "max_tokens") or [_TOKENS] * len(texts)
    return [(text, max(1, int(each))) for text, each in zip(texts, most, strict=True)]


def _values(request: Any, name: str) -> list[Any] | None:
    found = triton.get_input_tensor_by_name(request, name)
    return None if found is None else list(found.as_numpy().reshape(-1))


def _response(rows: list[_Row], piece: str | None) -> Any:
    """Of one step, if there is a piece; else of the whole."""
    if any(row.finish == "refused" for row in rows):
        error = triton.TritonError("only temperature 0 is served here", triton.TritonError.INVALID_ARG)
        return triton.InferenceResponse(output_tensors=[], error=error)
    texts = ["".join(row.pieces) if piece is None else piece for row in rows]
    made = [row.made if piece is None else 1 for row in rows]
    return triton.InferenceResponse(
        output_tensors=[
            _column("text_output", [each.encode() for each in texts], np.object_),
            _column("finish_reason", [row.finish.encode() for row in rows], np.object_),
            _column("prompt_tokens", [len(row.prompt) for row in rows], np.int32),
            _column("completion_tokens", made, np.int32),
        ]
    )


def _column(name: str, values: list[Any], kind: Any) -> Any:
    return triton.Tensor(name, np.array(values, dtype=kind).reshape(-1, 1))
