"""What this machine's processor makes of half precision."""

from __future__ import annotations

from pathlib import Path

from penstock.optimize.steps import Form

_PROCESSOR = Path("/proc/cpuinfo")
# As Linux calls what calculates in them.
_WANTED = {Form.FP16: ("avx512_fp16", "amx_fp16"), Form.BF16: ("avx512_bf16", "amx_bf16")}


def gain_of_halves(form: Form) -> str:
    """A word on it, for the notes of a step; ``form``: ``fp16`` or ``bf16``."""
    try:
        flags = _PROCESSOR.read_text(encoding="ascii", errors="replace")
    except OSError:
        flags = ""
    wanted = _WANTED[form]
    if any(flag in flags.split() for flag in wanted):
        return f"half the memory, and this processor calculates in {form} itself"
    return (
        f"half the memory; this processor has no arithmetic in {form} ({', '.join(wanted)}), so expect it to be "
        "slower than fp32 here"
    )
