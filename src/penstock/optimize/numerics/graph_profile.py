"""Where the time of an exported model goes, by the counters of its own runtime.

ONNX Runtime writes a trace of its own when a session ends; OpenVINO tells after each run how long each operation of the
graph took, and not when, so that in its trace they stand one after the other.  The nodes of both are named after the
modules that they come from, by which layers are told apart.
"""

from __future__ import annotations

import gc
import re
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import OPENVINO_GRAPH, ModelDirectory, Runtime
from penstock.optimize.numerics.loading import load_tokenizer, pieces
from penstock.optimize.numerics.runners import OnnxRunner, OpenVINORunner, Runner, Tokens
from penstock.optimize.profiling import PROMPT, Profile, Row, Share, advise
from penstock.optimize.progress import Tell

_TRACE = "trace.json"
_LAYER = re.compile(r"layers[./](\d+)")
_INTEGERS = re.compile(r'element_type="[iu][48]"')
_COPIES = frozenset(
    [
        "Assign",
        "Broadcast",
        "Cast",
        "Concat",
        "Convert",
        "Expand",
        "Gather",
        "MemoryInput",
        "MemoryOutput",
        "ReadValue",
        "Reorder",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StridedSlice",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "VariadicSplit",
    ]
)
_WARM = 2  # tokens, before those that count


class _Operation(msgspec.Struct, frozen=True):
    """One, each time that it ran; ``at``: microseconds from the beginning."""

    kind: str
    node: str
    at: float
    us: float


def make(source: ModelDirectory, text: Path, into: Path, tell: Tell, *, tokens: int, batch: int) -> Profile:
    """Profile a prefill and ``tokens`` steps of decode; the trace goes to ``into / "trace.json"``."""
    tell("loading", 0, 0)
    ids = np.array(pieces(load_tokenizer(source.path), text, PROMPT, 1) * batch, dtype=np.int64)
    measured = _onnx if source.runtime is Runtime.ONNX else _openvino
    spent, operations, stored = measured(source, ids, into, tokens, tell)
    if not operations:
        raise StepFailed(f"{source.path}: {source.runtime} has told nothing of its operations")
    by_kind, by_layer, by_work = (defaultdict[str, list[float]](list) for _ in range(3))
    for each in operations:
        by_kind[each.kind].append(each.us)
        by_layer[_layer(each.node)].append(each.us)
        by_work[_work(each)].append(each.us)
    counted = sum(each.us for each in operations)
    by_work["between operations"].append(max(0.0, 1_000_000 * spent - counted))
    total = sum(map(sum, by_work.values()))
    shares = [Share(name, sum(each) / total) for name, each in by_work.items()]
    return Profile(
        source.path.name,
        batch,
        PROMPT,
        tokens,
        total / 1_000,
        tuple(sorted(_rows(by_kind), key=lambda row: -row.ms)[:20]),
        tuple(sorted(shares, key=lambda each: -each.share)),
        tuple(advise(shares, stored=stored, batch=batch, exported=True)),
        str(source.runtime),
        tuple(sorted(_rows(by_layer), key=lambda row: (len(row.name), row.name))),
    )


def _rows(spent: dict[str, list[float]]) -> Iterable[Row]:
    return (Row(name, len(each), sum(each) / 1_000) for name, each in spent.items())


def _layer(node: str) -> str:
    if "lm_head" in node:
        return "head"
    found = None if "final_norm" in node else _LAYER.search(node)
    return f"layer {found[1]}" if found else "the rest"


def _work(operation: _Operation) -> str:
    kind = operation.kind.lower()
    if "lm_head" in operation.node:
        return "head"
    if any(word in kind for word in ("attention", "softmax", "mha")):
        return "attention"
    if any(word in kind for word in ("matmul", "gemm", "fullyconnected")):
        return "matrices"
    return "copies" if operation.kind in _COPIES else "rest of operations"


def _generate(runner: Runner, ids: Tokens, tokens: int) -> None:
    runner.begin(ids, tokens + 1)
    for _ in range(tokens):
        runner.step()


def _onnx(
    source: ModelDirectory, ids: Tokens, into: Path, tokens: int, tell: Tell
) -> tuple[float, list[_Operation], str]:
    """CPU-seconds, what ran within them, and in which numbers the weights are."""
    runner = OnnxRunner(source.path, enable_profiling=str(into / "onnx"))
    # What the runtime takes for a step only draws: the last token that is drawn is not read.
    _generate(runner, ids, _WARM)
    tell("profiling", 0, 0)
    began = time.process_time()
    _generate(runner, ids, tokens + 1)
    spent = time.process_time() - began
    del runner
    gc.collect()  # it is written when the session ends
    (path,) = into.glob("onnx*.json")
    path.rename(into / _TRACE)
    events: list[dict[str, Any]] = msgspec.json.decode((into / _TRACE).read_bytes())
    runs = [event["ts"] for event in events if event["name"] == "model_run"]
    since = sorted(runs)[-(tokens + 1)]
    found = [
        _Operation(
            event["args"]["op_name"], event["name"].removesuffix("_kernel_time"), event["ts"], event["dur"]
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= since
    ]
    rounded = any(word in each.kind for each in found for word in ("NBits", "Integer", "Quantize"))
    return spent, found, "int" if rounded else "float"


class _Counted(OpenVINORunner):
    """With what each run took."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, PERF_COUNT=True)
        self.told: list[Any] = []

    def _forward(self, tokens: Tokens) -> Any:
        logits = super()._forward(tokens)
        self.told += self._request.get_profiling_info()
        return logits


def _openvino(
    source: ModelDirectory, ids: Tokens, into: Path, tokens: int, tell: Tell
) -> tuple[float, list[_Operation], str]:
    """The same."""
    runner = _Counted(source.path)
    _generate(runner, ids, _WARM)
    runner.told.clear()
    tell("profiling", 0, 0)
    began = time.process_time()
    _generate(runner, ids, tokens)
    spent = time.process_time() - began
    found: list[_Operation] = []
    at = 0.0
    for each in runner.told:
        if each.status.name == "EXECUTED":  # and not fused with another, or done when it was compiled
            us = each.real_time.total_seconds() * 1_000_000
            found.append(_Operation(each.node_type, each.node_name, at, us))
            at += us
    events = [
        {"ph": "X", "pid": 1, "tid": 1, "name": each.node, "cat": each.kind, "ts": each.at, "dur": each.us}
        for each in found
    ]
    (into / _TRACE).write_bytes(msgspec.json.encode({"traceEvents": events}))
    rounded = _INTEGERS.search((source.path / OPENVINO_GRAPH).read_text(encoding="utf-8"))
    return spent, found, "int" if rounded else "float"
