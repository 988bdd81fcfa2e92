"""What an answer must keep to, in the words of those who are asked for it: one rule, whatever it is called.

OpenAI says ``response_format``, vLLM ``structured_outputs`` and, before that, ``guided_json`` and its like, SGLang and
llama.cpp ``json_schema`` and ``regex``; a grammar is ``grammar`` to all but SGLang, which says ``ebnf``.  Which of the two
ways to write one it has (``gbnf``, ``lark``) is seen from how it begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from penstock.engine import gbnf, lark, regex
from penstock.engine.productions import Grammar, GrammarError, of_pattern
from penstock.engine.schema import compiled
from penstock.errors import BadRequest
from penstock.messages import JSON
from penstock.wire.not_json import NOT_JSON

_ANY_JSON = '{"type":"object"}'


class _JSONSchema(msgspec.Struct):
    schema: dict[str, JSON] = {}
    name: str = ""
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JSONSchema | None = None
    grammar: str | None = None


class _StructuredOutputs(msgspec.Struct):
    """Members that are not known say how, and not what."""

    json: dict[str, JSON] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    json_object: bool | None = None
    grammar: str | None = None
    structural_tag: JSON = None


class RuledBody(msgspec.Struct, kw_only=True):
    """The members of a request that rule its answer's form."""

    response_format: _ResponseFormat | None = None
    structured_outputs: _StructuredOutputs | None = None
    guided_json: dict[str, JSON] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    json_schema: dict[str, JSON] | str | None = None
    regex: str | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    ebnf: str | None = None
    structural_tag: JSON = None


class Ruling(msgspec.Struct, frozen=True):
    """The one rule of a request, as a backend gets it; one of the two at most is there.

    ``param``: the member that says it; empty: there is none.
    """

    param: str = ""
    schema: str = ""
    grammar: Grammar | None = None


def ruling(body: RuledBody) -> Ruling:
    """What the answer must keep to.

    :raises BadRequest: that cannot be ruled, or there are several
    """
    wanted = body.structured_outputs or _StructuredOutputs()
    if body.structural_tag is not None or wanted.structural_tag is not None:
        raise BadRequest(
            "structural_tag is not supported by local models: say it with a grammar",
            param="structural_tag",
            code="unsupported_parameter",
        )
    said: tuple[tuple[str, Any, Callable[[Any, str], Ruling]], ...] = (
        ("response_format", body.response_format, _of_format),
        ("structured_outputs", wanted.json_object or None, _of_json),
        ("structured_outputs", wanted.json, _of_schema),
        ("structured_outputs", wanted.regex, _of_regex),
        ("structured_outputs", wanted.choice, _of_choice),
        ("structured_outputs", wanted.grammar, _of_grammar),
        ("guided_json", body.guided_json, _of_schema),
        ("guided_regex", body.guided_regex, _of_regex),
        ("guided_choice", body.guided_choice, _of_choice),
        ("json_schema", body.json_schema, _of_schema),
        ("regex", body.regex, _of_regex),
        ("guided_grammar", body.guided_grammar, _of_grammar),
        ("grammar", body.grammar or None, _of_grammar),  # llama.cpp's own clients say "" for none
        ("ebnf", body.ebnf, _of_grammar),
    )
    rules = [make(value, param) for param, value, make in said if value is not None]
    rules = [rule for rule in rules if rule.param]
    if len(rules) > 1:
        names = " and ".join(rule.param for rule in rules)
        raise BadRequest(
            f"an answer keeps to one rule, and there are several: {names}", param=rules[-1].param
        )
    return rules[0] if rules else Ruling()


def _of_format(wanted: _ResponseFormat, param: str) -> Ruling:
    if wanted.type == "text":
        return Ruling()
    if wanted.type == "json_object":
        return Ruling(param, schema=_ANY_JSON)
    if wanted.type == "grammar" and wanted.grammar is not None:
        return _of_grammar(wanted.grammar, param)
    if wanted.type != "json_schema" or wanted.json_schema is None:
        raise BadRequest(
            f"{param} must be text, json_object, json_schema with a schema, or grammar with one", param=param
        )
    return Ruling(param, schema=compiled(wanted.json_schema.schema, param))


def _of_json(_: bool, param: str) -> Ruling:
    return Ruling(param, schema=_ANY_JSON)


def _of_schema(schema: JSON, param: str) -> Ruling:
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except NOT_JSON as error:
            raise BadRequest(f"{param}: the schema is no JSON: {error}", param=param) from None
    return Ruling(param, schema=compiled(schema, param))


def _of_regex(expression: str, param: str) -> Ruling:
    return Ruling(param, grammar=of_pattern(regex.read(expression, param)))


def _of_choice(texts: list[str], param: str) -> Ruling:
    return Ruling(param, grammar=of_pattern(regex.any_of(texts, param)))


def _of_grammar(text: str, param: str) -> Ruling:
    try:
        return Ruling(param, grammar=(lark if lark.comes_in(text) else gbnf).read(text))
    except GrammarError as error:
        raise BadRequest(f"{param}: the grammar cannot be used: {error}", param=param) from None


__all__ = ["RuledBody", "Ruling", "ruling"]
