"""Requests that go on from earlier responses: what they name, and the whole conversation that they mean."""

import json

import msgspec
import pytest

from penstock.wire import responses

OURS = "0123456789abcdef" * 2
THINKING = {"type": "reasoning", "id": f"rs_{OURS}_0", "summary": [], "encrypted_content": "penstock1.x"}
SAID = {"type": "message", "id": f"msg_{OURS}_1", "role": "assistant", "content": []}
EARLIER = responses.Earlier(
    json.dumps({"model": "m", "instructions": "old", "input": "first"}).encode(),
    json.dumps({"id": f"resp_{OURS}", "output": [THINKING, SAID]}).encode(),
)
FIRST = {"role": "user", "content": "first"}
MORE = {"role": "user", "content": "more"}


def fields_of(**members):
    return msgspec.json.decode(json.dumps({"model": "m", **members}), type=dict[str, msgspec.Raw])


def whole(**members):
    known = {OURS: EARLIER}
    return json.loads(msgspec.json.encode(responses.whole(fields_of(**members), known.get)))


def reference(id_):
    return {"type": "item_reference", "id": id_}


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ({"input": "x"}, set()),
        ({"input": "x", "previous_response_id": None}, set()),
        ({"input": "x", "previous_response_id": 7}, set()),
        ({"input": "x", "previous_response_id": f"resp_{OURS}"}, {OURS}),
        ({"previous_response_id": f"resp_{OURS}"}, {OURS}),
        ({"input": "x", "previous_response_id": "resp_68f0upstreams"}, set()),
        ({"input": [MORE, reference(f"rs_{OURS}_0")]}, {OURS}),
        ({"input": [reference("rs_68f0upstreams")]}, set()),
        ({"input": [{**MORE, "content": '{"type":"item_reference"}'}]}, set()),
        ({"input": 7, "previous_response_id": f"resp_{OURS}"}, {OURS}),
        ({"input": [7, reference(7)]}, set()),
    ],
)
def test_what_a_request_names_is_what_was_made_here(members, names):
    assert responses.named(fields_of(**members)) == names


def test_only_what_may_name_something_is_looked_at():
    for members, may in [
        ({"input": "x"}, False),
        ({"input": "x", "previous_response_id": "r"}, True),
        ({"input": [reference("r")]}, True),
    ]:
        fields = fields_of(**members)
        assert responses.goes_on(fields, msgspec.json.encode(fields)) is may


@pytest.mark.parametrize(("given", "items"), [("more", [MORE]), ([MORE], [MORE]), (None, []), ([], [])])
def test_an_earlier_response_is_the_beginning_of_the_conversation(given, items):
    members = {} if given is None else {"input": given}
    found = whole(**members, previous_response_id=f"resp_{OURS}", instructions="new")
    assert found == {"model": "m", "input": [FIRST, THINKING, SAID, *items], "instructions": "new"}


def test_a_reference_is_the_item_that_it_names():
    """As Vercel's AI SDK sends reasoning back; items that it does not know are left to the upstream."""
    unknown = [reference(f"rs_{OURS}_2"), reference("msg_" + "9" * 32 + "_0"), reference("msg_upstreams")]
    found = whole(input=[FIRST, reference(f"rs_{OURS}_0"), reference(f"msg_{OURS}_1"), *unknown, MORE])
    assert found["input"] == [FIRST, THINKING, SAID, *unknown, MORE]


def test_what_is_not_found_stays():
    assert (
        whole(input="x", previous_response_id="resp_" + "9" * 32)["previous_response_id"]
        == "resp_" + "9" * 32
    )
