"""Measures a model directory in a process of its own: so its memory and CPU time are its own as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from penstock.optimize.faults import ExtraLacking, StepFailed
from penstock.optimize.figures import Figures
from penstock.optimize.model_directory import open_model
from penstock.optimize.progress import Tell
from penstock.optimize.questions import read_questions
from penstock.optimize.texts import read_texts

BATCHES = (1, 16)
_ENVIRONMENT = {  # before the libraries are loaded: most read it only then
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


class Work(msgspec.Struct, frozen=True):
    """What the measuring process is to do."""

    model: str
    text: str
    questions: str = ""  # a file of them; none: only the text counts
    batches: tuple[int, ...] = BATCHES
    windows: int = 40  # pieces of text that the perplexity is of
    length: int = 256  # tokens of one
    prompt: int = 64  # tokens before those that are generated
    generated: int = 64
    repeats: int = 3


class _Told(msgspec.Struct, frozen=True):
    """One line of what that process says."""

    doing: str = ""
    done: int = 0
    total: int = 0
    figures: Figures | None = None
    lacking: str = ""
    failed: str = ""


def measure(
    model: Path, text: Path, tell: Tell, *, questions: Path | None = None, name: str = "", **options: Any
) -> Figures:
    """Figures of one model directory.

    :param questions: to be answered
    :param name: what the figures are called by; the directory's own, unless it is said
    :param options: fields of :class:`Work` to differ from
    :raises penstock.optimize.faults.OptimizeError: it cannot be loaded or run, or the text is too short
    """
    found = open_model(model)
    found.require_memory(1.2, "running it")
    read_texts(text)
    if questions is not None:
        read_questions(questions)
    work = Work(str(model), str(text), "" if questions is None else str(questions), **options)
    last = None
    # Errors of libraries in other languages end a process without a word: what it last did is known.
    with subprocess.Popen(
        [sys.executable, "-m", "penstock.optimize.numerics.measuring"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_ENVIRONMENT},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(work))
            process.stdin.close()
            for line in process.stdout:
                last = msgspec.json.decode(line, type=_Told)
                if last.doing:
                    tell(f"{name or model.name}: {last.doing}", last.done, last.total)
        except BaseException:
            process.kill()
            raise
    if last is not None and last.figures is not None:
        return msgspec.structs.replace(last.figures, name=name or model.name)
    if last is not None and last.lacking:
        raise ExtraLacking(f"measuring needs {last.lacking}, which is not installed; see docs/optimize.md")
    if last is not None and last.failed:
        raise StepFailed(f"{model} cannot be measured: {last.failed}")
    raise StepFailed(
        f"{model} cannot be measured: the process that ran it ended with {process.returncode} "
        f"{'while ' + last.doing if last is not None else 'at once'}"
    )
