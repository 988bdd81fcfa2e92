from __future__ import annotations

import json

from penstock.lab.prompts import prompt
from penstock.lab.trace import BLOCK_TOKENS, TraceCall

BLOCK = 4 * BLOCK_TOKENS


def test_a_prompt_has_four_bytes_for_each_token_and_needs_no_escaping():
    for count in (1, 2, 7, 512, 513, 140_000, 300_000):
        for blocks in ((), tuple(range(-(-count // BLOCK_TOKENS)))):
            text = prompt(TraceCall(0, count, 1, blocks), 3)
            assert len(text) == 4 * count
            assert json.dumps(text.decode("ascii")) == f'"{text.decode()}"'


def test_calls_of_a_trace_without_blocks_share_no_prefix():
    texts = [prompt(TraceCall(0, 100, 1), index) for index in range(1_000)]
    assert len({text[:8] for text in texts}) == 1_000


def test_the_same_block_is_the_same_text():
    first = prompt(TraceCall(0, 3 * BLOCK_TOKENS, 1, (0, 7, 9)), 1)
    second = prompt(TraceCall(5, 3 * BLOCK_TOKENS - 100, 1, (0, 7, 12)), 2)
    assert second[: 2 * BLOCK] == first[: 2 * BLOCK]
    assert first[2 * BLOCK :][:50] != second[2 * BLOCK :][:50]


def test_a_salt_changes_every_block():
    call = TraceCall(0, 3 * BLOCK_TOKENS, 1, (0, 7, 9))
    plain, salted = prompt(call, 1), prompt(call, 1, "again")
    for block in range(3):
        assert plain[block * BLOCK :][:BLOCK] != salted[block * BLOCK :][:BLOCK]


def test_fewer_blocks_than_the_length_needs_do_no_harm():
    assert len(prompt(TraceCall(0, 2_000, 1, (4,)), 0)) == 8_000
