"""``python -m penstock.optimize.numerics.measuring``: measures one model, as standard input says.

Says how far it is, and at last the figures, a JSON object a line, on standard output.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.errors import PenstockError
from penstock.optimize.faults import StepFailed
from penstock.optimize.figures import Figures, Speed
from penstock.optimize.measure import Work
from penstock.optimize.model_directory import open_model
from penstock.optimize.numerics.runners import Runner, runner_of
from penstock.optimize.progress import Tell
from penstock.optimize.questions import read_questions

_AT_LEAST = 0.3  # CPU-seconds of one timing: below that the clock and the caches are what is measured


def measured(work: Work, tell: Tell) -> Figures:
    """Do the work.

    :raises PenstockError: the model or the text cannot be used
    """
    from penstock.optimize.numerics.answering import answered  # noqa: PLC0415 - after the memory is read
    from penstock.optimize.numerics.loading import load_tokenizer, pieces  # noqa: PLC0415

    source = open_model(Path(work.model))
    tokenizer = load_tokenizer(source.path)
    text = pieces(tokenizer, Path(work.text), work.length, work.windows)
    tokens = np.array(text, dtype=np.int64)
    tell("loading", 0, 0)
    # What the libraries themselves take is there by now, so that the rest is the model's.
    _warm_libraries(source.runtime)
    before = _resident()
    runner = runner_of(source)
    perplexity, counted = _perplexity(runner, tokens, tell)
    accuracy = None
    if work.questions:
        accuracy = answered(runner, tokenizer, source, read_questions(Path(work.questions)), tell)
    speeds = tuple(_speed(runner, tokens, batch, work, tell) for batch in work.batches)
    return Figures(
        name=source.path.name,
        runtime=str(source.runtime),
        weight_bytes=source.weight_bytes,
        perplexity=perplexity,
        tokens=counted,
        speeds=speeds,
        model_bytes=max(0, _resident() - before),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024,
        accuracy=accuracy,
    )


def _warm_libraries(runtime: str) -> None:
    if runtime == "onnx":
        import onnxruntime_genai  # noqa: F401, PLC0415
    elif runtime == "openvino":
        import openvino  # noqa: F401, PLC0415


def _perplexity(runner: Runner, tokens: Any, tell: Tell) -> tuple[float, int]:
    """Of every token of a piece but its first, given those before it in the piece."""
    total, counted = 0.0, 0
    for number, piece in enumerate(tokens):
        logits = runner.logits(piece[None])[0, :-1].astype(np.float64)
        most = logits.max(-1)
        log_sums = most + np.log(np.exp(logits - most[:, None]).sum(-1))
        total += float((log_sums - logits[np.arange(len(logits)), piece[1:]]).sum())
        counted += len(logits)
        if not math.isfinite(total):
            raise StepFailed(
                "what it says are no numbers (NaN or infinite), of some text at least: it is damaged, or its form has too "
                "small a range for it"
            )
        tell("perplexity", number + 1, len(tokens))
    try:
        return math.exp(total / counted), counted
    except OverflowError:
        raise StepFailed("its perplexity is beyond all numbers: it says nothing of use") from None


def _speed(runner: Runner, tokens: Any, batch: int, work: Work, tell: Tell) -> Speed:
    """Each prompt that is timed is the one that the timed answer begins with: prompts are what takes longest."""
    prompts = np.resize(tokens, (batch, tokens.shape[1]))[:, : work.prompt]
    _round(runner, prompts, 1)  # what is done once only
    prefill, decode = [], []
    for number in range(work.repeats):
        reading = writing = 0.0
        read = written = 0
        while min(reading, writing) < _AT_LEAST:
            generated = work.generated if writing < _AT_LEAST else 1
            seconds = _round(runner, prompts, generated)
            reading, writing = reading + seconds[0], writing + seconds[1]
            read, written = read + prompts.size, written + batch * (generated - 1)
        prefill.append(read / reading)
        decode.append(written / writing)
        tell(f"speed at batch {batch}", number + 1, work.repeats)
    decoded = statistics.median(decode)
    return Speed(
        batch=batch,
        prefill=statistics.median(prefill),
        decode=decoded,
        spread=(max(decode) - min(decode)) / decoded,
    )


def _round(runner: Runner, prompts: Any, generated: int) -> tuple[float, float]:
    """CPU-seconds of reading the prompts, and of the tokens that follow, but for the first."""
    began = time.process_time()
    runner.begin(prompts, generated)
    read = time.process_time()
    runner.step()
    first = time.process_time()
    for _ in range(generated - 1):
        runner.step()
    return read - began, time.process_time() - first


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a pseudo-file
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Standard input has a :class:`Work`."""
    # Libraries print whatever they like: what is said on standard output is ours alone.
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(**told: Any) -> None:
        said.write(msgspec.json.encode(told) + b"\n")

    def tell(doing: str, done: int, total: int) -> None:
        say(doing=doing, done=done, total=total)

    try:
        say(figures=measured(msgspec.json.decode(sys.stdin.buffer.read(), type=Work), tell))
    except ModuleNotFoundError as error:
        say(lacking=error.name or str(error))
    except PenstockError as error:
        say(failed=error.message)
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the parent tells it
        say(failed=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
