"""Which token comes next."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from penstock.engine import _drawing as drawing
from penstock.engine.backend import Sampling

SHARES = [0.5, 0.25, 0.125, 0.0625, 0.0625]
LOGITS = np.log(np.array(SHARES, np.float32))[[3, 1, 0, 2, 4]]  # the likeliest is token 2
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
    _, logprobs = drawing.draw_all(np.stack([LOGITS, LOGITS]), [one, other])
    assert logprobs[0].value == pytest.approx(np.log(0.5))
    assert logprobs[1] is None


def test_the_likeliest_are_told_beside_what_was_chosen():
    asked = Sampling(max_tokens=2, temperature=0.0, logprobs=True, top_logprobs=2, logit_bias=((0, 50.0),))
    one = drawing.Drawing([0], asked, frozenset())
    (token,), (told,) = drawing.draw_all(LOGITS[None], [one])
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum()
    order = np.argsort(-shares)[:2]
    assert token == 0
    assert told.value == pytest.approx(np.log(shares[0]))
    assert [id_ for id_, _ in told.top] == order.tolist()
    assert [value for _, value in told.top] == pytest.approx(np.log(shares[order]))


def test_more_of_the_likeliest_than_there_are_tokens():
    told = drawing.logprob_of(LOGITS, 0, 100)
    assert sorted(id_ for id_, _ in told.top) == list(range(len(LOGITS)))


def test_a_bias_moves_the_choice_and_leaves_the_logits():
    before = LOGITS.copy()
    assert said(3, Sampling(max_tokens=3, temperature=0.0, logit_bias=((0, 50.0),)))[0] == [0, 0, 0]
    banned = Sampling(max_tokens=3, temperature=1.0, seed=1, logit_bias=((2, -100.0), (1, -100.0)))
    assert not {1, 2} & set(said(3, banned)[0])
    assert (before == LOGITS).all()


class Of:
    """A rule that leaves some tokens, and is complete with as many."""

    def __init__(self, allowed, length):
        self.allowed_ids, self.left = allowed, length

    def allowed(self, vocabulary):
        return np.isin(np.arange(vocabulary), self.allowed_ids)

    def take(self, token):
        self.left -= 1
        return not self.left


@pytest.mark.parametrize("asked", [{"temperature": 0.0}, {"temperature": 2.0, "seed": 3}], ids=str)
def test_a_rule_leaves_out_what_it_does_not_allow(asked):
    one = drawing.Drawing([0], Sampling(max_tokens=50, **asked), frozenset(), Of([0, 4], 30))
    ids = [drawing.draw_all(LOGITS[None], [one])[0][0] for _ in range(30)]
    assert set(ids) == ({0} if asked["temperature"] == 0.0 else {0, 4})
    assert one.finish == "stop"


@pytest.mark.parametrize("limit", [3, 9])
def test_a_rule_that_fails_cuts_the_answer(limit):
    """It is not told as if it were complete."""
    rule = Of([0, 4], 30)
    one = drawing.Drawing([0], Sampling(max_tokens=limit, temperature=0.0), frozenset({2}), rule)
    drawing.draw_all(LOGITS[None], [one])
    drawing.draw_all(LOGITS[None], [one])
    rule.allowed_ids = []
    one.ends = frozenset()
    drawing.draw_all(LOGITS[None], [one])
    assert (one.count, one.finish) == (3, "length")
    assert one.ended_by_rule == (limit > 3)


def test_logits_stay_as_they_are():
    before = LOGITS.copy()
    asked = {"min_tokens": 3, "repetition_penalty": 2.0, "presence_penalty": 1.0, "temperature": 1.0}
    one = drawing.Drawing([0], Sampling(max_tokens=9, **asked), frozenset({2}), Of([0, 1, 4], 9))
    for _ in range(4):
        drawing.draw_all(LOGITS[None], [one])
    assert (before == LOGITS).all()
