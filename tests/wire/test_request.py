import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest
from penstock.messages import Endpoint
from penstock.wire import request

VALID = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 7}


def read(body, endpoint=Endpoint.CHAT):
    return request.read(endpoint, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_gateway_reads_only_what_it_needs():
    opening = read({**VALID, "stream_options": {"include_usage": True, "unknown": 1}})
    assert (opening.model, opening.stream, opening.max_output_tokens, opening.include_usage) == (
        "m",
        True,
        7,
        True,
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b'"text"', None),
        (b"{", None),
        (b'{"model":"m","messages":[]', None),
        (b"\xff\xfe", None),
        ({"messages": []}, "model"),
        ({"model": 1, "messages": []}, "model"),
        ({"model": "", "messages": []}, "model"),
        ({"model": "m" * 300, "messages": []}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({**VALID, "stream": "yes"}, "stream"),
        ({**VALID, "stream_options": 3}, "stream_options"),
        ({**VALID, "max_tokens": "many"}, "max_tokens"),
        ({**VALID, "max_tokens": -1}, "max_tokens"),
    ],
)
def test_what_is_wrong_is_named(body, param):
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert caught.value.param == param


def test_anthropic_messages_need_max_tokens():
    with pytest.raises(BadRequest, match="max_tokens"):
        request.check_unlimited(Endpoint.MESSAGES)
    request.check_unlimited(Endpoint.CHAT)
    assert read({"model": "m", "messages": []}, Endpoint.MESSAGES).max_output_tokens is None


def test_deep_nesting_is_refused_or_relayed_but_never_fatal():
    for depth in (10, 1000, 200_000):
        body = b'{"model":"m","messages":' + b"[" * depth + b"]" * depth + b"}"
        try:
            read(body)
        except BadRequest as error:
            assert error.code == ("invalid_json" if depth < 200_000 else "too_many_values")


def test_values_keep_their_bytes_whatever_their_spelling():
    messages = b'[ {"role":"user",  "content":"\\u00e9\\/ \xc3\xa9"} ]'
    opening = read(b'{"seed":1e2, "model" : "a", "messages": ' + messages + b' , "temperature":0.10}')
    body = request.rewritten(opening.fields, "b")
    assert body == b'{"seed":1e2,"model":"b","messages":' + messages + b',"temperature":0.10}'


def test_a_repeated_member_has_one_meaning_for_us_and_for_the_upstream():
    opening = read(b'{"model":"cheap","messages":[],"mod\\u0065l":"dear"}')
    assert opening.model == "dear"
    assert json.loads(request.rewritten(opening.fields, opening.model)) == {"model": "dear", "messages": []}
    assert request.rewritten(opening.fields, "x").count(b"model") == 1


@pytest.mark.parametrize("name", ["Model", "MODEL", "max_Tokens", "\u017ftream", "N", "Stop"])
def test_a_member_that_lenient_servers_would_read_as_another_is_refused(name):
    """Go's decoder matches names in any case, and the last one of them counts."""
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        with pytest.raises(BadRequest) as told:
            read({**VALID, "prompt": "p", "stop": "x", name: "dear"}, endpoint)
        assert told.value.param == name


def test_members_without_number_are_refused():
    """A megabyte of zstd can hold three millions of them."""
    most = {f"a{number}": 0 for number in range(request.MOST_MEMBERS - len(VALID))}
    assert len(read({**VALID, **most}).fields) == request.MOST_MEMBERS
    with pytest.raises(BadRequest, match="more than 1000 members"):
        read({**VALID, **most, "more": 0})


def test_a_member_in_other_letters_that_nobody_could_mistake_goes_on():
    assert read({**VALID, "topK": 1, "größe": 2, "guided_JSON": {}}).fields.keys() >= {"topK", "größe"}


def test_of_two_limits_of_the_answer_the_larger_one_counts():
    """Servers that know only one of them would not be held by the other."""
    assert read({**VALID, "max_completion_tokens": 1, "max_tokens": 9_000}).max_output_tokens == 9_000
    assert read({**VALID, "max_completion_tokens": 5, "max_tokens": None}).max_output_tokens == 5


def test_a_nested_model_is_left_alone():
    opening = read({**VALID, "metadata": {"model": "other"}})
    assert json.loads(request.rewritten(opening.fields, "new"))["metadata"] == {"model": "other"}


def test_usage_is_asked_for_and_other_options_are_kept():
    opening = read({**VALID, "stream_options": {"include_obfuscation": False}})
    options = json.loads(request.usage_wanted(opening.fields, running=True))
    assert options == {"include_obfuscation": False, "include_usage": True, "continuous_usage_stats": True}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    try:
        request.read(Endpoint.CHAT, body)
    except BadRequest:
        pass


@given(
    st.dictionaries(
        st.text(max_size=8).map(str.casefold),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_rewriting_changes_nothing_but_the_model(extra):
    body = {**extra, **VALID}
    opening = read(body)
    assert json.loads(request.rewritten(opening.fields, "new")) == {**body, "model": "new"}
