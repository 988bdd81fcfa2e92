"""Values of MessagePack bodies are counted as the library makes them."""

import datetime as dt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BodyTooLarge
from penstock.wire._msgpack_values import holds_more
from penstock.wire.forms import MOST_VALUES, Form, json_of

_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.integers(-200, 70_000)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.sampled_from([300, 70_000]).map("é".__mul__)
    | st.sampled_from([300, 70_000]).map(bytes)
    | st.builds(msgspec.msgpack.Ext, st.integers(0, 100), st.integers(0, 300).map(bytes))
    | st.just(dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(st.text(max_size=40), inner, max_size=20)
        | st.sampled_from([20, 70_000]).map([1].__mul__)
        | st.just({str(number): None for number in range(70_000)})
    ),
    max_leaves=10,
)


def count(value):
    if isinstance(value, dict):
        return 1 + sum(count(key) + count(inner) for key, inner in value.items())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@given(_VALUE)
def test_each_is_counted_once(value):
    body, number = msgspec.msgpack.encode(value), count(value)
    assert holds_more(body, number - 1)
    assert not holds_more(body, number)


@given(st.binary(max_size=200))
def test_what_is_no_messagepack_ends_too(body):
    assert not holds_more(body, len(body))


@pytest.mark.parametrize("value", [b"\x80", b"\x90", b"\xa0", b"\xa1a", b"\xc0", b"\xcb" + bytes(8)])
def test_a_body_of_too_many_is_refused_before_they_are_made(value, monkeypatch):
    monkeypatch.setattr("penstock.wire.forms._unpack", lambda body: pytest.fail("they were made"))
    body = b"\xdd" + MOST_VALUES.to_bytes(4) + value * MOST_VALUES
    with pytest.raises(BodyTooLarge, match="more than 1,000,000 values"):
        json_of(body, Form.MSGPACK)


def test_a_long_text_is_one_value():
    assert json_of(msgspec.msgpack.encode({"text": "\x80" * MOST_VALUES}), Form.MSGPACK)
