"""The log-probabilities of an answer, and the answer without them."""

from __future__ import annotations

import json

import pytest

from penstock.wire.certainty import mean_logprob, without_logprobs


def told(*logprobs):
    return {"content": [{"token": "t", "logprob": one} for one in logprobs]}


PLAIN = [json.dumps({"choices": [{"message": {"content": "a b"}, "logprobs": told(-0.5, -1.5)}]}).encode()]
STREAM = [
    b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": "a"}, "logprobs": told(-0.5)}]}).encode(),
    b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": "b"}, "logprobs": told(-1.5)}]}).encode(),
    b"data: %b\n\n" % json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}).encode(),
    b"data: [DONE]\n\n",
]


@pytest.mark.parametrize(("events", "stream"), [(PLAIN, False), (STREAM, True)])
def test_the_mean_is_that_of_all_tokens(events, stream):
    assert mean_logprob(events, stream=stream) == pytest.approx(-1.0)


@pytest.mark.parametrize(("events", "stream"), [(PLAIN, False), (STREAM, True)])
def test_without_them_it_is_the_same_answer(events, stream):
    bare = without_logprobs(events, stream=stream)
    assert mean_logprob(bare, stream=stream) is None
    assert b"logprob" not in b"".join(bare)
    assert [b"content" in event for event in bare] == [b"content" in event for event in events]
    assert bare[-1] == events[-1] or not stream


def test_where_nothing_is_told_there_is_none():
    assert mean_logprob([b"{}", b"no json", b'{"choices": [{"logprobs": null}]}'], stream=False) is None
