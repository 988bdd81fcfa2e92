"""How a body is told in blocks: against a gateway in memory that does what the protocol says, and against others."""

import hashlib
import json
import random

import pytest

from penstock.client._blocks import MOST_REMEMBERED, MOST_SENT, REMEMBERED_FOR, Blocks, Known, in_blocks
from penstock.client._uploading import Link, Outcome

SIZES = [50_000 + number for number in range(12)]
BODY = random.Random(3).randbytes(sum(SIZES))
HEADERS = {
    "authorization": "Bearer k",
    "content-type": "application/json",
    "content-encoding": "zstd",
    "content-length": "9",
    "idempotency-key": "key",
}


def known_body(lacking=0):
    """A body of which so many blocks at its end are not known."""
    blocks, known = Blocks(BODY, SIZES, "zstd", "me"), Known()
    known.add("me", blocks.order[: len(SIZES) - lacking], 0.0)
    return blocks, known


def told(blocks, known, now=1.0):
    return in_blocks(blocks, HEADERS, "/v1", known, Link(), now)


class Gateway:
    def __init__(self, *contents):
        self.blocks = {hashlib.sha256(each).hexdigest(): each for each in contents}
        self.body = None

    def answer(self, step):
        assert step.headers["authorization"] == "Bearer k"
        if step.method == "PUT":
            name = step.path.removeprefix("/v1/blocks/")
            assert hashlib.sha256(step.content).hexdigest() == name
            assert "idempotency-key" not in step.headers
            self.blocks[name] = step.content
            return 201, b""
        assert (step.method, step.path) == ("POST", None)
        assert step.headers["Content-Type"] == "application/vnd.penstock.blocks+json"
        assert step.headers["idempotency-key"] == "key"
        assert not {"content-encoding", "content-length", "content-type"} & set(step.headers)
        asked = json.loads(step.content)
        assert (asked["content_type"], asked["content_encoding"]) == ("application/json", "zstd")
        lacking = [each["sha256"] for each in asked["blocks"] if each["sha256"] not in self.blocks]
        if lacking:
            return 409, json.dumps({"lacking": lacking}).encode()
        parts = [self.blocks[each["sha256"]] for each in asked["blocks"]]
        assert [len(part) for part in parts] == [each["size"] for each in asked["blocks"]]
        self.body = b"".join(parts)
        return 200, b""


def run(sending, gateway):
    """The outcome, and the methods of all steps."""
    methods = []
    for _ in range(100):
        step = sending.step(1.0)
        methods.append(step.method)
        status, content = gateway.answer(step)
        outcome = sending.took(status, {}, 1.0)
        if outcome is Outcome.LACKING:
            outcome = sending.lacks(content)
        if outcome is not Outcome.ONWARD:
            return outcome, methods
    raise AssertionError("it never ends")


def test_what_is_all_there_goes_as_a_list():
    blocks, known = known_body()
    gateway = Gateway(*map(blocks.content, blocks.order))
    sending = told(blocks, known)
    assert run(sending, gateway) == (Outcome.ANSWER, ["POST"])
    assert gateway.body == BODY
    assert sending.sent < 2_000
    assert sending.saved == len(BODY) - sending.sent


def test_what_is_new_goes_before_the_list():
    blocks, known = known_body(lacking=3)
    gateway = Gateway(*map(blocks.content, blocks.order[:-3]))
    assert run(told(blocks, known), gateway) == (Outcome.ANSWER, ["PUT"] * 3 + ["POST"])
    assert gateway.body == BODY
    assert known.of("me", blocks.order, 2.0) == set(blocks.order)


def test_what_the_gateway_has_let_go_of_is_sent_when_it_says_so():
    blocks, known = known_body(lacking=1)
    gateway = Gateway(*map(blocks.content, blocks.order[2:-1]))
    outcome, methods = run(told(blocks, known), gateway)
    assert (outcome, methods) == (Outcome.ANSWER, ["PUT", "POST", "PUT", "PUT", "POST"])
    assert gateway.body == BODY


def test_a_gateway_that_has_let_go_of_most_gets_it_as_a_whole_and_is_not_asked_again():
    blocks, known = known_body()
    assert run(told(blocks, known), Gateway()) == (Outcome.REFUSED, ["POST"])
    assert told(blocks, known) is None


def test_a_block_that_stands_twice_goes_once():
    twice = BODY[: SIZES[0]] * 2
    blocks = Blocks(twice, [SIZES[0]] * 2, "zstd", "me")
    known = Known()
    known.add("me", blocks.order, 0.0)
    gateway = Gateway()
    assert run(told(blocks, known), gateway) == (Outcome.ANSWER, ["POST", "PUT", "POST"])
    assert gateway.body == twice


@pytest.mark.parametrize("lacking", [len(SIZES), len(SIZES) // 2 + 1, MOST_SENT + 1])
def test_what_is_mostly_new_goes_as_a_whole(lacking):
    assert told(*known_body(lacking=lacking)) is None


def test_others_blocks_and_old_ones_are_not_known():
    blocks, known = known_body()
    assert told(Blocks(BODY, SIZES, "zstd", "somebody else"), known) is None
    assert told(blocks, known, now=REMEMBERED_FOR + 1) is None
    known.add("somebody else", [hashlib.sha256(b"%d" % n).digest() for n in range(MOST_REMEMBERED)], 1.0)
    assert told(blocks, known) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"no JSON",
        b"{}",
        b'{"lacking": []}',
        b'{"lacking": 7}',
        b'{"lacking": ["zz"]}',
        b'{"lacking": ["' + b"ab" * 32 + b'"]}',
        b'{"error": {"code": "idempotency_key_reused"}}',
        b"[" * 100_000,
    ],
)
def test_a_server_that_names_nothing_of_it_gets_it_as_a_whole(content):
    sending = told(*known_body())
    sending.step(1.0)
    assert sending.took(409, {}, 1.0) is Outcome.LACKING
    assert sending.lacks(content) is Outcome.REFUSED


def test_a_server_that_lacks_the_same_again_and_again_gets_it_as_a_whole():
    blocks, known = known_body()
    sending = told(blocks, known)
    want = json.dumps({"lacking": [blocks.order[0].hex()]}).encode()
    for _ in range(MOST_SENT):
        assert sending.step(1.0).method == "POST"
        assert sending.took(409, {}, 1.0) is Outcome.LACKING
        assert sending.lacks(want) is Outcome.ONWARD
        assert sending.step(1.0).method == "PUT"
        assert sending.took(201, {}, 1.0) is Outcome.ONWARD
    sending.step(1.0)
    assert sending.took(409, {}, 1.0) is Outcome.LACKING
    assert sending.lacks(want) is Outcome.REFUSED


@pytest.mark.parametrize("status", [200, 202, 301, 400, 403, 404, 405, 413, 429, 503, 507])
def test_a_server_that_takes_no_block_gets_it_as_a_whole(status):
    sending = told(*known_body(lacking=1))
    sending.step(1.0)
    assert sending.took(status, {}, 1.0) is Outcome.REFUSED


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422])
def test_a_server_that_takes_no_list_gets_it_as_a_whole(status):
    sending = told(*known_body())
    sending.step(1.0)
    assert sending.took(status, {}, 1.0) is Outcome.REFUSED


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_what_says_nothing_of_blocks_is_the_answer(status):
    """And the list is sent again, if the call is."""
    sending = told(*known_body())
    first = sending.step(1.0)
    assert sending.took(status, {}, 1.0) is Outcome.ANSWER
    assert sending.step(2.0).content == first.content


def test_after_a_break_the_same_step_goes_again():
    sending = told(*known_body(lacking=1))
    first = sending.step(1.0)
    sending.broke()
    assert sending.step(2.0).path == first.path
