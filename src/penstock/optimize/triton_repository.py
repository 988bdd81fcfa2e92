"""A model repository for Triton: directories of models behind its Python backend, batched as calls come.

Triton puts calls together (``dynamic_batching``); ``_triton_model``, which is copied beside each model, runs
each batch at once with the runtime that the directory is for.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import msgspec

from penstock.errors import ConfigError
from penstock.optimize.making import Stamp, digest, made_whole
from penstock.optimize.model_directory import ModelDirectory, open_model

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class Batching(msgspec.Struct, frozen=True):
    """How Triton puts calls together; the defaults are for throughput, :data:`TUNED` for short answers as well."""

    max_batch_size: int = 32
    max_queue_delay_us: int = 100_000  # the longest time that a call waits for others
    preferred: tuple[int, ...] = ()  # batches of these sizes go at once
    priority_levels: int = 0  # 0: all calls are alike
    queue_timeout_us: int = 600_000_000  # a call that waits longer is refused
    max_queue_size: int = 0  # places in the line; 0: any number


TUNED = Batching(max_queue_delay_us=2_000, preferred=(8, 16, 32))
"""What 16 callers in turn are served best with: a batch that is under way is all the waiting that pays."""


def write_repository(
    models: Mapping[str, Path], target: Path, batching: Batching, *, decoupled: bool = True
) -> None:
    """Write a repository with each model under its name, and all that it needs.

    :param decoupled: answers are streamed
    :raises penstock.errors.ConfigError: a name that Triton would not take
    :raises penstock.optimize.faults.OptimizeError: a directory is no model, or the repository cannot be written
    """
    for name in models:
        if not _NAME.match(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a model: letters, digits, and . _ - between them"
            )
    opened = {name: open_model(path) for name, path in models.items()}
    stamp = Stamp(
        "triton-repo",
        {"batching": msgspec.to_builtins(batching), "decoupled": decoupled},
        " ".join(digest(each) for each in opened.values()),
    )
    room = sum(_size(each.path) for each in opened.values())
    with made_whole(target, stamp, room=room) as into:
        for name, model in opened.items():
            _write(into / name, name, model, batching, decoupled=decoupled)


def _write(folder: Path, name: str, model: ModelDirectory, batching: Batching, *, decoupled: bool) -> None:
    version = folder / "1"
    shutil.copytree(model.path, version / "model")
    source = resources.files("penstock.optimize").joinpath("_triton_model.py").read_text("utf-8")
    (version / "model.py").write_text(source, encoding="utf-8")
    (folder / "config.pbtxt").write_text(
        configuration(name, str(model.runtime), batching, decoupled=decoupled), encoding="utf-8"
    )


def configuration(name: str, runtime: str, batching: Batching, *, decoupled: bool) -> str:
    """``config.pbtxt`` of a model that generates text."""
    optional = "".join(
        f'  {{ name: "{each}" data_type: {kind} dims: [ 1 ] optional: true }},\n'
        for each, kind in (
            ("max_tokens", "TYPE_INT32"),
            ("temperature", "TYPE_FP32"),
            ("stream", "TYPE_BOOL"),
        )
    ).rstrip(",\n")
    outputs = ",\n".join(
        f'  {{ name: "{each}" data_type: {kind} dims: [ 1 ] }}'
        for each, kind in (
            ("text_output", "TYPE_STRING"),
            ("finish_reason", "TYPE_STRING"),
            ("prompt_tokens", "TYPE_INT32"),
            ("completion_tokens", "TYPE_INT32"),
        )
    )
    return f"""name: "{name}"
backend: "python"
max_batch_size: {batching.max_batch_size}
input [
  {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }},
{optional}
]
output [
{outputs}
]
{dynamic_batching(batching)}
model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "runtime" value: {{ string_value: "{runtime}" }} }}
"""


def dynamic_batching(batching: Batching) -> str:
    """That section of a ``config.pbtxt``."""
    lines = [f"  max_queue_delay_microseconds: {batching.max_queue_delay_us}"]
    if batching.preferred:
        lines.append(f"  preferred_batch_size: [ {', '.join(map(str, batching.preferred))} ]")
    if batching.priority_levels:
        lines += [
            f"  priority_levels: {batching.priority_levels}",
            f"  default_priority_level: {batching.priority_levels}",
        ]
    policy = [
        "    timeout_action: REJECT",
        f"    default_timeout_microseconds: {batching.queue_timeout_us}",
        # A call may be more impatient; but only where there is a default does its own time count at all.
        "    allow_timeout_override: true",
    ]
    if batching.max_queue_size:
        policy.append(f"    max_queue_size: {batching.max_queue_size}")
    lines += ["  default_queue_policy {", *policy, "  }"]
    return "\n".join(["dynamic_batching {", *lines, "}"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
