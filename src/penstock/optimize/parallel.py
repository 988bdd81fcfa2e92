"""A model divided among several processes, and whether it still says the same.

Two ways, both of well-kept libraries: *tensor* parallel, where each process has a part of every layer's matrices
(transformers' own plan for the architecture; Shoeybi et al., Megatron-LM, 2019), and *pipeline* parallel, where each
has some of the layers and a batch goes through them in parts (PyTorch's schedules; Huang et al., GPipe, NeurIPS 2019).
"""

from __future__ import annotations

import enum
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec

from penstock.optimize.faults import StepFailed
from penstock.optimize.model_directory import ModelDirectory, Runtime

TOLERANCE = 1e-3  # of the largest logit
_WORKER = "penstock.optimize.numerics.ranks"


class Division(enum.StrEnum):
    """What each process has a part of."""

    TENSOR = "tensor"
    PIPELINE = "pipeline"


class RankWork(msgspec.Struct, frozen=True):
    """What each process is to do."""

    model: str
    division: Division
    batch: int = 4  # texts
    length: int = 32  # tokens of each


class Divided(msgspec.Struct, frozen=True):
    """What came of it.

    ``parameters``: of the model; ``held``: of them, in the process that has most.  ``logits_differ_by``: from those of
    the whole model, at most, in parts of the largest.
    """

    division: Division
    ranks: int
    parameters: int
    held: int
    logits_differ_by: float


def divide(source: ModelDirectory, division: Division, ranks: int, **options: int) -> Divided:
    """Load a model into ``ranks`` processes on this machine, and compare its logits with those of the whole.

    :param options: fields of :class:`RankWork` to differ from
    :raises StepFailed: it cannot be divided so, or says something else then
    """
    if source.runtime is not Runtime.TRANSFORMERS:
        raise StepFailed(f"{source.path} is for {source.runtime}: what is divided is a model of transformers")
    source.require_memory(
        ranks + 1.5, f"{ranks} processes, each of which reads the whole before it keeps a part,"
    )
    work = RankWork(str(source.path), division, **options)
    told = _run(work, ranks, source.path)
    if told.held >= told.parameters:
        raise StepFailed(
            f"{source.path} has not been divided: a process has all {told.parameters:,} parameters, so there is no plan "
            "for its architecture"
        )
    if not told.logits_differ_by <= TOLERANCE:
        raise StepFailed(
            f"{source.path}: divided, it says something else (logits differ by {told.logits_differ_by:.2g} of the largest)"
        )
    return told


def _run(work: RankWork, ranks: int, path: Path) -> Divided:
    environment = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(ranks) as pool:
        arguments = [msgspec.json.encode(work).decode(), str(Path(folder) / "meeting")]
        try:
            for rank in range(ranks):
                own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                processes.append(_started(arguments, own))
            told = b""
            for done in as_completed(pool.submit(_outcome, process) for process in processes):
                output, error = done.result()
                if not output:  # the others would wait for it
                    raise StepFailed(f"{path} cannot be divided into {ranks}: {error}")
                told = output
        finally:
            for process in processes:
                process.kill()
    return msgspec.json.decode(told.splitlines()[-1], type=Divided)


def _started(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", _WORKER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


def _outcome(process: subprocess.Popen[bytes]) -> tuple[bytes, str]:
    """What a process said, and the last line of its complaint."""
    output, errors = process.communicate()
    lines = errors.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
    return (output if process.returncode == 0 else b""), lines[-1][:400]


__all__ = ["TOLERANCE", "Divided", "Division", "RankWork", "divide"]
