import random

import pytest

from penstock.cache.semantic.confidence import MAX_OBSERVATIONS, Confidence, Pooled, adjusted


def test_nothing_is_sure_of_what_was_never_seen():
    assert Confidence().error(0.99, Pooled()) > 0.05


def test_each_right_answer_makes_it_surer_and_each_wrong_one_less():
    confidence, pooled = Confidence(), Pooled()
    errors = [confidence.error(0.9, pooled)]
    for _ in range(20):
        confidence.observe(0.9, right=True)
        errors.append(confidence.error(0.9, pooled))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05
    confidence.observe(0.9, right=False)
    assert confidence.error(0.9, pooled) > errors[-1] * 2


def test_what_is_more_similar_is_surer():
    confidence, pooled = Confidence(), Pooled()
    for similarity, right in ((0.95, True), (0.9, True), (0.8, False)) * 5:
        confidence.observe(similarity, right=right)
    errors = [confidence.error(similarity, pooled) for similarity in (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)]
    assert errors == sorted(errors, reverse=True)


def test_entries_learn_from_each_other_and_a_bad_one_is_found_out():
    pooled = Pooled()
    for _ in range(400):
        pooled.observe(0.9, right=True)
    assert Confidence().error(0.9, pooled) < 0.01
    bad = Confidence()
    bad.observe(0.9, right=False)
    assert bad.error(0.9, pooled) > 0.01


def test_it_forgets_what_was_long_ago():
    confidence, pooled = Confidence(), Pooled()
    confidence.observe(0.9, right=False)
    for _ in range(MAX_OBSERVATIONS):
        confidence.observe(0.9, right=True)
    clean = Confidence()
    for _ in range(MAX_OBSERVATIONS):
        clean.observe(0.9, right=True)
    assert confidence.error(0.9, pooled) == clean.error(0.9, pooled)


@pytest.mark.parametrize("delta", [0.01, 0.05])
def test_of_what_is_let_through_no_more_is_wrong_than_the_bound(delta):
    """Against a world that is as the model has it; the bound holds over many worlds, not in each."""
    rand = random.Random(7)
    given = wrong = 0
    for _ in range(6):
        threshold, pooled, confidence = rand.uniform(0.7, 0.95), Pooled(), Confidence()
        for _ in range(300):
            similarity = rand.uniform(0.7, 1.0)
            right = rand.random() < 1 / (1 + 2.718281828 ** (-60 * (similarity - threshold)))
            if confidence.error(similarity, pooled) <= delta:
                given += 1
                wrong += not right
            else:
                confidence.observe(similarity, right=right)
                pooled.observe(similarity, right=right)
    assert given > 100
    assert wrong / given <= delta


@pytest.mark.parametrize(
    ("verified", "wrong", "bound"),
    [(0, 0, 0.01), (100, 0, 0.01), (100, 1, 0.01), (100, 2, 0.005), (100, 10, 0.001)],
)
def test_the_bound_becomes_stricter_where_more_was_wrong_than_it_allows(verified, wrong, bound):
    assert adjusted(0.01, verified, wrong) == pytest.approx(bound)
