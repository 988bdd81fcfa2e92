import random

from penstock.cache.successors import MAX_CALLERS, MAX_FOLLOWERS, Successors


def key(name):
    return str(name).encode()


def taught(*sequences, times=5):
    successors = Successors(1_000)
    for number in range(times):
        for position, sequence in enumerate(sequences):
            for name in sequence:
                successors.saw(f"caller {number} {position}", key(name))
    return successors


def test_what_always_follows_is_likely():
    likely = taught("ab").likely(key("a"), 0.5, 2)
    assert likely == [(b"b", 1.0)]


def test_what_follows_half_of_the_time_is_half_as_likely():
    successors = taught("ab", "ac")
    assert dict(successors.likely(key("a"), 0.3, 2)) == {b"b": 0.5, b"c": 0.5}
    assert successors.likely(key("a"), 0.6, 2) == []


def test_once_is_no_habit():
    assert taught("ab", times=1).likely(key("a"), 0.0, 2) == []


def test_callers_in_turns_are_kept_apart():
    successors = Successors(100)
    rand = random.Random(1)
    for _ in range(20):
        steps = [("x", list("abc")), ("y", list("123"))]
        while any(left for _, left in steps):
            caller, left = rand.choice([one for one in steps if one[1]])
            successors.saw(caller + str(len(left)), key("noise"))
            successors.saw(caller, key(left.pop(0)))
    assert {name for name, _ in successors.likely(key("a"), 0.9, 2)} <= {b"b", b"c"}
    assert successors.likely(key("a"), 0.9, 2)


def test_a_question_does_not_follow_itself():
    assert taught("aaa").likely(key("a"), 0.0, 1) == []


def test_habits_fade():
    successors = taught("ab", times=50)
    for number in range(300):
        successors.saw(f"new {number}", key("a"))
        successors.saw(f"new {number}", key("c"))
    assert [name for name, _ in successors.likely(key("a"), 0.5, 2)] == [b"c"]


def test_everything_is_bounded():
    successors = Successors(50)
    for number in range(3 * MAX_CALLERS):
        successors.saw(f"caller {number}", key("a"))
        successors.saw(f"caller {number}", key(number))
    assert len(successors._questions) <= 50
    assert len(successors._recent) <= MAX_CALLERS
    assert len(successors._questions[b"a"].followers) <= MAX_FOLLOWERS
