"""Schemas that OpenVINO would compile for many seconds are refused before it gets them."""

import json

import pytest

from penstock.engine._schema_work import check_work
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.schema import compiled


def members(*schemas, required=None):
    return {
        "type": "object",
        "properties": {f"p{n}": each for n, each in enumerate(schemas)},
        "required": required or [],
    }


def texts(lengths):
    return [{"type": "string", "maxLength": length} for length in lengths]


def arrays(count, items):
    return [{"type": "array", "items": {"type": "integer"}, "maxItems": items}] * count


def every(schemas):
    return members(*schemas, required=[f"p{n}" for n in range(len(schemas))])


DEAR = {
    "members that may be left out": members(*[{"type": "string"}] * 900),
    "such members in several objects": every([members(*[{"type": "string"}] * 300)] * 3),
    "such members, and a name that is required again and again": members(*[{}] * 900, required=["p0"] * 900),
    "words": {"enum": [f"word {number}" for number in range(10_000)]},
    "a text": {"const": {"a": "a" * 1_000_000}},
    "names": members(*[{}] * 100) | {"properties": {"n" * 10_000 + str(number): {} for number in range(100)}},
    "alternatives of many lengths": {"anyOf": texts(range(100, 200))},
    "such alternatives in a definition": {
        "$defs": {"a": every(texts(range(100, 200)))},
        "anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}],
    },
}
CHEAP = {
    "one length": every(texts([10_000] * 1_500)),
    "many lengths": every(texts(range(100, 200))),
    "usual lengths": every(texts([50, 100, 255, 1_000, 2_000] * 20)),
    "lengths in alternatives": {"anyOf": texts(range(300, 310))},
    "names like keywords": {"type": "object", "properties": {"maxLength": {}, "enum": {}, "items": {}}},
    "members that must be there": every([{"type": "string"}] * 1_500),
    "some that may be left out": members(*[{"type": "string"}] * 500),
    "arrays": every(arrays(100, 1_000)),
    "words": {"enum": [f"word {number}" for number in range(1_000)]},
    "anything": True,
}


@pytest.mark.parametrize("schema", DEAR.values(), ids=DEAR)
def test_what_takes_long_is_refused(schema):
    with pytest.raises(CannotTake, match=r"cannot be used: (compiling it|with anyOf)"):
        check_work(compiled(schema))


@pytest.mark.parametrize("schema", CHEAP.values(), ids=CHEAP)
def test_what_does_not_is_taken(schema):
    check_work(compiled(schema))


def test_openvino_is_not_given_one_that_takes_long(monkeypatch):
    rules = pytest.importorskip("penstock.engine._openvino_rules", reason="OpenVINO GenAI is not installed")
    monkeypatch.setattr(rules, "_silent_pipeline", lambda *_: pytest.fail("it was given"))
    compiler = rules.RuleCompiler(None, 4_096)
    with pytest.raises(CannotTake):
        compiler.compile(Sampling(max_tokens=1, schema=json.dumps(DEAR["words"])))
