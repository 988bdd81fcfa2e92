"""The table of the words in which providers refuse a prompt."""

import json
import re

import pytest

from penstock.wire import problems
from penstock.wire.refusal_causes import CODE_OF, CODES, WORDS, cause_of


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.pattern)
def test_each_line_fits_its_example_and_no_other_cause_does(words):
    assert re.search(words.pattern, words.example, re.IGNORECASE)
    assert cause_of("", "", words.example) == words.cause
    assert words.source


@pytest.mark.parametrize(("code", "cause"), CODES.items())
def test_codes_and_types_say_it_whatever_the_message(code, cause):
    assert cause_of(code, "", "") == cause_of("", code, "no") == cause


@pytest.mark.parametrize(
    "message",
    [
        "",
        "max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens",
        "Rate limit reached: too many tokens per minute",
        "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 7000",
        "Invalid 'user': string too long. Expected a string with maximum length 64.",
        "messages: Input should be a valid list",
        "The model `m` does not exist",
        "tools.0.description: too long, at most 1024 characters",
    ],
)
def test_what_is_wrong_otherwise_has_no_cause(message):
    assert cause_of("", "invalid_request_error", message) == ""


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.pattern)
def test_in_whatever_form_it_is_told_it_has_its_cause_and_a_code(words):
    forms = (
        {"error": {"message": words.example, "type": "BadRequestError", "code": 400}},
        {"type": "error", "error": {"type": "invalid_request_error", "message": words.example}},
        [{"error": {"code": 400, "message": words.example, "status": "INVALID_ARGUMENT"}}],
        {"object": "error", "message": words.example},
        {"detail": words.example},
    )
    for form in forms:
        for status in (400, 413, 422):
            error = problems.from_upstream("up", status, {}, json.dumps(form).encode())
            assert (error.status, error.cause, error.code) == (status, words.cause, CODE_OF[words.cause])
        if words.cause == "content_filter":
            forbidden = problems.from_upstream("up", 403, {}, json.dumps(form).encode())
            assert (forbidden.status, forbidden.cause) == (502, words.cause)


def test_what_fails_has_no_cause():
    body = json.dumps({"error": {"message": "prompt is too long"}}).encode()
    assert {problems.from_upstream("up", status, {}, body).cause for status in (429, 500, 503)} == {""}
