"""What an answer can have used at most: what is honest stands, what cannot be is cut."""

import json

import msgspec
import pytest

from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.wire.overstated import ADDED, HIDDEN, LONGEST, TURNS, believable

TEXT = {"model": "m", "messages": [{"role": "user", "content": "how many?"}]}
SEARCHES = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}


def asked(endpoint=Endpoint.CHAT, **more):
    body = json.dumps(TEXT | more).encode()
    return Call(
        id="gen_1",
        endpoint=endpoint,
        model="m",
        stream=False,
        fields=msgspec.json.decode(body, type=dict[str, msgspec.Raw]),
        body=body,
        headers={},
        received=0.0,
        tenant=Tenant(),
        max_output_tokens=more.get("max_tokens"),
    )


@pytest.mark.parametrize(
    ("call", "told", "sent", "received"),
    [
        (asked(), Usage(30_000_000, 3), 30_000_000, 100),  # a token is a byte at least
        (asked(), Usage(1_900_000, 500_000), 50, 100),  # earlier turns, and hidden thinking
        (asked(max_tokens=10), Usage(5, 3_000_000), 50, 3_000_000),  # they have come
        (asked(max_tokens=100, n=64), Usage(5, 64 * 2_000), 50, 100),
        (asked(n=5), Usage(5, 5 * LONGEST), 50, 100),
        (asked(**SEARCHES, max_tokens=64_000), Usage(10 * 1_000_000, 10 * 64_000), 50, 100),
        (asked(Endpoint.TRANSCRIPTIONS), Usage(units=10 * 3_600_000), 25_000_000, 100),
        (asked(Endpoint.RERANK), Usage(units=40), 5_000, 100),
    ],
)
def test_what_can_be_stands(call, told, sent, received):
    assert believable(call, told, sent, received) is told


@pytest.mark.parametrize(
    ("call", "told", "most"),
    [
        (asked(), Usage(2**40, 7), Usage(50 + ADDED, 7)),
        (asked(), Usage(7, 2**40), Usage(7, LONGEST + 100)),
        (asked(max_tokens=10), Usage(7, 2**40), Usage(7, 10 + HIDDEN + 100)),
        (asked(n=4), Usage(7, 2**40), Usage(7, 4 * LONGEST + 100)),
        (asked(n="many"), Usage(7, 2**40), Usage(7, LONGEST + 100)),
        (asked(**SEARCHES), Usage(2**40, 2**40), Usage(50 + TURNS * ADDED, TURNS * LONGEST + 100)),
        (asked(Endpoint.TRANSCRIPTIONS), Usage(units=2**40), Usage(units=500 + 3_600_000)),
        (asked(Endpoint.RERANK), Usage(units=2**40), Usage(units=50)),
    ],
)
def test_what_cannot_be_is_the_most_that_can_and_marked_as_estimated(call, told, most):
    believed = believable(call, told, 50, 100)
    assert believed == Usage(most.input_tokens, most.output_tokens, units=most.units, estimated=True)


def test_no_part_is_more_than_its_whole_then():
    told = Usage(2**40, 2**40, 2**40, 2**40, 2**40, 2**40, 2**40, False, 2**40, 2**40)
    believed = believable(asked(), told, 50, 100)
    parts = (
        believed.cached_input_tokens,
        believed.cache_write_tokens,
        believed.cache_write_1h_tokens,
        believed.audio_input_tokens,
        believed.image_input_tokens,
    )
    assert set(parts) == {believed.input_tokens} == {50 + ADDED}
    assert believed.reasoning_tokens == believed.audio_output_tokens == believed.output_tokens
