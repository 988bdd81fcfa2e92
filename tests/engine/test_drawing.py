"""Which token comes next; `make optimize-tests` runs these."""

from __future__ import annotations

from collections import Counter

import pytest

from penstock.engine.backend import Sampling

drawing = pytest.importorskip("penstock.engine._drawing", reason="PyTorch is not installed")

import torch  # noqa: E402 - it is there now

SHARES = [0.5, 0.25, 0.125, 0.0625, 0.0625]
LOGITS = torch.tensor(SHARES).log()[[3, 1, 0, 2, 4]]  # the likeliest is token 2
OF_TOKEN = [SHARES[place] for place in (3, 1, 0, 2, 4)]


def draws(count=4_000, **asked):
    """How often each token is the first one, over so many seeds."""
    found = Counter()
    for seed in range(count):
        sampling = Sampling(max_tokens=9, seed=seed, **asked)
        found[drawing.Drawing([0], sampling, frozenset()).draw(LOGITS)] += 1
    return found


def said(count, sampling, ends=frozenset(), prompt=(0,)):
    one = drawing.Drawing(list(prompt), sampling, ends)
    ids = []
    while len(ids) < count and not one.finish:
        ((token,), _) = drawing.draw_all(LOGITS[None], [one])
        ids.append(token)
    return ids, one.finish


@pytest.mark.parametrize("asked", [{}, {"top_p": 0.999}, {"top_k": 5}], ids=str)
def test_tokens_come_as_often_as_they_are_likely(asked):
    found = draws(temperature=1.0, **asked)
    for token, share in enumerate(OF_TOKEN):
        assert found[token] / 4_000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"top_k": 2}, {2, 1}),
        ({"top_k": 1}, {2}),
        ({"top_p": 0.6}, {2, 1}),
        ({"top_p": 0.01}, {2}),
        ({"min_p": 0.2}, {2, 1, 3}),
        ({"top_k": 4, "top_p": 0.9}, {2, 1, 3}),
        ({"temperature": 0.05}, {2}),
    ],
    ids=str,
)
def test_unlikely_tokens_are_left_out(asked, left):
    assert set(draws(400, **{"temperature": 1.0, **asked})) == left


def test_without_a_seed_two_calls_say_other_things():
    sampling = Sampling(max_tokens=40, temperature=1.0)
    assert said(40, sampling)[0] != said(40, sampling)[0]


def test_a_seed_beyond_what_a_machine_word_holds():
    for seed in (-1, 2**63 - 1, -(2**63)):
        sampling = Sampling(max_tokens=9, temperature=1.0, seed=seed)
        assert said(9, sampling) == said(9, sampling)


def test_what_was_said_often_comes_less_often():
    ids, _ = said(3, Sampling(max_tokens=3, temperature=0.0, presence_penalty=2.0))
    assert ids == [2, 1, 3]
    ids, _ = said(4, Sampling(max_tokens=4, temperature=0.0, frequency_penalty=0.4))
    assert ids == [2, 2, 1, 2]


def test_a_repetition_penalty_counts_the_prompt_as_well():
    assert said(1, Sampling(max_tokens=1, temperature=0.0, repetition_penalty=3.0), prompt=[2])[0] == [1]


def test_an_answer_does_not_end_before_its_least_length():
    sampling = Sampling(max_tokens=9, temperature=0.0, min_tokens=2)
    assert said(9, sampling, frozenset({2})) == ([1, 1, 2], "stop")


def test_the_end_may_be_ignored():
    sampling = Sampling(max_tokens=3, temperature=0.0, ignore_eos=True)
    assert said(9, sampling, frozenset({2})) == ([2, 2, 2], "length")


def test_log_probabilities_are_of_the_model_and_not_of_the_drawing():
    asked = Sampling(max_tokens=2, temperature=0.1, top_k=1, logprobs=True)
    one, other = (drawing.Drawing([0], each, frozenset()) for each in (asked, Sampling(max_tokens=2)))
    _, logprobs = drawing.draw_all(torch.stack([LOGITS, LOGITS]), [one, other])
    assert logprobs[0] == pytest.approx(torch.tensor(0.5).log().item())
    assert logprobs[1] is None
