"""Who is computed with whom in a step; `make optimize-tests` runs these.

That the result is right is shown with whole models, in ``test_transformers``.
"""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from types import SimpleNamespace  # noqa: E402

from penstock.engine._attention import Room, attend, plans  # noqa: E402

NOTHING = 5_000
HEADS, KINDS, SIZE = 4, 2, 8


def given(*lengths, windows=(1,)):
    """What the library gives for requests of ``(new, known)`` tokens, whose keys are kept at 7, 8, 9 … of a cache."""
    new, known = zip(*lengths, strict=True)
    read = torch.arange(7, 7 + sum(known))
    ends = [end - 1 for end in itertools.accumulate(known)]
    written = [list(range(end + 1 - count, end + 1)) for count, end in zip(new, ends, strict=True)]
    cache = SimpleNamespace(
        num_groups=len(windows),
        layer_index_to_group_indices={layer: (layer, 0) for layer in range(len(windows))},
        sliding_windows=dict(enumerate(windows)),
        read_trash_index=NOTHING,
    )
    return {
        "cache": cache,
        "cu_seq_lens_q": torch.tensor([0, *itertools.accumulate(new)]),
        "cu_seq_lens_k": {"full_attention": torch.tensor([0, *itertools.accumulate(known)])},
        "read_index": [read for _ in windows],
        "write_index": [read[torch.tensor(list(itertools.chain(*written)))] for _ in windows],
    }


def test_those_with_about_as_many_keys_are_computed_together():
    (plan,) = plans(given((1, 40), (1, 500), (30, 30), (1, 60), (1, 520)))
    assert [batch.places.tolist() for batch in plan.batches] == [[0, 32], [1, 33]]
    assert [(span.begin, span.end) for span in plan.alone] == [(2, 32)]
    assert plan.read.tolist() == list(range(7 + 540, 7 + 570))


def test_what_a_row_lacks_is_zeros_that_nobody_looks_at():
    (plan,) = plans(given((1, 2), (1, 4)))
    (batch,) = plan.batches
    assert batch.read.view(2, 4).tolist() == [[7, 8, NOTHING, NOTHING], [9, 10, 11, 12]]
    assert batch.mask[:, 0, 0].tolist() == [[0, 0, float("-inf"), float("-inf")], [0, 0, 0, 0]]


def test_no_more_is_read_at_once_than_pays():
    (plan,) = plans(given(*[(1, 3_000)] * 5))
    assert [len(batch.places) for batch in plan.batches] == [2, 2]
    assert [(span.begin, span.end) for span in plan.alone] == [(4, 5)]


def test_what_is_read_lies_where_the_last_was_as_long_as_it_has_room():
    keys, values = torch.randn(2, 100, KINDS, SIZE)
    room = Room()
    first, _ = room.read(keys, values, torch.arange(40))
    where = first.data_ptr()
    for places in (torch.arange(30, 70), torch.tensor([5, 3])):
        known, kept = room.read(keys, values, places)
        assert known.data_ptr() == where
        assert torch.equal(known, keys[places])
        assert torch.equal(kept, values[places])
    known, kept = room.read(keys, values, torch.arange(100))
    assert torch.equal(known, keys)
    assert torch.equal(kept, values)


@pytest.mark.parametrize("lengths", [[(1, 40)], [(1, 40), (1, 900)], [(5, 5), (9, 20)]])
def test_who_has_no_company_is_computed_alone(lengths):
    assert plans(given(*lengths)) == [None]


def test_layers_whose_window_slides_have_no_plan():
    everything, sliding = plans(given((1, 40), (1, 41), windows=(1, 16)))
    assert len(everything.batches) == 1
    assert sliding is None


def test_nothing_is_planned_where_nothing_is_read():
    told = given((4, 4), (5, 5))
    told["read_index"] = [told["read_index"][0][:0]]
    assert plans(told) == [None]


def test_a_planned_step_says_what_each_says_alone():
    torch.manual_seed(3)
    lengths = [(1, 40), (1, 500), (30, 30), (1, 60), (6, 19), (1, 520)]
    told = given(*lengths)
    new, read = sum(count for count, _ in lengths), told["read_index"][0]
    keys, values = torch.randn(2, NOTHING + 1, KINDS, SIZE)
    keys[NOTHING], values[NOTHING] = 0.0, 0.0
    told["cache"].key_cache, told["cache"].value_cache = [keys], [values]
    query = torch.randn(1, HEADS, new, SIZE)
    own = (torch.randn(1, KINDS, new, SIZE), torch.randn(1, KINDS, new, SIZE))
    with torch.inference_mode():
        said, _ = attend(
            SimpleNamespace(layer_idx=0), query, *own, None, **told, plans=plans(told), room=Room()
        )

        def update(**_):
            return keys[read], values[read]  # they were written just now

        told["cache"].update = update
        alone, _ = attend(SimpleNamespace(layer_idx=0), query, *own, None, **told)
    assert said.shape == alone.shape
    assert torch.allclose(said, alone, atol=1e-6)
