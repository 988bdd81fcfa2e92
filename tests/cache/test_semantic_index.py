import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.cache.semantic.differences import read
from penstock.cache.semantic.index import Index

READING = read("What is this?")


def vector(number):
    rand = np.random.default_rng(number)
    drawn = rand.normal(size=8).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def key(number):
    return number.to_bytes(32, "big")


def test_the_nearest_come_first_and_only_from_their_partition():
    index = Index(100)
    for number in range(20):
        index.add(key(number), b"a" if number % 2 else b"b", READING, vector(number))
    found = index.nearest(b"a", vector(7), 3)
    assert found[0][1].key == key(7)
    assert abs(found[0][0] - 1) < 1e-6
    assert [similarity for similarity, _ in found] == sorted((s for s, _ in found), reverse=True)
    assert all(int.from_bytes(known.key, "big") % 2 for _, known in found)
    assert index.nearest(b"c", vector(7), 3) == []


def test_what_was_not_used_for_longest_makes_room():
    index = Index(3)
    for number in range(3):
        index.add(key(number), b"p", READING, vector(number))
    index.used(index.nearest(b"p", vector(0), 1)[0][1])
    index.add(key(3), b"p", READING, vector(3))
    assert {known.key for _, known in index.nearest(b"p", vector(0), 9)} == {key(0), key(2), key(3)}


def test_a_question_that_is_known_keeps_what_was_learned():
    index = Index(3)
    index.add(key(1), b"p", READING, vector(1))
    ((_, known),) = index.nearest(b"p", vector(1), 1)
    known.confidence.observe(0.9, right=True)
    index.add(key(1), b"p", READING, vector(1))
    assert index.nearest(b"p", vector(1), 1)[0][1] is known
    assert len(index) == 1


@given(st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 9)), max_size=60))
def test_it_agrees_with_a_search_of_everything(steps):
    index, model = Index(5), {}
    for step, number in steps:
        partition = b"p%d" % (number % 2)
        if step == "add":
            model.pop(number, None)
            model[number] = partition
            while len(model) > 5:
                del model[next(iter(model))]
            index.add(key(number), partition, READING, vector(number))
        else:
            for similarity, known in index.nearest(partition, vector(number), 1):
                if similarity > 0.999:
                    index.remove(known)
                    model.pop(number)
        assert len(index) == len(model)
        for room in (b"p0", b"p1"):
            probe = vector(100)
            best = sorted((n for n in model if model[n] == room), key=lambda n: -float(vector(n) @ probe))
            assert [known.key for _, known in index.nearest(room, probe, 9)] == [key(n) for n in best]
