"""YAML by hand reads back as it was meant, also by readers that guess types."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.references import expand
from penstock.config.writing import escaped, flow_list, scalar

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
tricky = st.sampled_from(
    [
        "no",
        "1",
        "1.0",
        "~",
        "",
        "null",
        "a: b",
        "a #b",
        "- a",
        "${X}",
        "*",
        "&a",
        "{a}",
        "a\nb",
        "<<",
        "\ufeff",
    ]
)


@given(text | tricky)
def test_a_scalar_is_the_text(value):
    assert yaml.safe_load(f"key: {scalar(value)}") == {"key": value}


@given(st.lists(text | tricky, max_size=4))
def test_a_list_holds_the_texts(values):
    assert yaml.safe_load(f"key: {flow_list(values)}") == {"key": values}


def test_plain_words_stay_plain():
    assert scalar("https://api.example.com/v1") == "https://api.example.com/v1"
    assert scalar("${OPENAI_API_KEY}") == "${OPENAI_API_KEY}"
    assert flow_list(["gpt-4o", "gpt-*", "${X}"]) == '[gpt-4o, "gpt-*", "${X}"]'


@given(text)
def test_what_is_escaped_is_no_reference(value):
    assert expand(escaped(value), {}) == (value, [])
    assert expand(escaped("${" + value), {}) == ("${" + value, [])
