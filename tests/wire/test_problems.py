"""Errors, with the official SDKs as the ones who must understand them."""

import email.utils
import json
import time

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import errors
from penstock.errors import PenstockError, UpstreamFailed, UpstreamRefused
from penstock.messages import Dialect, Endpoint
from penstock.wire import problems, sse


def answering(status, headers, body):
    fields = [(name.decode(), value.decode()) for name, value in headers]
    return httpx2.Client(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(status, headers=fields, content=body))
    )


def openai_error(status, headers, body, **options):
    client = openai.OpenAI(
        api_key="k", base_url="http://x/v1", max_retries=0, http_client=answering(status, headers, body)
    )
    with pytest.raises(openai.OpenAIError) as caught:
        list(client.chat.completions.create(model="m", messages=[], **options))
    return caught.value


def anthropic_error(status, headers, body, **options):
    client = anthropic.Anthropic(
        api_key="k", base_url="http://x", max_retries=0, http_client=answering(status, headers, body)
    )
    with pytest.raises(anthropic.AnthropicError) as caught:
        list(client.messages.create(model="m", messages=[], max_tokens=1, **options))
    return caught.value


ALL = {
    errors.BadRequest: (openai.BadRequestError, anthropic.BadRequestError, "invalid_request_error"),
    errors.Untranslatable: (openai.BadRequestError, anthropic.BadRequestError, "invalid_request_error"),
    errors.Unauthenticated: (
        openai.AuthenticationError,
        anthropic.AuthenticationError,
        "authentication_error",
    ),
    errors.Forbidden: (openai.PermissionDeniedError, anthropic.PermissionDeniedError, "permission_error"),
    errors.NotFound: (openai.NotFoundError, anthropic.NotFoundError, "not_found_error"),
    errors.UnknownModel: (openai.NotFoundError, anthropic.NotFoundError, "not_found_error"),
    errors.MethodNotAllowed: (openai.APIStatusError, anthropic.APIStatusError, "invalid_request_error"),
    errors.RequestTimeout: (openai.APIStatusError, anthropic.RequestTimeoutError, "timeout_error"),
    errors.Conflict: (openai.ConflictError, anthropic.ConflictError, "conflict_error"),
    errors.BodyTooLarge: (openai.APIStatusError, anthropic.RequestTooLargeError, "request_too_large"),
    errors.UnsupportedMedia: (openai.APIStatusError, anthropic.APIStatusError, "invalid_request_error"),
    errors.UpstreamRefused: (openai.BadRequestError, anthropic.BadRequestError, "invalid_request_error"),
    errors.RateLimited: (openai.RateLimitError, anthropic.RateLimitError, "rate_limit_error"),
    errors.Overloaded: (openai.InternalServerError, anthropic.ServiceUnavailableError, "overloaded_error"),
    errors.Draining: (openai.InternalServerError, anthropic.ServiceUnavailableError, "overloaded_error"),
    errors.UpstreamUnreachable: (openai.InternalServerError, anthropic.InternalServerError, "api_error"),
    errors.UpstreamFailed: (openai.InternalServerError, anthropic.InternalServerError, "api_error"),
    errors.UpstreamBroken: (openai.InternalServerError, anthropic.InternalServerError, "api_error"),
    errors.InternalError: (openai.InternalServerError, anthropic.InternalServerError, "api_error"),
}


@pytest.mark.parametrize(("kind", "expected"), ALL.items(), ids=[kind.__name__ for kind in ALL])
def test_both_sdks_raise_the_class_that_fits(kind, expected):
    error = kind("It went wrong.", param="messages")
    raised = openai_error(*problems.render(error, Dialect.OPENAI, "gen_1"))
    assert type(raised) is expected[0]
    assert raised.code == error.code
    assert raised.param == "messages"
    assert raised.type == error.kind
    assert raised.body["message"] == "It went wrong."
    assert raised.body["generation_id"] == "gen_1"
    raised = anthropic_error(*problems.render(error, Dialect.ANTHROPIC, "gen_1"))
    assert type(raised) is expected[1]
    assert raised.type == expected[2]
    assert raised.error_code == error.code
    assert raised.api_message == "messages: It went wrong."
    assert raised.body["request_id"] == "gen_1"


def test_a_timeout_of_the_upstream_is_a_gateway_timeout():
    error = errors.UpstreamTimeout("Too slow.", clock="first_token")
    assert openai_error(*problems.render(error, Dialect.OPENAI)).status_code == 504
    raised = anthropic_error(*problems.render(error, Dialect.ANTHROPIC))
    assert type(raised) is anthropic.GatewayTimeoutError
    assert raised.type == "timeout_error"


@pytest.mark.parametrize(
    ("seconds", "fields"),
    [
        (0, {b"retry-after": b"0", b"retry-after-ms": b"0"}),
        (0.25, {b"retry-after": b"1", b"retry-after-ms": b"250"}),
        (3.0001, {b"retry-after": b"4", b"retry-after-ms": b"3001"}),
        (None, {}),
        (float("inf"), {}),
        (-1.0, {}),
    ],
)
def test_retry_after_is_honest_and_rounded_up(seconds, fields):
    for dialect in Dialect:
        _, headers, _ = problems.render(errors.RateLimited("Later.", retry_after=seconds), dialect)
        assert {name: value for name, value in headers if name.startswith(b"retry")} == fields


def test_a_401_says_how_to_authenticate():
    _, headers, _ = problems.render(errors.Unauthenticated("Who?"), Dialect.OPENAI)
    assert (b"www-authenticate", b"Bearer") in headers


EVENT_STREAM = [(b"content-type", b"text/event-stream")]


def test_an_error_in_mid_stream_is_raised_by_the_openai_sdk():
    body = sse.encode(b'{"id":"1","object":"chat.completion.chunk","choices":[]}')
    body += problems.render_event(errors.UpstreamBroken("It broke.", param="x"), Endpoint.CHAT, "gen_1")
    raised = openai_error(200, EVENT_STREAM, body, stream=True)
    assert type(raised) is openai.APIError
    assert (raised.message, raised.code, raised.param) == ("It broke.", "upstream_broken", "x")


def test_an_error_in_mid_stream_is_raised_for_responses_too():
    body = problems.render_event(errors.UpstreamBroken("It broke."), Endpoint.RESPONSES)
    client = openai.OpenAI(
        api_key="k", base_url="http://x/v1", http_client=answering(200, EVENT_STREAM, body), max_retries=0
    )
    with pytest.raises(openai.APIError, match="It broke"):
        list(client.responses.create(model="m", input="x", stream=True))
    frame = sse.fields(body)
    assert frame.event == "error"
    openai.types.responses.ResponseErrorEvent.model_validate_json(frame.data)


def test_an_error_in_mid_stream_is_raised_by_the_anthropic_sdk():
    body = problems.render_event(errors.UpstreamBroken("It broke."), Endpoint.MESSAGES, "gen_1")
    raised = anthropic_error(200, EVENT_STREAM, body, stream=True)
    assert isinstance(raised, anthropic.APIStatusError)
    assert raised.api_message == "It broke."
    assert raised.error_code == "upstream_broken"


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES])
def test_the_body_of_a_refusal_becomes_the_same_event(endpoint):
    error = errors.UpstreamBroken("It broke.", param="x")
    _, _, body = problems.render(error, endpoint.dialect, "gen_1")
    assert problems.event_of(body, endpoint) == problems.render_event(error, endpoint, "gen_1")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"error":"no"}', b'{"error":null}', b"\xff"]
)
def test_what_tells_of_no_error_becomes_no_event(body):
    assert problems.event_of(body, Endpoint.CHAT) == b""


# ---- what upstreams answer -------------------------------------------------------------------------


def refusal(status, body, headers=None):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return problems.from_upstream("acme", status, headers or {}, body, now=1_000_000_000.0)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 413, 415, 422, 451])
def test_what_blames_the_request_is_passed_on_as_a_refusal(status):
    body = {"error": {"message": "Wrong.", "type": "invalid_request_error", "param": "top_p", "code": "bad"}}
    error = refusal(status, body)
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.code, error.param, error.upstream) == (status, "bad", "top_p", "acme")
    assert error.message == "acme: Wrong."
    assert error.kind == "invalid_request_error"


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        (500, 502),
        (501, 502),
        (502, 502),
        (503, 503),
        (504, 504),
        (520, 502),
        (524, 504),
        (529, 503),
        (408, 504),
        (301, 502),
        (204, 502),
    ],
)
def test_an_upstreams_failure_keeps_its_class(status, ours):
    error = refusal(status, {"error": {"message": "Boom."}})
    assert isinstance(error, UpstreamFailed)
    assert error.status == ours
    assert error.message == "acme: Boom."


@pytest.mark.parametrize("status", [401, 403])
def test_our_key_is_our_fault_and_stays_secret(status):
    error = refusal(status, {"error": {"message": "Incorrect API key provided: sk-abcdef123456."}})
    assert isinstance(error, UpstreamFailed)
    assert (error.status, error.code) == (502, "upstream_authentication")
    assert "sk-" not in error.message


@pytest.mark.parametrize(
    "message",
    [
        "The security token included in the request is expired",
        "The request signature we calculated does not match the signature you provided.",
        "Your API key was revoked. Use another API key.",
    ],
)
def test_a_403_that_speaks_of_a_bad_key_is_of_our_key(message):
    assert refusal(403, {"message": message}).code == "upstream_authentication"


@pytest.mark.parametrize(
    "message",
    [
        "Your chosen model requires moderation and your input was flagged for violence.",
        "Project `p` does not have access to model `m`",
        "Your API key does not have permission to use the specified resource",
        "",
    ],
)
def test_what_is_forbidden_is_told_in_the_providers_words_and_is_not_of_our_key(message):
    error = refusal(403, {"error": {"message": message}})
    assert isinstance(error, UpstreamFailed)
    assert (error.status, error.code) == (502, "upstream_forbidden")
    assert error.code not in problems.OF_THE_ACCOUNT
    assert error.message.endswith(message)


def test_our_empty_account_is_our_fault():
    for error in (
        refusal(402, {"error": {"message": "Insufficient Balance"}}),
        refusal(400, {"type": "error", "error": {"message": "Your credit balance is too low", "type": "x"}}),
        refusal(429, {"error": {"message": "see your plan", "type": "insufficient_quota", "code": None}}),
        refusal(429, {"error": {"message": "see your plan", "type": "x", "code": "insufficient_quota"}}),
        refusal(429, {"error": {"message": "see your balance", "type": "exceeded_current_quota_error"}}),
        refusal(429, {"error": {"message": "Insufficient balance. Please recharge.", "code": "1113"}}),
        problems.error_in_event(b'{"error": {"message": "see your plan", "type": "insufficient_quota"}}'),
    ):
        assert isinstance(error, UpstreamFailed)
        assert (error.status, error.code) == (502, "upstream_billing")


def test_a_quota_that_comes_back_by_itself_is_no_empty_account():
    words = "You exceeded your current quota, please check your plan and billing details."
    error = refusal(429, {"error": {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED"}})
    assert (error.status, error.code) == (429, "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (402, "Insufficient Balance", "billing_error", "upstream_billing"),
        (400, "Your credit balance is too low", "invalid_request_error", "upstream_billing"),
        (429, "see your plan", "rate_limit_error", "insufficient_quota"),
    ],
)
def test_a_callers_own_empty_account_is_told_in_the_providers_words(status, message, kind, code):
    told = {"message": message, "code": code if code == "insufficient_quota" else None}
    error = problems.from_upstream("up", status, {}, json.dumps({"error": told}).encode(), callers_key=True)
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.message) == (status, f"up: {message}")
    assert (error.kind, error.code) == (kind, code)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"1.5"}, 1.5),
        ({b"retry-after": b"7", b"retry-after-ms": b"350"}, 0.35),
        ({b"retry-after-ms": b"soon", b"retry-after": b"2"}, 2.0),
        ({b"retry-after": email.utils.formatdate(1_000_000_060, usegmt=True).encode()}, 60.0),
        ({b"retry-after": email.utils.formatdate(999_999_000, usegmt=True).encode()}, 0.0),
        ({b"retry-after": b"tomorrow"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"-3"}, 0.0),
    ],
)
def test_a_429_keeps_its_status_and_the_time_to_wait(headers, seconds):
    error = refusal(429, {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}, headers)
    assert isinstance(error, UpstreamFailed)
    assert (error.status, error.kind, error.retry_after) == (429, "rate_limit_error", seconds)
    assert refusal(503, b"", headers).retry_after == seconds


@pytest.mark.parametrize("zone", ["UTC", "XYZ+9", "XYZ-5"])
def test_a_date_without_a_zone_is_utc_wherever_we_are(zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        date = time.asctime(time.gmtime(1_000_000_060)).encode()
        assert refusal(429, b"", {b"retry-after": date}).retry_after == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


FORMS = {
    "openai": {"error": {"message": "Wrong.", "type": "invalid_request_error", "param": None, "code": None}},
    "anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": "Wrong."}},
    "vllm": {"object": "error", "message": "Wrong.", "type": "BadRequestError", "param": None, "code": 400},
    "llama.cpp": {"error": {"code": 400, "message": "Wrong.", "type": "invalid_request_error"}},
    "ollama": {"error": "Wrong."},
    "fastapi": {"detail": "Wrong."},
    "fastapi validation": {"detail": [{"loc": ["body"], "msg": "Wrong.", "type": "missing"}]},
    "mistral": {
        "object": "error",
        "message": {"detail": [{"msg": "Wrong."}]},
        "type": "invalid_request_error",
    },
    "gemini": [{"error": {"code": 400, "message": "Wrong.", "status": "INVALID_ARGUMENT"}}],
    "plain text": b"Wrong.",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_providers_form_is_understood(form):
    error = refusal(400, form)
    assert isinstance(error, UpstreamRefused)
    assert error.message == "acme: Wrong."
    assert error.kind == "invalid_request_error"
    assert error.code == "upstream_refused"


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210000 tokens > 200000 maximum",
        "This model's maximum context length is 8192 tokens.",
        "the request exceeds the available context size, try increasing it",
    ],
)
def test_a_prompt_that_is_too_long_has_a_code(message):
    assert refusal(400, {"error": {"message": message}}).code == "context_length_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Bad gateway</body></html>",
        b"\xff\xfe\x00",
        b"{broken",
        b"x" * 10_000_000,
        b"[]",
        b"null",
        b'""',
        b'{"error":null}',
        b'{"error":{"message":5}}',
        b"[" * 5000,
    ],
)
def test_garbage_gives_a_short_clean_message(body):
    error = refusal(500, body)
    assert error.message == "acme answered 500 (Internal Server Error)"
    assert refusal(499, body).message == "acme answered 499"


def test_an_upstreams_message_is_cut_cleaned_and_holds_no_key():
    error = refusal(400, {"error": {"message": "Bad\x00\r\n\x1b[31m key sk-proj-1234567890 " + "x" * 5000}})
    assert "sk-" not in error.message
    assert "[redacted]" in error.message
    assert all(ord(character) >= 32 for character in error.message)
    assert len(error.message) < 1100


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        ("key sk-ant-api03-xyz rejected", "key [redacted] rejected"),
        ("Bearer abc.def", "[redacted]"),
        ("sk-****1234", "[redacted]"),
        ("pk-abcdef rk-abcdef gsk-abcdef XAI-abcdef", "[redacted] [redacted] [redacted] [redacted]"),
        ("api_key_1234567890abcdef", "[redacted]"),
        ("Unknown parameter: key_value_store_name", "Unknown parameter: key_value_store_name"),
        ("use api-version 2025", "use api-version 2025"),
    ],
)
def test_keys_are_taken_out_and_names_are_left(said, passed_on):
    assert refusal(400, {"error": {"message": said}}).message == f"acme: {passed_on}"


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_of_an_upstream_is_too_strange(status, body):
    error = refusal(status, body)
    assert isinstance(error, PenstockError)
    assert 400 <= error.status <= 599
    for dialect in Dialect:
        assert json.loads(problems.render(error, dialect)[2])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "param", "detail", "loc"]), inner
        )
    ),
)


@given(st.sampled_from([400, 401, 429, 500]), json_values)
def test_no_json_of_an_upstream_is_too_strange(status, value):
    assert isinstance(refusal(status, value), PenstockError)
    assert isinstance(problems.error_in_event(json.dumps(value).encode()), PenstockError | None)


@pytest.mark.parametrize(
    ("endpoint", "event", "kind", "status"),
    [
        (
            Endpoint.CHAT,
            {"error": {"message": "m", "type": "server_error", "code": None}},
            UpstreamFailed,
            502,
        ),
        (Endpoint.CHAT, {"error": {"message": "m", "code": 429}}, UpstreamFailed, 429),
        (Endpoint.CHAT, {"error": "m"}, UpstreamFailed, 502),
        (Endpoint.CHAT, {"object": "error", "message": "m", "type": "BadRequestError"}, UpstreamRefused, 400),
        (
            Endpoint.MESSAGES,
            {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
            UpstreamFailed,
            503,
        ),
        (
            Endpoint.MESSAGES,
            {"type": "error", "error": {"type": "authentication_error"}},
            UpstreamFailed,
            502,
        ),
        (
            Endpoint.RESPONSES,
            {"type": "error", "code": "rate_limit_exceeded", "message": "m"},
            UpstreamFailed,
            429,
        ),
    ],
)
def test_errors_inside_streams_are_seen(endpoint, event, kind, status):
    error = problems.error_in_event(json.dumps(event).encode(), "acme")
    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"error"}}]}',
        b'{"error":null,"choices":[]}',
        b'{"type":"content_block_delta","delta":{"text":"error"}}',
        b"[DONE]",
        b"error",
        b'"error"',
    ],
)
def test_other_events_are_no_errors(data):
    assert problems.error_in_event(data) is None


@pytest.mark.parametrize("dialect", list(Dialect))
def test_who_goes_away_says_so_in_the_head(dialect):
    going = errors.Draining("Going.", retry_after=1.0)
    assert (b"penstock-status", b"draining") in problems.render(going, dialect)[1]
    full = errors.Overloaded("Full.", retry_after=1.0)
    assert b"penstock-status" not in dict(problems.render(full, dialect)[1])


@pytest.mark.parametrize("depth", [3, 300, 3_000])
@pytest.mark.parametrize("around", [b'{"message":', b'[{"loc":["a"],"msg":'], ids=["objects", "lists"])
def test_words_that_lie_too_deep_are_not_looked_for(depth, around):
    closing = b"}]" if around.startswith(b"[") else b"}"
    body = b'{"error":{"message":' + around * depth + b'"bad"' + closing * depth + b"}}"
    answered = problems.from_upstream("up", 400, {}, body)
    told = problems.error_in_event(body, "up")
    assert ("bad" in answered.message) is (depth == 3)
    if told is None:
        assert depth == 3_000, "where Python 3.11 reads no further, it is no JSON"
    else:
        assert ("bad" in told.message) is (depth == 3)
