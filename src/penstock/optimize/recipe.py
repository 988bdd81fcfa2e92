"""A recipe: steps one after another, measured, and resumable.

What is done is told by the directories alone. Each that is whole bears a stamp of what it was made of, and the
first whose stamp is not what the recipe would make now is made again, and with it all that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml

from penstock.errors import ConfigError
from penstock.optimize.figures import Figures
from penstock.optimize.gate import Gate
from penstock.optimize.making import digest, stamp_of
from penstock.optimize.model_directory import open_model
from penstock.optimize.progress import Tell
from penstock.optimize.questions import read_questions
from penstock.optimize.report import Report, Stage, write_report
from penstock.optimize.steps import NOTES, STEPS, Notes, Numerics, Step, require_sense, stamp_for, take, told
from penstock.optimize.texts import read_texts

_FIGURES = "figures"  # the folder with what was measured, beside the directories


class Recipe(msgspec.Struct, frozen=True):
    """A recipe that makes sense; paths are those of this machine."""

    model: Path
    output: Path
    text: Path  # to evaluate on
    steps: tuple[Step, ...]
    questions: Path | None = None  # to be answered as well
    gate: Gate = Gate()


class _Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    text: str
    steps: list[dict[str, Any]]
    output: str = "out"
    calibration: str | None = None
    questions: str | None = None
    max_loss: float | None = None
    max_drop: float | None = None


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file; paths in it are relative to the file.

    :raises penstock.errors.ConfigError: it cannot be read, or makes no sense; each mistake with its place
    """
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        plain = msgspec.convert(read, _Plain)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    base = path.parent
    model = base / plain.model
    mistakes: list[str] = []
    steps: list[Step] = []
    for number, entry in enumerate(plain.steps):
        where = f"steps[{number}]"
        if len(entry) != 1 or next(iter(entry)) not in STEPS:
            mistakes.append(f"{where}: one of {', '.join(STEPS)}, with its options")
            continue
        name, options = next(iter(entry.items()))
        if not isinstance(options, dict | None):
            mistakes.append(f"{where}.{name}: its options must be a mapping")
            continue
        given = {"calibration": plain.calibration, **(options or {})}
        if name == "distill":
            given.setdefault("teacher", plain.model)
        for file in ("calibration", "teacher"):
            if isinstance(given.get(file), str):
                given[file] = str(base / given[file])
        try:
            step: Step = msgspec.convert(given, STEPS[name], dec_hook=_path)
        except msgspec.ValidationError as error:
            mistakes.append(f"{where}.{name}: {error}")
            continue
        mistakes += [f"{where}.{name}.{each}" for each in step.mistakes()]
        if steps and steps[-1].runtime_after != "transformers":
            mistakes.append(f"{where}: nothing can follow a step for runtime {steps[-1].runtime_after}")
        steps.append(step)
    gate = Gate(plain.max_loss, plain.max_drop)
    mistakes += gate.mistakes(questions=plain.questions is not None)
    if not plain.steps:
        mistakes.append("steps: there are none")
    if mistakes:
        raise ConfigError(f"{path} cannot be used", tuple(f"{path}: {each}" for each in mistakes))
    questions = None if plain.questions is None else base / plain.questions
    return Recipe(model, base / plain.output, base / plain.text, tuple(steps), questions, gate)


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError


class Measure(Protocol):
    """Measures a model directory, as :func:`penstock.optimize.measure.measure` does."""

    def __call__(
        self, model: Path, text: Path, tell: Tell, *, questions: Path | None, name: str
    ) -> Figures: ...


def follow(
    recipe: Recipe,
    tell: Tell,
    *,
    measure: Measure,
    numerics: Mapping[str, Numerics] | None = None,
) -> Report:
    """Do what is not done yet, and write the report.

    :param numerics: who does the steps, by their names; by default, their own
    :raises penstock.optimize.faults.OptimizeError: a step cannot be done, or what the last one makes is worse than it
        may be; those before it are kept
    """
    for step in recipe.steps:
        require_sense(step)
    _require_files(recipe)
    if recipe.questions is not None:
        read_questions(recipe.questions)
    before = _measured(recipe, recipe.model, "0-original", tell, measure)
    stages = [Stage("original", {}, {}, before)]
    source = recipe.model
    for number, step in enumerate(recipe.steps, 1):
        name = f"{number}-{step.name}"
        target = recipe.output / name
        if is_done(step, source, target):
            notes: Notes = msgspec.json.decode((target / NOTES).read_bytes())
            tell(f"{name} is done already", 1, 1)
        else:
            own = None if numerics is None else numerics[step.name]

            def judge(into: Path, notes: Notes, name: str = name) -> None:
                del notes
                recipe.gate.require(_measured(recipe, into, name, tell, measure), before)

            judged = judge if recipe.gate and number == len(recipe.steps) else None
            notes = take(step, source, target, tell, numerics=own, judge=judged, replace=True)
        figures = _measured(recipe, target, name, tell, measure)
        stages.append(Stage(name, told(step), notes, figures))
        source = target
    report = Report(tuple(stages))
    write_report(report, recipe.output)
    recipe.gate.require(stages[-1].figures, before)  # it may have been made when more was allowed
    return report


def _require_files(recipe: Recipe) -> None:
    """See that what later steps need is there: before the first takes its time."""
    open_model(recipe.model)
    for texts in {recipe.text, *(step.texts for step in recipe.steps if step.texts is not None)}:
        read_texts(texts)
    for step in recipe.steps:
        # A teacher may be what an earlier step makes.
        if step.beside is not None and recipe.output not in step.beside.parents:
            open_model(step.beside)


def is_done(step: Step, source: Path, target: Path) -> bool:
    """Whether ``target`` is what this step makes of ``source``."""
    stamp = stamp_of(target)
    return stamp is not None and stamp == stamp_for(step, open_model(source))


class _Kept(msgspec.Struct, frozen=True):
    of: str  # digest of model and text
    figures: Figures


def _measured(recipe: Recipe, model: Path, name: str, tell: Tell, measure: Measure) -> Figures:
    """Figures are kept, because measuring takes longer than many a step."""
    kept = recipe.output / _FIGURES / f"{name}.json"
    files = [path for path in (recipe.text, recipe.questions) if path is not None]
    of = digest(open_model(model), *files)
    try:
        known = msgspec.json.decode(kept.read_bytes(), type=_Kept)
        if known.of == of:
            return known.figures
    except (OSError, msgspec.DecodeError):
        pass
    called = recipe.model.name if model == recipe.model else name
    figures = measure(model, recipe.text, tell, questions=recipe.questions, name=called)
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside = kept.with_suffix(".unfinished")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(_Kept(of, figures)), indent=2))
    beside.rename(kept)
    return figures
