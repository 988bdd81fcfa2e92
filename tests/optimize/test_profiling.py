"""What a profile says, and what to change first."""

from __future__ import annotations

import msgspec
import pytest

from penstock.optimize.profiling import Profile, Row, Share, advise


def shares(**of):
    rest = 1 - sum(of.values())
    return [*(Share(name, share) for name, share in of.items()), Share("rest of operations", rest)]


def first(of, **how):
    return advise(of, **{"stored": "torch.float32", "batch": 16, **how})[0]


def test_where_the_interpreter_takes_most_a_graph_comes_first():
    assert "export" in first(shares(python=0.7, matrices=0.2, head=0.05)).what


def test_where_weights_take_most_fewer_bits_come_first():
    assert "quantize" in first(shares(matrices=0.6, head=0.35)).what


def test_one_sequence_alone_is_told_to_share_the_weights():
    assert "several calls" in first(shares(matrices=0.9), batch=1).what


def test_what_has_few_bits_already_is_not_told_to_have_fewer():
    every = advise(shares(matrices=0.9), stored="torch.int8", batch=16)
    assert len(every) == 3
    assert not any("quantize" in each.what for each in every)


def test_what_is_exported_is_not_told_to_be_exported():
    of = [Share("matrices", 0.6), Share("between operations", 0.3), Share("head", 0.1)]
    for batch, stored in ((1, "float"), (16, "int")):
        every = advise(of, stored=stored, batch=batch, exported=True)
        assert len(every) == 3
        assert not any("export" in each.what or "sdpa" in each.what for each in every)
        assert any("quantize" in each.what for each in every) == (batch == 1)
        assert any("several calls" in each.what for each in every) == (batch == 1)


def test_gains_follow_amdahls_law():
    (best, *rest) = advise([Share("matrices", 0.5), Share("head", 0.5)], stored="torch.float32", batch=16)
    assert best.gain == pytest.approx(1 / 0.45)
    assert all(best.gain >= each.gain >= 1 for each in rest)


def test_it_is_told_as_a_page():
    of = shares(matrices=0.6)
    found = Profile(
        "tiny",
        1,
        128,
        8,
        50.0,
        (Row("aten::mm", 12, 25.0),),
        tuple(of),
        tuple(advise(of, stored="", batch=1)),
    )
    text = found.markdown()
    assert "| `aten::mm` | 12 | 25.0 | 50.0 % |" in text
    assert "## By layer" not in text
    layers = (Row("layer 0", 3, 10.0),)
    told = msgspec.structs.replace(found, runtime="onnx", layers=layers).markdown()
    assert told.startswith("# tiny (onnx): where the time goes")
    assert "## By layer" in told
    assert "| `layer 0` | 3 | 10.0 | 20.0 % |" in told
    assert "\n3. " in text
    assert "| matrices | 60.0 % |" in text
