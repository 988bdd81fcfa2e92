"""A step that halves the precision says what the processor makes of it."""

from __future__ import annotations

import pytest

from penstock.optimize import halves
from penstock.optimize.halves import gain_of_halves
from penstock.optimize.steps import Form

ITSELF = {
    Form.FP16: "half the memory, and this processor calculates in fp16 itself",
    Form.BF16: "half the memory, and this processor calculates in bf16 itself",
}
SLOWER = {
    Form.FP16: "half the memory; this processor has no arithmetic in fp16 (avx512_fp16, amx_fp16), so expect it to be "
    "slower than fp32 here",
    Form.BF16: "half the memory; this processor has no arithmetic in bf16 (avx512_bf16, amx_bf16), so expect it to be "
    "slower than fp32 here",
}


@pytest.fixture
def processor(tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "_PROCESSOR", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "itself"),
    [
        ("fpu avx512f avx512_bf16 avx512_vnni", {Form.BF16}),
        ("fpu amx_bf16 amx_tile", {Form.BF16}),
        ("fpu avx512_fp16", {Form.FP16}),
        ("fpu avx512_bf16 amx_fp16", {Form.FP16, Form.BF16}),
        ("fpu avx512f avx512_bf16x f16c", set()),
    ],
)
def test_what_it_has_arithmetic_for_is_told_and_what_it_has_not(processor, flags, itself):
    processor.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    for form in (Form.FP16, Form.BF16):
        assert gain_of_halves(form) == (ITSELF if form in itself else SLOWER)[form]


def test_where_nobody_knows_it_promises_nothing(processor):
    assert not processor.exists()
    assert gain_of_halves(Form.BF16) == SLOWER[Form.BF16]
