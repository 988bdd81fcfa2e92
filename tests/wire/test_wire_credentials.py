"""How keys travel, and whose accounts go with them."""

import pytest

from penstock.messages import Dialect
from penstock.wire.credentials import account_lines, bearer, bearer_field, field_for, key_in


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, b""),
        ({b"authorization": b"Bearer one"}, b"one"),
        ({b"authorization": b"bEARER  one "}, b"one"),
        ({b"x-api-key": b"two"}, b"two"),
        ({b"authorization": b"Bearer one", b"x-api-key": b"two"}, b"one"),
        ({b"authorization": b"Basic one", b"x-api-key": b"two"}, b"two"),
        ({b"authorization": b"one"}, b""),
    ],
)
def test_a_key_is_found_in_either_form(headers, key):
    assert key_in(headers) == key


def test_a_key_is_presented_as_each_dialect_wants_it_and_read_back():
    assert field_for(b"k", Dialect.ANTHROPIC) == b"x-api-key: k"
    for dialect in set(Dialect) - {Dialect.ANTHROPIC}:
        assert field_for(b"k", dialect) == bearer_field(b"k") == b"authorization: Bearer k"
    assert bearer(bearer_field(b"k").partition(b": ")[2]) == b"k"


def test_a_callers_accounts_are_told_line_by_line_but_for_what_is_configured():
    headers = {b"openai-organization": b"org", b"openai-project": b"proj", b"x-other": b"x"}
    assert account_lines({b"x-other": b"x"}, []) == b""
    assert account_lines(headers, []) == b"openai-organization: org\r\nopenai-project: proj\r\n"
    assert account_lines(headers, ["OpenAI-Project"]) == b"openai-organization: org\r\n"
    assert account_lines(headers, ["OpenAI-Project", "openai-organization"]) == b""
