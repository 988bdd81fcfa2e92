"""What lies beside a question."""

import json
import sys
import types

import pytest

from penstock.cache import neighbours as module
from penstock.cache.neighbours import Neighbours, functions
from penstock.errors import ConfigError


def body(text, **more):
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **more}).encode()


def last(*texts, caller="a", near=None):
    """What is foreseen after the last of these."""
    near = near or Neighbours()
    found = [near.of(caller, body(text), ["numbers"]) for text in texts]
    return [json.loads(each)["messages"][0]["content"] for each in found[-1]]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["page 1", "page 2", "page 3"], ["page 4"]),
        (["page 9", "page 8", "page 7"], ["page 6"]),
        (["page 10 of 40", "page 15 of 40", "page 20 of 40"], ["page 25 of 40"]),
        (["§ 007", "§ 008", "§ 009"], ["§ 010"]),
        (["page 8", "page 9", "page 10"], ["page 11"]),
        (["page 1", "page 2", "page 2", "page 3"], ["page 4"]),
        (["page 1", "page 2"], []),
        (["page 1", "page 2", "page 4"], []),
        (["page 2", "page 1", "page 0"], []),
        (["page 1", "leaf 2", "page 3"], []),
        (["1 of 1", "2 of 2", "3 of 3"], []),
        (["1 of 5", "1 of 6", "2 of 6"], []),
        (["page", "page", "page"], []),
        ([f"page {10**12 + number}" for number in range(3)], []),
    ],
)
def test_who_goes_in_steps_is_foreseen_to_go_on(texts, expected):
    assert last(*texts) == expected


def test_other_questions_in_between_and_other_callers_do_not_matter():
    near = Neighbours()
    for number in (1, 2):
        near.of("a", body(f"page {number}"), ["numbers"])
        near.of("a", body(f"what is in chapter {7 * number * number}?"), ["numbers"])
        near.of("b", body(f"page {90 + 5 * number}"), ["numbers"])
    assert last("page 3", near=near) == ["page 4"]
    assert last("page 3", caller="c", near=near) == []


def test_the_digits_of_an_escape_are_no_number():
    near = Neighbours()
    for digit in (4, 5, 6):
        found = near.of("a", rb'{"model":"m","prompt":"\u00e%d"}' % digit, ["numbers"])
    assert found == []


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_FORMS", 3)
    near = Neighbours()
    for number in (1, 2):
        near.of("a", body(f"page {number}"), ["numbers"])
    for word in ("x", "y", "z"):
        near.of("a", body(word), ["numbers"])
    assert len(near._forms) == 3
    assert last("page 3", near=near) == []
    assert near.of("a", body("1" * module.MAX_BODY), ["numbers"]) == []
    assert len(near._forms) == 3


@pytest.fixture
def own(monkeypatch):
    made = types.ModuleType("own_neighbours")
    monkeypatch.setitem(sys.modules, "own_neighbours", made)
    made.sections = lambda asked: ({**asked, "seed": number} for number in range(20))
    made.broken = lambda asked: 1 // 0
    made.number = 7
    return made


def test_an_own_function_names_neighbours_but_not_too_many(own):
    near = Neighbours()
    near.use(functions(["numbers", "own_neighbours:sections"]))
    found = near.of("a", body("x"), ["own_neighbours:sections"])
    assert [json.loads(each)["seed"] for each in found] == list(range(module.MOST))


@pytest.mark.parametrize(
    "style",
    [
        {},
        {"ensure_ascii": False},
        {"separators": (",", ":")},
        {"separators": (",", ":"), "ensure_ascii": False},
    ],
)
def test_neighbours_are_spelt_as_the_question_is(own, style):
    asked = {"model": "m", "messages": [{"role": "user", "content": "à"}], "seed": 0}
    near = Neighbours()
    near.use(functions(["own_neighbours:sections"]))
    found = near.of("a", json.dumps(asked, **style).encode(), ["own_neighbours:sections"])
    assert found[1] == json.dumps({**asked, "seed": 1}, **style).encode()


def test_one_that_fails_is_told_once_and_names_nobody(own, caplog):
    near = Neighbours()
    near.use(functions(["own_neighbours:broken"]))
    assert [near.of("a", body("x"), ["own_neighbours:broken", "numbers"]) for _ in range(3)] == [[]] * 3
    assert [record.message for record in caplog.records] == [
        "the neighbours of a question: own_neighbours:broken failed (ZeroDivisionError)"
    ]


@pytest.mark.parametrize("name", ["own_neighbours:nobody", "no_such_module:f", "own_neighbours:number"])
def test_what_is_no_function_is_a_mistake_of_the_configuration(own, name):
    with pytest.raises(ConfigError, match=name):
        functions([name])


def test_one_that_is_not_in_use_any_more_names_nobody(own):
    near = Neighbours()
    near.use(functions(["own_neighbours:sections"]))
    near.use({})
    assert near.of("a", body("x"), ["own_neighbours:sections"]) == []
