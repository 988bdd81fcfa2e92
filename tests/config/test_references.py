"""References to the environment and to files."""

from pathlib import Path

import pytest

from penstock.config.load import referenced_files
from penstock.config.references import MAX_FILE_BYTES, expand, variables

ENVIRON = {"NAME": "value", "EMPTY": "", "NESTED": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("${NAME}", "value"),
        ("a-${NAME}-${NAME}", "a-value-value"),
        ("${EMPTY}", ""),
        ("${EMPTY:-else}", "else"),
        ("${UNSET:-else}", "else"),
        ("${UNSET:-}", ""),
        ("${NAME:-else}", "value"),
        ("${UNSET:-http://h:1/v1}", "http://h:1/v1"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("$NAME $ {NAME} 5$", "$NAME $ {NAME} 5$"),
        ("${NESTED}", "${NAME}"),  # what a variable holds is not expanded again
    ],
)
def test_a_reference_stands_for_what_it_names(text, expanded):
    assert expand(text, ENVIRON) == (expanded, [])


@pytest.mark.parametrize(
    "text", ["${}", "${A B}", "${1A}", "${NAME", "${NAME-else}", "${NAME:+x}", "${file:}"]
)
def test_what_only_looks_like_a_reference_is_a_problem(text):
    expanded, problems = expand(text, ENVIRON)
    assert expanded == ""
    assert len(problems) == 1
    assert "a reference is" in problems[0]


def test_every_unset_variable_is_a_problem_of_its_own():
    assert expand("${A}${NAME}${B}", ENVIRON)[1] == [
        "environment variable A is not set",
        "environment variable B is not set",
    ]


def test_a_file_gives_its_text_without_the_line_end(tmp_path):
    secret = tmp_path / "secret"
    for content in (b"horse", b"horse\n", b"horse\r\n"):
        secret.write_bytes(content)
        assert expand(f"${{file:{secret}}}", {}) == ("horse", [])
    secret.write_bytes(b"horse\n\n")
    assert expand(f"${{file:{secret}}}", {}) == ("horse\n", [])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    secret = tmp_path / "secret"
    reasons = {"No such file": None, "is not UTF-8": b"\xff", "is larger than": b"x" * (MAX_FILE_BYTES + 1)}
    for reason, content in reasons.items():
        if content is not None:
            secret.write_bytes(content)
        _, (problem,) = expand(f"${{file:{secret}}}", {})
        assert str(secret) in problem
        assert reason in problem


def test_the_variables_that_must_be_set_are_known():
    assert variables("${A} ${B:-x} $${C} ${file:/d} ${D}") == {"A", "D"}


def test_the_files_of_a_configuration_are_those_of_its_values(tmp_path):
    path = tmp_path / "penstock.yaml"
    path.write_text(
        "# ${file:/of/a/comment}\nkeys: [{name: a, hash: '${file:/b}'}]\ncontrol_key: ${file:/a}${file:/b} # ${file:/c}\n"
        "log: $${file:/d}\n"
    )
    assert referenced_files(path) == [Path("/a"), Path("/b")]
    path.write_text("{")
    assert referenced_files(path) == []
    assert referenced_files(tmp_path / "none") == []
