"""``python -m benchmarks.optimize``: what fewer bits and fewer weights cost a model and gain it, and which goals that meets.

    .venv-optimize/bin/python scripts/train_tiny_llama.py models
    .venv-optimize/bin/python -m benchmarks.optimize models/tiny --report figures

Makes each variant of ``docs/optimize.md`` of a model directory, with the texts that the training has left beside it, and
measures all of a runtime against that in fp32.  Variants are kept beside the model (``NAME-variants``), so that what was
broken off goes on.  Ten minutes of one core for a model of four million parameters.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from penstock.optimize.figures import Figures, loss
from penstock.optimize.measure import measure
from penstock.optimize.model_directory import Runtime
from penstock.optimize.progress import bars
from penstock.optimize.recipe import is_done
from penstock.optimize.report import Report, Stage, markdown, write_report
from penstock.optimize.steps import (
    Export,
    Form,
    Prune,
    Pruning,
    Quantize,
    Rounding,
    Step,
    take,
    told,
)


class Goal(NamedTuple):
    """Against the same runtime in fp32; the decode is at batch 1."""

    lost: float  # of perplexity, as a share, at most
    decode: float = 0.0  # times as quick, at least
    smaller: float = 0.0  # times, at least

    def verdict(self, after: Figures, before: Figures) -> str:
        """Which of it is met."""
        lost = loss(after, before)
        decode = after.speed(1).decode / before.speed(1).decode
        smaller = before.weight_bytes / after.weight_bytes
        parts = [f"loses {100 * lost:.2f} % (at most {100 * self.lost:.1f} %)"]
        if self.decode:
            parts.append(f"decodes {decode:.1f} × as fast (at least {self.decode:g})")
        if self.smaller:
            parts.append(f"is {smaller:.1f} × smaller (at least {self.smaller:g})")
        is_met = lost <= self.lost and decode >= self.decode and smaller >= self.smaller
        return f"{'met  ' if is_met else 'SHORT'} {after.runtime} {after.name}: {', '.join(parts)}"


INT8 = Goal(lost=0.005, decode=2)
INT4 = Goal(lost=0.01, decode=3, smaller=6)
GOALS = {"int8": INT8, "int4": INT4, "int4-kquant": INT4, "2of4-sparsegpt": Goal(lost=0.02)}


def variants(runtime: Runtime, texts: Path) -> dict[str, Step]:
    """Of one runtime; with transformers, fp32 is the model itself."""
    if runtime is Runtime.TRANSFORMERS:
        gptq = {"method": Rounding.GPTQ, "calibration": texts}
        return {
            "w8a8-gptq": Quantize(to=Form.W8A8, **gptq),
            "int4-gptq": Quantize(to=Form.INT4, **gptq),
            "2of4-sparsegpt": Prune(method=Pruning.SPARSEGPT, pattern="2:4", calibration=texts),
            "2of4-wanda": Prune(method=Pruning.WANDA, pattern="2:4", calibration=texts),
            "narrower": Prune(method=Pruning.WIDTH, share=0.25, calibration=texts),
        }
    found: dict[str, Step] = {
        "fp32": Export(runtime=runtime),
        "int8": Quantize(to=Form.INT8, runtime=runtime),
        "int4": Quantize(to=Form.INT4, runtime=runtime),
    }
    if runtime is Runtime.ONNX:
        found["int4-kquant"] = Quantize(to=Form.INT4, runtime=runtime, method=Rounding.KQUANT)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, help="by default held-out.txt beside the model")
    parser.add_argument("--calibration", type=Path, help="by default calibration.jsonl beside the model")
    parser.add_argument("--runtimes", nargs="+", type=Runtime, default=list(Runtime), choices=list(Runtime))
    parser.add_argument("--only", nargs="+", help="these variants, beside fp32")
    parser.add_argument("--report", type=Path, help="a folder for a report of each runtime")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each speed")
    given = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries have bars of their own
    text = given.text or given.model.with_name("held-out.txt")
    calibration = given.calibration or given.model.with_name("calibration.jsonl")
    verdicts = []
    for runtime in given.runtimes:
        chosen = variants(runtime, calibration)
        if given.only:
            chosen = {name: step for name, step in chosen.items() if name in {"fp32", *given.only}}
        stages = []
        with bars() as tell:
            if runtime is Runtime.TRANSFORMERS:
                before = measure(given.model, text, tell, name="fp32", repeats=given.repeats)
                stages.append(Stage("fp32", {}, {}, before))
            for name, step in chosen.items():
                made = given.model.with_name(f"{given.model.name}-variants") / f"{runtime}-{name}"
                if not is_done(step, given.model, made):
                    take(step, given.model, made, tell, replace=True)
                figures = measure(made, text, tell, name=name, repeats=given.repeats)
                stages.append(Stage(name, told(step), {}, figures))
                if name in GOALS:
                    verdicts.append(GOALS[name].verdict(figures, stages[0].figures))
        found = Report(tuple(stages))
        if given.report is not None:
            write_report(found, given.report / runtime)
        print(markdown(found))
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
