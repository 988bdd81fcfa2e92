"""Attention over pages, request by request, for the continuous batching of transformers.

What it comes with builds one mask over all requests of a step, so that each pays for the keys of all the others.
Here each is computed by itself, from its own keys: less work where there are many, and what one is told does not
depend on who is beside it.

Its name begins with ``paged|``: to the library that is an attention that it need not exchange.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "paged|penstock"


def register() -> None:
    """Make :func:`attend` known to the library as :data:`NAME`."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cache: Any,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor | dict[str, torch.Tensor],
    read_index: list[torch.Tensor],
    write_index: list[torch.Tensor],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Keep the new keys and values, and let every new token look at those of its own request.

    :param query: (1, heads, new tokens of all requests, size of a head); ``key`` and ``value`` likewise
    :param cu_seq_lens_q: where the new tokens of each request begin, and the end; ``cu_seq_lens_k``: its keys
    :returns: (1, new tokens, heads, size), and no weights
    """
    del attention_mask
    if s_aux is not None:
        raise NotImplementedError("its attention has sinks, which are not computed here")
    keys, values = cache.update(
        key_states=key,
        value_states=value,
        layer_idx=module.layer_idx,
        read_index=read_index,
        write_index=write_index,
    )
    window = sliding_window or getattr(module, "sliding_window", None) or 0
    if isinstance(cu_seq_lens_k, dict):
        cu_seq_lens_k = cu_seq_lens_k["sliding_attention" if window else "full_attention"]
    starts, key_starts = cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()
    keys, values = keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
    grouped = keys.shape[1] != query.shape[1]
    parts = []
    for begin, end, key_begin, key_end in zip(
        starts[:-1], starts[1:], key_starts[:-1], key_starts[1:], strict=True
    ):
        new, known = end - begin, key_end - key_begin
        is_causal = 1 < new == known and not window
        mask = None if new == 1 or (is_causal and not softcap) else _mask(new, known, window, query.device)
        own = query[:, :, begin:end], keys[:, :, key_begin:key_end], values[:, :, key_begin:key_end]
        parts.append(
            _capped(*own, mask, scaling, softcap)
            if softcap
            else scaled_dot_product_attention(
                *own, attn_mask=mask, scale=scaling, is_causal=is_causal, enable_gqa=grouped
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    cap: float,
) -> torch.Tensor:
    """The same where no score is to be further from 0 than ``cap`` (Gemma 2, 2024, section 2)."""
    times = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(times, dim=1), values.repeat_interleave(times, dim=1)
    scores = query @ keys.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ values


def _mask(new: int, known: int, window: int, device: torch.device) -> torch.Tensor:
    """What each of the last ``new`` of ``known`` tokens sees: itself, and what is before it (of a window)."""
    places = torch.arange(known, device=device)
    own = places[known - new :, None]
    seen = places <= own
    return seen & (places > own - window) if window else seen


__all__ = ["NAME", "attend", "register"]
