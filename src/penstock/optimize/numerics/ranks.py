"""One of the processes that a model is divided among; ``penstock.optimize.parallel`` starts them.

Its rank comes in the environment, as from ``torchrun``.  They meet at a file, and talk over gloo, on the CPU.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import distributed
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from transformers import AutoModelForCausalLM

from penstock.optimize.model_directory import open_model
from penstock.optimize.numerics.loading import load_model
from penstock.optimize.parallel import Divided, Division, RankWork

_CPU = torch.device("cpu")


class Stage(torch.nn.Module):  # type: ignore[misc]  # the checks go without PyTorch
    """Some of a decoder's layers: token ids or hidden states in, hidden states or logits out."""

    def __init__(self, model: Any, rank: int, ranks: int) -> None:
        super().__init__()
        self._is_first, self._is_last = rank == 0, rank == ranks - 1
        decoder = model.model
        layers = len(decoder.layers)
        own = range(layers * rank // ranks, layers * (rank + 1) // ranks)
        decoder.layers = torch.nn.ModuleList([decoder.layers[place] for place in own])
        kinds = getattr(model.config, "layer_types", None)
        if kinds:
            model.config.layer_types = [kinds[place] for place in own]
        model.config.num_hidden_layers = len(own)
        if not self._is_last:
            decoder.norm = torch.nn.Identity()
        if not self._is_first:
            decoder.embed_tokens = torch.nn.Identity()
        self.decoder = decoder
        self.head = model.lm_head if self._is_last else torch.nn.Identity()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        form = {"input_ids": given} if self._is_first else {"inputs_embeds": given}
        hidden: torch.Tensor = self.head(self.decoder(**form, use_cache=False).last_hidden_state)
        return hidden


def _by_pipeline(model: Any, ids: torch.Tensor, rank: int, ranks: int) -> tuple[torch.Tensor | None, int]:
    """Logits, of the last process, and the parameters of this one."""
    layers = model.config.num_hidden_layers
    if not hasattr(getattr(model, "model", None), "layers"):
        raise SystemExit(f"{type(model).__name__} keeps its layers elsewhere than the usual architectures")
    if layers < ranks:
        raise SystemExit(f"the model has {layers} layers")
    part = Stage(model, rank, ranks)
    held = sum(parameter.numel() for parameter in part.parameters())
    stage = PipelineStage(part, rank, ranks, _CPU)
    schedule = ScheduleGPipe(stage, n_microbatches=len(ids))
    with torch.no_grad():
        logits = schedule.step(ids) if rank == 0 else schedule.step()
    return logits, held


def _by_tensors(path: Path, ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        tp_plan="auto",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    ).eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    # A parameter that is divided knows its own part.
    held = sum(getattr(each, "_local_tensor", each).numel() for each in model.parameters())
    return logits, held


def main() -> None:
    work = msgspec.json.decode(sys.argv[1], type=RankWork)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = open_model(Path(work.model))
    whole = load_model(source)
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    ids = torch.randint(0, whole.config.get_text_config().vocab_size, (work.batch, work.length))
    with torch.no_grad():
        wanted = whole(input_ids=ids, use_cache=False).logits
    distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=ranks)
    logits: torch.Tensor | None
    if work.division is Division.TENSOR:
        del whole
        logits, held = _by_tensors(source.path, ids)
    else:
        logits, held = _by_pipeline(whole, ids, rank, ranks)
    off = 0.0 if logits is None else float((logits - wanted).abs().max() / wanted.abs().max())
    figures = torch.tensor([float(held), off], dtype=torch.float64)
    distributed.all_reduce(figures, op=distributed.ReduceOp.MAX)
    distributed.destroy_process_group()
    most, differ = figures.tolist()
    told = Divided(work.division, ranks, parameters, int(most), differ)
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")


if __name__ == "__main__":
    main()
