"""Attention over pages, for the continuous batching of transformers.

What it comes with builds one mask over all requests of a step, so that each pays for the keys of all the others.
Here each pays for its own:

* **A prompt, or a part of one,** is computed by itself, from its own keys.
* **Requests of which one token is computed**, most of them as a rule, are computed together where they have about as
  many keys: those of a batch are read as rows of one length.  What a row lacks is zeros that nobody looks at; they
  add nothing, so that what one is told does not depend on who is beside it.

Which request belongs where is found out once for a step, and not by each layer (:class:`Plan`).

Its name begins with ``paged|``: to the library that is an attention that it need not exchange.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "paged|penstock"


_LONGER = 1.25  # times as many keys as the shortest of a batch, at most, and
_MORE = 32  # some more
_AT_ONCE = 8_192  # keys of a batch: more of them are no cheaper together, and the room for them stays taken


class Span(NamedTuple):
    """One request's tokens among those of a step, and its keys among all that are read."""

    begin: int
    end: int
    key_begin: int
    key_end: int


class Batch(NamedTuple):
    """Requests that are computed together, one token of each.

    ``places`` of their tokens in the step, (requests,); ``read``: where their keys are kept, (requests * keys,);
    ``mask``: what is added to a score, (requests, 1, 1, keys).
    """

    places: torch.Tensor
    read: torch.Tensor
    mask: torch.Tensor


class Plan(NamedTuple):
    """Who is computed how in one step, for all layers whose attention looks at everything.

    ``read``: where the keys of those are kept that are computed by themselves.
    """

    alone: list[Span]
    read: torch.Tensor
    batches: list[Batch]


class Room:
    """Memory that keys and values are read into, kept from layer to layer and from step to step.

    Memory that is asked for anew in each layer is given back to the operating system after it, as soon as it is a
    few megabytes: the next layer pays for each of its pages again.
    """

    def __init__(self) -> None:
        self._keys = torch.empty(0, 0, 0)
        self._values = torch.empty(0, 0, 0)

    def __repr__(self) -> str:
        return f"<Room for {len(self._keys)} tokens>"

    def read(
        self, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Those at ``places`` of both, (places, heads, size); good until the next call."""
        count = places.numel()
        if len(self._keys) < count or self._keys.shape[1:] != keys.shape[1:]:
            self._keys = keys.new_empty((count + count // 4, *keys.shape[1:]))
            self._values = torch.empty_like(self._keys)
        return (
            torch.index_select(keys, 0, places, out=self._keys[:count]),
            torch.index_select(values, 0, places, out=self._values[:count]),
        )


def plans(given: dict[str, Any]) -> list[Plan | None]:
    """One for each group of layers; None: its requests are all computed by themselves.

    :param given: what the library gives to a model for a step
    """
    cache, lengths = given["cache"], given["cu_seq_lens_k"]
    if isinstance(lengths, dict):
        lengths = lengths.get("full_attention")
    starts = given["cu_seq_lens_q"].tolist()
    slides = dict.fromkeys(range(cache.num_groups), False)
    for layer, (group, _) in cache.layer_index_to_group_indices.items():
        slides[group] |= cache.sliding_windows[layer] != 1
    spans = list(_spans(starts, [] if lengths is None else lengths.tolist()))
    return [
        None if slides[group] or not read.numel() else _plan(spans, read, cache.read_trash_index)
        for group, read in enumerate(given["read_index"])
    ]


def _spans(starts: Sequence[int], key_starts: Sequence[int]) -> Iterator[Span]:
    places = zip(starts[:-1], starts[1:], key_starts[:-1], key_starts[1:], strict=False)
    return (Span(*each) for each in places)


def _plan(spans: Sequence[Span], read: torch.Tensor, nothing: int) -> Plan | None:
    """Those with one new token by the number of their keys, in batches."""
    single = sorted(
        (span for span in spans if span.end == span.begin + 1), key=lambda span: span.key_end - span.key_begin
    )
    batches: list[list[Span]] = []
    most = 0.0
    for span in single:
        known = span.key_end - span.key_begin
        if not batches or known > most or (len(batches[-1]) + 1) * known > _AT_ONCE:
            batches.append([])
            most = _LONGER * known + _MORE
        batches[-1].append(span)
    together = [batch for batch in batches if len(batch) > 1]
    if not together:
        return None
    begun = {span.begin for batch in together for span in batch}
    alone = [span for span in spans if span.begin not in begun]
    parts = [read[span.key_begin : span.key_end] for span in alone]
    return Plan(
        alone, torch.cat(parts) if parts else read[:0], [_batch(batch, read, nothing) for batch in together]
    )


def _batch(spans: Sequence[Span], read: torch.Tensor, nothing: int) -> Batch:
    """``nothing``: where zeros are kept."""
    begins = torch.tensor([[span.key_begin] for span in spans])
    known = torch.tensor([[span.key_end - span.key_begin] for span in spans])
    keys = torch.arange(spans[-1].key_end - spans[-1].key_begin)  # the last one has most
    lacks = keys >= known
    rows = read[(begins + keys).clamp_(max=read.numel() - 1)].masked_fill_(lacks, nothing)
    mask = torch.zeros(lacks.shape).masked_fill_(lacks, float("-inf"))
    return Batch(torch.tensor([span.begin for span in spans]), rows.flatten(), mask[:, None, None])


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
    plans: Sequence[Plan | None] = (),
    room: Room | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Keep the new keys and values, and let every new token look at those of its own request.

    :param query: (1, heads, new tokens of all requests, size of a head); ``key`` and ``value`` likewise
    :param cu_seq_lens_q: where the new tokens of each request begin, and the end; ``cu_seq_lens_k``: its keys
    :param plans: of :func:`plans`; ``room``: where they are computed in
    :returns: (1, new tokens, heads, size), and no weights
    """
    del attention_mask
    if s_aux is not None:
        raise NotImplementedError("its attention has sinks, which are not computed here")
    group, layer = cache.layer_index_to_group_indices[module.layer_idx]
    if room is not None and not softcap and (plan := plans[group]) is not None:
        keys, values = cache.key_cache[layer], cache.value_cache[layer]
        keys.index_copy_(0, write_index[group], key[0].transpose(0, 1))
        values.index_copy_(0, write_index[group], value[0].transpose(0, 1))
        return _by_plan(plan, query, keys, values, room, scaling), None
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
    keys, values = keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
    parts = [
        _alone(
            query[:, :, begin:end],
            keys[:, :, key_begin:key_end],
            values[:, :, key_begin:key_end],
            (scaling, window, softcap),
        )
        for begin, end, key_begin, key_end in _spans(cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist())
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _by_plan(
    plan: Plan,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    room: Room,
    scaling: float | None,
) -> torch.Tensor:
    """The same, with keys and values of all requests as they are kept, (places, heads, size)."""
    _, heads, _, size = query.shape
    told = torch.empty((1, query.shape[2], heads, size))
    if plan.alone:
        known, kept = (each.transpose(0, 1)[None] for each in room.read(keys, values, plan.read))
        at = 0
        for begin, end, key_begin, key_end in plan.alone:
            until = at + key_end - key_begin
            own = query[:, :, begin:end], known[:, :, at:until], kept[:, :, at:until]
            told[0, begin:end] = _alone(*own, (scaling, 0, None))[0].transpose(0, 1)
            at = until
    kinds = keys.shape[1]  # of keys; several heads of the query look at each
    for places, read, mask in plan.batches:
        rows = len(places)
        known, kept = (
            each.view(rows, -1, kinds, size).transpose(1, 2) for each in room.read(keys, values, read)
        )
        asked = query[0].transpose(0, 1).index_select(0, places).view(rows, kinds, heads // kinds, size)
        said = scaled_dot_product_attention(asked, known, kept, attn_mask=mask, scale=scaling)
        told[0].index_copy_(0, places, said.reshape(rows, heads, size))
    return told


def _alone(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    how: tuple[float | None, int, float | None],
) -> torch.Tensor:
    """One request; ``how``: what scores are multiplied with, how far back is looked, and how far they may go."""
    scaling, window, softcap = how
    new, known = query.shape[2], keys.shape[2]
    is_causal = 1 < new == known and not window
    mask = None if new == 1 or (is_causal and not softcap) else _mask(new, known, window, query.device)
    if softcap:
        return _capped(query, keys, values, mask, scaling, softcap)
    grouped = keys.shape[1] != query.shape[1]
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling, is_causal=is_causal, enable_gqa=grouped
    )


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


__all__ = ["NAME", "attend", "plans", "register"]
