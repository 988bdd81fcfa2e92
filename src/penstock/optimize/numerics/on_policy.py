"""The student writes, and learns from its teacher at each of its own words (on-policy distillation).

What it learns from is what it will be asked for: texts that it writes itself, with their mistakes, and not those that a
corpus has (Agarwal et al., On-Policy Distillation of Language Models, ICLR 2024).  Sampling, loss and schedule are TRL's.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import DistillationConfig, DistillationTrainer

from penstock.optimize.making import sync
from penstock.optimize.progress import Tell
from penstock.optimize.steps import Distill

_MARK = "penstock.whole"


class _AfterStep(TrainerCallback):  # type: ignore[misc]  # the checks go without the library
    """Tells how far it is, and keeps weights at zero that were: training would undo what pruning did."""

    def __init__(self, student: Any, tell: Tell, steps: int) -> None:
        self._tell = tell
        self._steps = steps
        self._masks = [
            (each, each != 0) for each in student.parameters() if each.dim() > 1 and (each == 0).any()
        ]

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        del args, control, rest
        with torch.no_grad():
            for weight, mask in self._masks:
                weight.mul_(mask)
        self._tell("distilling what it says itself", state.global_step, self._steps)


class _Checkpoints(TrainerCallback):  # type: ignore[misc]
    """The trainer's own, of which the last that is whole is kept: it has a mark, which comes after all the rest.

    :param folder: in which nothing else is
    :param of: what they are of
    """

    def __init__(self, folder: Path, of: str) -> None:
        self._folder = folder
        self._of = of

    def last(self) -> Path | None:
        """The one to go on from; what is not whole, or of something else, is removed."""
        whole = [path for path in self._folder.glob("checkpoint-*") if _mark(path) == self._of]
        last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
        self._remove_but(last)
        return last

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        del args, control, rest
        path = self._folder / f"checkpoint-{state.global_step}"
        sync(path)
        (path / _MARK).write_text(self._of)
        sync(path)
        self._remove_but(path)

    def _remove_but(self, kept: Path | None) -> None:
        for path in self._folder.glob("*"):
            if path.is_dir() and path != kept:
                shutil.rmtree(path)


def _mark(path: Path) -> str:
    try:
        return (path / _MARK).read_text()
    except OSError:
        return ""


def train(
    step: Distill,
    student: Any,
    teacher: Any,
    tokenizer: Any,
    pieces: list[list[int]],
    folder: Path,
    of: str,
    tell: Tell,
) -> list[float]:
    """The loss of each step; the student is trained in place, and training that was broken off goes on.

    :param pieces: of texts; the first half of each is what the student goes on with
    :param folder: for checkpoints
    :param of: what these must be of
    """
    half = step.length // 2
    prompts = Dataset.from_list([{"prompt": tokenizer.decode(piece[:half])} for piece in pieces])
    checkpoints = _Checkpoints(folder, of)
    last = checkpoints.last()
    trainer = DistillationTrainer(
        model=student,
        teacher_model=teacher,
        processing_class=tokenizer,
        train_dataset=prompts,
        callbacks=[_AfterStep(student, tell, step.steps), checkpoints],
        args=DistillationConfig(
            output_dir=str(folder),
            max_steps=step.steps,
            per_device_train_batch_size=step.batch,
            gradient_accumulation_steps=1,
            learning_rate=step.learning_rate,
            temperature=step.temperature,
            max_completion_length=step.length - half,
            seed=step.seed,
            logging_steps=1,
            save_strategy="steps",
            save_steps=step.checkpoint_every,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
