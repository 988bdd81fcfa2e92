"""The JSON Schema, and the descriptions that it shares with the manual."""

import json

import msgspec
import pytest

from penstock.config import model
from penstock.config.load import parse
from penstock.config.schema import comments, json_schema, keys, reference
from penstock.errors import ConfigError

STRUCTS = [
    s
    for s in vars(model).values()
    if isinstance(s, type) and issubclass(s, msgspec.Struct) and s.__struct_fields__
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.__name__)
def test_every_section_and_every_key_is_described(struct):
    assert "__doc__" in vars(struct)
    missing = [key for key in struct.__struct_fields__ if not comments(struct).get(key)]
    assert not missing, "say in a comment at the key what it means"


def test_the_public_names_of_the_model_are_its_sections():
    assert set(model.__all__) == set(json_schema()["$defs"])


def test_every_key_of_every_section_is_in_it():
    definitions = json_schema()["$defs"]
    for struct in STRUCTS:
        definition = definitions[struct.__name__]
        assert set(definition["properties"]) == set(struct.__struct_fields__)
        assert definition["additionalProperties"] is False
        assert definition["description"]
        assert all(value.get("description") for value in definition["properties"].values())


def test_it_is_json():
    assert json.loads(json.dumps(json_schema())) == json_schema()


def test_a_number_a_switch_and_a_choice_may_be_references():
    properties = json_schema()["$defs"]["Config"]["properties"]
    assert {"type": "string", "pattern": r"\$\{.+\}"} in properties["workers"]["anyOf"]
    properties = json_schema()["$defs"]["LogConfig"]["properties"]
    assert len(properties["requests"]["anyOf"]) == len(properties["level"]["anyOf"]) == 2


def test_keys_are_listed_in_full():
    assert {
        "listen",
        "upstreams.NAME.pool.max_open",
        "models.NAME.candidates[].weight",
        "keys[].hash",
    } <= set(keys())
    assert len(keys()) == len(set(keys()))


def test_the_reader_knows_every_type_of_the_model():
    """A tag is wrong for a value of any type: each key must be reached, and give just that mistake."""
    for key in keys():
        steps = [part.removesuffix("[]") for part in key.split(".")]
        text = "!wrong x"
        for step, part in zip(reversed(steps), reversed(key.split(".")), strict=True):
            text = f"{{{step}: {f'[{text}]' if part.endswith('[]') else text}}}"
        with pytest.raises(ConfigError) as caught:
            parse(text)
        assert any("tag" in m or "got a single value" in m for m in caught.value.mistakes), key


def test_the_manual_s_tables_name_every_section():
    text = reference()
    for section in (
        "## The top level",
        "## `listener`",
        "## `upstreams.NAME.pool`",
        "## `models.NAME.candidates[]`",
    ):
        assert f"\n{section}\n" in text


def test_what_sections_have_in_common_stands_once_at_the_shortest_path():
    text = reference()
    assert text.count("| `first_token` |") == 1
    section = text.partition("\n## `timeouts`\n")[2].partition("\n## ")[0]
    assert "The same keys have `upstreams.NAME.timeouts`, `models.NAME.timeouts`." in section


def test_a_section_is_one_step_from_the_key_that_has_it():
    assert "| `timeouts` | [section](#timeouts) |" in reference()
    assert "| `candidates` | [list of sections](#modelsnamecandidates) |" in reference()


def test_a_comment_of_several_lines_is_told_whole():
    text = comments(model.LimitsConfig)["redis"]
    assert text.startswith("a server through which gateways")
    assert text.endswith("keep to them together")
