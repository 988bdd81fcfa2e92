"""``penstock optimize``: make a model smaller and quicker, and see what that costs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import typer

from penstock.errors import ConfigError
from penstock.optimize.dataset import Wanted
from penstock.optimize.dataset import make as make_dataset
from penstock.optimize.faults import OptimizeError
from penstock.optimize.figures import Figures
from penstock.optimize.gate import Gate
from penstock.optimize.making import Stamp, made_whole
from penstock.optimize.measure import measure
from penstock.optimize.model_directory import Runtime, open_model
from penstock.optimize.parallel import Division, divide
from penstock.optimize.progress import bars
from penstock.optimize.questions import read_questions
from penstock.optimize.recipe import follow, read_recipe
from penstock.optimize.report import Report, Stage, markdown, write_report
from penstock.optimize.steps import (
    Distill,
    Export,
    Form,
    Notes,
    Prune,
    Pruning,
    Quantize,
    Rounding,
    Shrink,
    Step,
    loaded,
    require_sense,
    take,
    told,
)
from penstock.optimize.texts import read_texts

optimize = typer.Typer(no_args_is_help=True)

Source: TypeAlias = Annotated[Path, typer.Argument(help="The model's directory.")]
Target: TypeAlias = Annotated[Path, typer.Argument(help="The directory to make.")]
Text: TypeAlias = Annotated[
    Path | None, typer.Option(help="Text that no step has seen, for a report; none: nothing is measured.")
]
Questions: TypeAlias = Annotated[
    Path | None, typer.Option(help="Questions with their answers, .jsonl, for the report.")
]
MaxLoss: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Keep nothing whose perplexity is above the source's by a larger share.", min=0),
]
MaxDrop: TypeAlias = Annotated[
    float | None,
    typer.Option(help="Keep nothing that answers fewer questions rightly, by a larger share.", min=0, max=1),
]
Texts: TypeAlias = Annotated[Path | None, typer.Option(help="Texts to learn from: plain text, or .jsonl.")]
Samples: TypeAlias = Annotated[int, typer.Option(help="Pieces of the calibration set.", min=1)]
Length: TypeAlias = Annotated[int, typer.Option(help="Tokens of one piece.", min=8)]


@optimize.callback()
def _root() -> None:
    """Make a model smaller and quicker, and see what that costs it."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # one bar is enough, and it is ours


@optimize.command()
def quantize(
    source: Source,
    target: Target,
    to: Annotated[Form, typer.Option(help="How weights are kept; w8a8: activations in int8 as well.")],
    runtime: Annotated[Runtime, typer.Option(help="Who is to run it.")] = Runtime.TRANSFORMERS,
    method: Annotated[Rounding, typer.Option(help="How weights are rounded.")] = Rounding.RTN,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale, with int4.")] = 32,
    calibration: Texts = None,
    samples: Samples = 64,
    length: Length = 256,
    text: Text = None,
    questions: Questions = None,
    max_loss: MaxLoss = None,
    max_drop: MaxDrop = None,
) -> None:
    """Fewer bits for each weight."""
    step = Quantize(
        to=to,
        runtime=runtime,
        method=method,
        group_size=group_size,
        calibration=calibration,
        samples=samples,
        length=length,
    )
    _take(step, source, target, text, questions, Gate(max_loss, max_drop))


@optimize.command()
def prune(
    source: Source,
    target: Target,
    method: Annotated[
        Pruning, typer.Option(help="What is left out: weights by three methods, channels, or layers.")
    ],
    pattern: Annotated[str, typer.Option(help="2:4: two of four neighbours.")] = "",
    share: Annotated[float, typer.Option(help="Of weights, channels or layers.")] = 0.5,
    calibration: Texts = None,
    samples: Samples = 64,
    length: Length = 256,
    text: Text = None,
    questions: Questions = None,
    max_loss: MaxLoss = None,
    max_drop: MaxDrop = None,
) -> None:
    """Leave out weights, channels or layers."""
    step = Prune(
        method=method,
        pattern=pattern,
        share=share,
        calibration=calibration,
        samples=samples,
        length=length,
    )
    _take(step, source, target, text, questions, Gate(max_loss, max_drop))


@optimize.command()
def distill(
    source: Annotated[Path, typer.Argument(help="The student's directory.")],
    target: Target,
    calibration: Annotated[Path, typer.Option(help="Texts to learn on: plain text, or .jsonl.")],
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="The directory of the model to learn from; without it, what the texts say is learnt."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of training.", min=1)] = 200,
    batch: Annotated[int, typer.Option(help="Pieces of a step.", min=1)] = 8,
    length: Length = 256,
    learning_rate: Annotated[float, typer.Option(help="The largest.")] = 1e-3,
    temperature: Annotated[
        float, typer.Option(help="Above 1: more of what the teacher finds unlikely.")
    ] = 1.0,
    hard: Annotated[float, typer.Option(help="Share of the loss that is about the text itself.")] = 0.0,
    on_policy: Annotated[
        bool,
        typer.Option(
            "--on-policy", help="Only begin with the texts; learn from what the student writes then."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the order of the texts.")] = 1,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps between checkpoints, to go on from when it was broken off.", min=1)
    ] = 50,
    text: Text = None,
    questions: Questions = None,
    max_loss: MaxLoss = None,
    max_drop: MaxDrop = None,
) -> None:
    """Let a small model learn what a large one would say, or has said."""
    step = Distill(
        teacher=teacher,
        calibration=calibration,
        steps=steps,
        batch=batch,
        length=length,
        learning_rate=learning_rate,
        temperature=temperature,
        hard=hard,
        on_policy=on_policy,
        seed=seed,
        checkpoint_every=checkpoint_every,
    )
    _take(step, source, target, text, questions, Gate(max_loss, max_drop))


@optimize.command()
def shrink(
    source: Source,
    target: Target,
    calibration: Annotated[Path, typer.Option(help="Texts to find out which layers are not missed.")],
    max_loss: Annotated[float, typer.Option(help="Of perplexity, as a share.")] = 0.05,
    least: Annotated[int, typer.Option(help="Layers that stay in any case.", min=1)] = 1,
    samples: Samples = 16,
    length: Length = 256,
    text: Text = None,
    questions: Questions = None,
    max_drop: MaxDrop = None,
) -> None:
    """Leave out as many layers as the loss allows, and plot what each costs and saves."""
    step = Shrink(calibration=calibration, max_loss=max_loss, least=least, samples=samples, length=length)
    _take(step, source, target, text, questions, Gate(max_drop=max_drop))


@optimize.command()
def export(
    source: Source,
    target: Target,
    runtime: Annotated[Runtime, typer.Option(help="Who is to run it.")] = Runtime.ONNX,
    to: Annotated[Form, typer.Option(help="fp32 or fp16; fewer bits: quantize.")] = Form.FP32,
    text: Text = None,
    questions: Questions = None,
    max_loss: MaxLoss = None,
    max_drop: MaxDrop = None,
) -> None:
    """Write the same numbers for another runtime."""
    _take(Export(runtime=runtime, to=to), source, target, text, questions, Gate(max_loss, max_drop))


@optimize.command()
def evaluate(
    models: Annotated[list[Path], typer.Argument(help="Directories; others are compared with the first.")],
    text: Annotated[Path, typer.Option(help="Text that they have not seen.")],
    questions: Questions = None,
    report: Annotated[Path | None, typer.Option(help="A folder for report.md, .json and .svg.")] = None,
    windows: Annotated[int, typer.Option(help="Pieces of 256 tokens for the perplexity.", min=1)] = 40,
    repeats: Annotated[int, typer.Option(help="Timings of each speed.", min=1)] = 3,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="End with status 1 where a perplexity is above the first's by a larger share.", min=0
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="End with status 1 where fewer answers are right than the first's, by a larger share.",
            min=0,
            max=1,
        ),
    ] = None,
) -> None:
    """Measure size, perplexity, right answers, speed and memory."""
    gate = Gate(max_loss, max_drop)
    _require_files(text, questions, gate)
    for model in models:
        open_model(model)
    with bars() as tell:
        stages = [
            Stage(
                model.name,
                {},
                {},
                measure(model, text, tell, questions=questions, windows=windows, repeats=repeats),
            )
            for model in models
        ]
    found = Report(tuple(stages))
    if report is not None:
        write_report(found, report)
    print(markdown(found), end="")
    for stage in stages[1:]:
        gate.require(stage.figures, stages[0].figures)


@optimize.command()
def dataset(
    transcripts: Annotated[Path, typer.Argument(help="The directory that gateways write transcripts to.")],
    target: Target,
    tenant: Annotated[
        list[str], typer.Option(help="Whose; a model can repeat to one tenant what it learned from another.")
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Only answers to calls of this model; may be repeated.")
    ] = None,
    answered_by: Annotated[
        list[str] | None,
        typer.Option(help="Only answers of this upstream, or of its model of this name; may be repeated."),
    ] = None,
    held_back: Annotated[
        float, typer.Option(help="Share of the conversations to evaluate with.", min=0.001, max=0.9)
    ] = 0.1,
    similar: Annotated[
        float, typer.Option(help="Of two that share so much, one goes.", min=0.3, max=1.0)
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Decides what is held back.")] = 1,
) -> None:
    """Make texts to learn from of recorded conversations: without repetitions, secrets and personal data."""
    wanted = Wanted(
        tenants=tuple(tenant),
        models=tuple(model or ()),
        answered_by=tuple(answered_by or ()),
        held_back=held_back,
        similar=similar,
        seed=seed,
    )
    with bars() as tell:
        counts = make_dataset(transcripts, target, wanted, tell)
    print(counts.markdown(), end="")


@optimize.command()
def profile(
    source: Source,
    target: Target,
    text: Annotated[Path, typer.Option(help="A text to begin with.")],
    tokens: Annotated[int, typer.Option(help="To generate.", min=1)] = 32,
    batch: Annotated[int, typer.Option(help="Sequences at once.", min=1)] = 1,
) -> None:
    """See where the time goes, and what to change first."""
    model = open_model(source)
    model.require_memory(1.5, "profiling")
    read_texts(text)
    make = loaded("profile", "make")
    stamp = Stamp("profile", {"tokens": tokens, "batch": batch}, "")
    with bars() as tell, made_whole(target, stamp) as into:
        found = make(model, text, into, tell, tokens=tokens, batch=batch)
        (into / "profile.md").write_text(found.markdown(), encoding="utf-8")
        (into / "profile.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    print(found.markdown(), end="")


@optimize.command()
def parallel(
    source: Source,
    by: Annotated[Division, typer.Option(help="What each process has a part of.")] = Division.TENSOR,
    ranks: Annotated[int, typer.Option(help="Processes.", min=2, max=64)] = 2,
) -> None:
    """See whether a model can be divided among processes, and says the same then."""
    loaded("ranks", "main")
    told = divide(open_model(source), by, ranks)
    print(f"{source} in {told.ranks} processes, by {told.division}:")
    print(f"  {told.held:,} of {told.parameters:,} parameters in the process that has most")
    print(f"  logits differ by {told.logits_differ_by:.1e} of the largest")


@optimize.command()
def recipe(
    file: Annotated[Path, typer.Argument(help="The recipe, YAML.")],
) -> None:
    """Follow a recipe; begun again after a crash, it goes on where it was."""
    read = read_recipe(file)
    with bars() as tell:
        found = follow(read, tell, measure=measure)
    print(markdown(found), end="")


def _require_files(text: Path | None, questions: Path | None, gate: Gate) -> None:
    """See that what is to be measured with is there, before anything is made."""
    mistakes = gate.mistakes(questions=questions is not None)
    if text is None and (questions is not None or gate):
        mistakes.append("text: a report is of a text, too; name one that no step has seen")
    if mistakes:
        raise ConfigError("it cannot be measured as it is asked for", tuple(mistakes))
    if text is not None:
        read_texts(text)
    if questions is not None:
        read_questions(questions)


def _take(
    step: Step, source: Path, target: Path, text: Path | None, questions: Path | None, gate: Gate
) -> None:
    require_sense(step)
    _require_files(text, questions, gate)
    with bars() as tell:

        def judge(into: Path, notes: Notes) -> None:
            assert text is not None
            before = measure(source, text, tell, questions=questions)
            after = measure(into, text, tell, questions=questions, name=target.name)
            gate.require(after, before)
            _write(step, notes, before, after, into)

        notes = take(step, source, target, tell, judge=judge if gate else None)
        for key, value in notes.items():
            print(f"{key}: {value}", file=sys.stderr)
        if text is not None and not gate:
            try:
                before, after = (measure(each, text, tell, questions=questions) for each in (source, target))
            except OptimizeError as error:
                raise OptimizeError(f"{target} is made, but without a report: {error.message}") from error
            _write(step, notes, before, after, target)
        if text is not None:
            print((target / "report.md").read_text(encoding="utf-8"), end="")


def _write(step: Step, notes: Notes, before: Figures, after: Figures, folder: Path) -> None:
    stages = (Stage("original", {}, {}, before), Stage(step.name, told(step), notes, after))
    write_report(Report(stages), folder)
