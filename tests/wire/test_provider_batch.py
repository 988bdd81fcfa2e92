from __future__ import annotations

import json

import pytest

from penstock.messages import Endpoint
from penstock.wire.provider_batch import ANTHROPIC, OPENAI, Fate, Result, Told, file_id, form_of

# As the providers' references show them, shortened.
OPENAI_BATCH = {
    "id": "batch_abc123",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-abc123",
    "completion_window": "24h",
    "status": "completed",
    "output_file_id": "file-cvaTdG",
    "error_file_id": "file-HOWS94",
    "created_at": 1711471533,
    "request_counts": {"total": 100, "completed": 95, "failed": 5},
    "metadata": {"penstock": "one"},
}
MESSAGE_BATCH = {
    "id": "msgbatch_013Zva2CMHLNnXjNJJKqJ2EF",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": {"processing": 100, "succeeded": 50, "errored": 30, "canceled": 10, "expired": 10},
    "created_at": "2024-08-20T18:37:24.100435Z",
    "results_url": None,
}


def encoded(value, **changes):
    return json.dumps({**value, **changes}).encode()


def test_a_batch_of_openais_tells_how_it_stands():
    assert OPENAI.told(encoded(OPENAI_BATCH)) == Told(
        "batch_abc123",
        Fate.COMPLETED,
        1711471533.0,
        100,
        "one",
        "file-abc123",
        ("file-cvaTdG", "file-HOWS94"),
    )
    for status in ("validating", "in_progress", "finalizing", "cancelling", "something new"):
        assert OPENAI.told(encoded(OPENAI_BATCH, status=status)).ended is None
    failed = OPENAI.told(
        encoded(
            OPENAI_BATCH,
            status="failed",
            errors={"data": [{"message": "too many"}, {"message": "tokens"}]},
            output_file_id=None,
            error_file_id=None,
        )
    )
    assert (failed.ended, failed.why, failed.results) == (Fate.FAILED, "too many; tokens", ())


def test_a_batch_of_anthropics_tells_how_it_stands():
    told = ANTHROPIC.told(encoded(MESSAGE_BATCH))
    assert (told.id, told.ended, told.lines, told.results) == (MESSAGE_BATCH["id"], None, 200, ())
    assert told.created == pytest.approx(1724179044.100435)
    ended = ANTHROPIC.told(encoded(MESSAGE_BATCH, processing_status="ended", results_url="https://a.b/c"))
    assert (ended.ended, ended.results) == (Fate.COMPLETED, (MESSAGE_BATCH["id"],))


@pytest.mark.parametrize("form", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"id": "../files"}', b'{"id": 7}', b"<html>", b'{"id": "a?b", "created_at": 1}'],
)
def test_what_is_no_batch_is_not_taken_for_one(form, text):
    with pytest.raises(ValueError):
        form.told(text)


def test_an_id_is_never_a_path():
    assert file_id(b'{"id": "file-abc_1"}') == "file-abc_1"
    for name in ("", "a/b", "..", "a b", "é"):
        with pytest.raises(ValueError, match="is no id"):
            file_id(json.dumps({"id": name}).encode())


def test_pages_tell_where_the_next_one_begins():
    page = OPENAI.page(encoded({"data": [OPENAI_BATCH], "has_more": True}))
    assert (len(page.batches), page.after) == (1, "batch_abc123")
    page = ANTHROPIC.page(encoded({"data": [MESSAGE_BATCH], "has_more": False}))
    assert (len(page.batches), page.after) == (1, "")


def test_a_request_is_one_line_whatever_its_body_looks_like():
    body = b'{\n  "model": "m"\n}'
    line = OPENAI.request("one", Endpoint.CHAT, body)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "custom_id": "one",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m"},
    }
    line = ANTHROPIC.request("one", Endpoint.MESSAGES, body)
    assert json.loads(line) == {"custom_id": "one", "params": {"model": "m"}}
    assert line.count(b"\n") == 1


def openai_line(response=None, error=None):
    return encoded({"id": "batch_req_1", "custom_id": "one", "response": response, "error": error})


def test_results_of_openais():
    answered = {"status_code": 200, "request_id": "req_1", "body": {"id": "chatcmpl-1"}}
    assert OPENAI.result(openai_line(answered)) == Result("one", 200, b'{"id": "chatcmpl-1"}', "req_1")
    refused = {"status_code": 400, "request_id": "req_1", "body": {"error": {}}}
    assert OPENAI.result(openai_line(refused)).status == 400
    expired = openai_line(error={"code": "batch_expired", "message": "late"})
    assert OPENAI.result(expired) == Result("one", fate=Fate.EXPIRED, why="late")
    assert OPENAI.result(openai_line(error={"code": "batch_cancelled"})).fate is Fate.CANCELLED
    assert OPENAI.result(openai_line(error={"code": None, "message": None})).fate is Fate.FAILED
    assert OPENAI.result(b"no line") is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("rate_limit_error", 429),
        ("overloaded_error", 529),
        ("api_error", 500),
        ("something_new", 500),
    ],
)
def test_results_of_anthropics_that_went_wrong_get_the_status_that_their_error_has(kind, status):
    error = {"type": "error", "error": {"type": kind, "message": "why"}}
    line = encoded({"custom_id": "one", "result": {"type": "errored", "error": error}})
    result = ANTHROPIC.result(line)
    assert (result.status, json.loads(result.body)) == (status, error)


def test_results_of_anthropics():
    line = encoded({"custom_id": "one", "result": {"type": "succeeded", "message": {"id": "msg_1"}}})
    assert ANTHROPIC.result(line) == Result("one", 200, b'{"id": "msg_1"}')
    for kind, fate in (("expired", Fate.EXPIRED), ("canceled", Fate.CANCELLED), ("new", Fate.FAILED)):
        line = encoded({"custom_id": "one", "result": {"type": kind}})
        assert ANTHROPIC.result(line) == Result("one", fate=fate)
    assert ANTHROPIC.result(b"{}") is None


def test_the_form_follows_the_endpoint():
    assert form_of("/v1/messages") is ANTHROPIC
    assert form_of("/v1/embeddings") is OPENAI


@pytest.mark.parametrize("form", [OPENAI, ANTHROPIC])
def test_of_a_result_that_is_spoiled_it_is_told_whose_it_is_if_that_can_be_seen(form):
    cut = b'{"id":"batch_req_1","custom_id": "batch_req_2","response":{"status_code":200,"bo'
    odd = encoded({"custom_id": "batch_req_2", "response": "no", "result": "no"})
    for line in (cut, odd):
        assert form.result(line) == Result("batch_req_2", 200, line, is_unreadable=True)
    assert form.result(cut[:-70]) is None
