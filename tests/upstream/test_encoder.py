"""How a call goes out to an HTTP upstream: path, header fields, whose key, and which body."""

import json

import pytest
from calling import a_call, generation_of, upstream

from penstock.config.model import CapabilitiesConfig, TimeoutConfig
from penstock.config.secret import Secret
from penstock.errors import Untranslatable
from penstock.messages import Endpoint


def sent(an_upstream, call, model="theirs"):
    """Request line, header fields as a list, and the JSON of the body."""
    transfer = an_upstream.transfer(call, generation_of(call), TimeoutConfig())
    head, body = an_upstream.encoder.encode(call, transfer, model)
    line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    pairs = [tuple(field.split(b": ", 1)) for field in fields]
    assert len({name for name, _ in pairs}) == len(pairs), "a field stands there twice"
    return line, dict(pairs), json.loads(body), body


# ---- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "base_url", "endpoint", "path"),
    [
        ("openai", "http://h/v1", Endpoint.CHAT, "/v1/chat/completions"),
        ("openai", "http://h/v1/", Endpoint.CHAT, "/v1/chat/completions"),
        ("openai", "http://h", Endpoint.CHAT, "/chat/completions"),
        ("openai", "http://h/api/v3", Endpoint.EMBEDDINGS, "/api/v3/embeddings"),
        ("openai", "http://h/v1", Endpoint.COMPLETIONS, "/v1/completions"),
        ("openai", "http://h/v1", Endpoint.MESSAGES, "/v1/chat/completions"),
        ("openai", "http://h/v1", Endpoint.RESPONSES, "/v1/chat/completions"),
        ("anthropic", "http://h", Endpoint.MESSAGES, "/v1/messages"),
        ("anthropic", "http://h/", Endpoint.MESSAGES, "/v1/messages"),
        ("anthropic", "http://h/v1", Endpoint.MESSAGES, "/v1/messages"),
        ("anthropic", "http://h/anthropic", Endpoint.MESSAGES, "/anthropic/v1/messages"),
        ("anthropic", "http://h", Endpoint.COUNT_TOKENS, "/v1/messages/count_tokens"),
        ("anthropic", "http://h", Endpoint.INPUT_TOKENS, "/v1/messages/count_tokens"),
        ("anthropic", "http://h", Endpoint.CHAT, "/v1/messages"),
        ("sim", "http://h", Endpoint.CHAT, "/v1/chat/completions"),
        ("sim", "http://h/v1", Endpoint.MESSAGES, "/v1/messages"),
    ],
)
def test_the_path_is_the_one_that_the_providers_sdk_would_ask(kind, base_url, endpoint, path):
    line, *_ = sent(upstream(kind, base_url), a_call(endpoint))
    assert line == f"POST {path} HTTP/1.1".encode()


def test_an_upstream_that_has_responses_is_asked_for_them():
    line, _, body, _ = sent(upstream(responses=True), a_call(Endpoint.RESPONSES))
    assert line == b"POST /v1/responses HTTP/1.1"
    assert body == {"model": "theirs", "input": "hi"}


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS])
def test_what_the_upstream_has_nothing_like_is_refused(endpoint):
    with pytest.raises(Untranslatable):
        sent(upstream("anthropic", "http://h"), a_call(endpoint))


LEFT_OUT = ["seed", "presence_penalty", "user"]


@pytest.mark.parametrize(
    ("kind", "endpoint"),
    [("openai", Endpoint.CHAT), ("anthropic", Endpoint.CHAT), ("openai", Endpoint.COMPLETIONS)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_upstream_is_not_told_is_left_out_instead_of_refused(kind, endpoint, stream):
    asked = upstream(kind, "http://h", leave_out=LEFT_OUT)
    call = a_call(endpoint, seed=1, presence_penalty=0.5, user="me", temperature=0.25, stream=stream)
    *_, body, _ = sent(asked, call)
    assert body["temperature"] == 0.25
    assert body.keys().isdisjoint({*LEFT_OUT, "metadata"})
    assert b'"seed":1' in call.body  # the call itself is what its caller has asked
    assert "seed" in call.fields


def test_where_nothing_is_to_be_left_out_a_call_goes_byte_for_byte():
    call = a_call(temperature=0.25)
    *_, told = sent(upstream(leave_out=LEFT_OUT), call, "m")
    assert told == call.body


def test_only_attempts_that_ask_the_same_have_one_name_though_another_process_counts_anew():
    keeps = upstream(capabilities=CapabilitiesConfig(generations=True))

    def name(model):
        return sent(keeps, a_call(stream=True), model)[1][b"idempotency-key"]

    assert name("x") == name("x") != name("y")


# ---- header fields --------------------------------------------------------------------------------


def test_the_head_says_what_http_wants_and_no_more():
    _, fields, _, raw = sent(upstream(), a_call(headers={b"cookie": b"c", b"x-forwarded-for": b"1.2.3.4"}))
    assert set(fields) == {b"host", b"user-agent", b"content-type", b"accept-encoding", b"content-length"}
    assert fields[b"host"] == b"up.test:81"
    assert fields[b"accept-encoding"] == b"identity"
    assert int(fields[b"content-length"]) == len(raw)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("openai", b"openai-beta"), ("anthropic", b"anthropic-beta"), ("sim", b"x-sim-scenario")],
)
def test_what_changes_the_answer_is_passed_on(kind, name):
    endpoint = Endpoint.MESSAGES if kind == "anthropic" else Endpoint.CHAT
    _, fields, *_ = sent(upstream(kind, "http://h"), a_call(endpoint, {name: b"a, b"}))
    assert fields[name] == b"a, b"


@pytest.mark.parametrize("given", [None, b"2024-01-01"])
def test_anthropic_is_told_the_version_that_the_caller_names_or_the_usual_one(given):
    headers = {b"anthropic-version": given} if given else {}
    _, fields, *_ = sent(upstream("anthropic", "http://h"), a_call(Endpoint.MESSAGES, headers))
    assert fields[b"anthropic-version"] == (given or b"2023-06-01")
    _, fields, *_ = sent(upstream(), a_call(Endpoint.CHAT, {b"anthropic-version": b"x"}))
    assert b"anthropic-version" not in fields


def test_configured_fields_are_sent_with_every_call():
    _, fields, *_ = sent(upstream(headers={"OpenAI-Organization": "org-1"}), a_call())
    assert fields[b"OpenAI-Organization"] == b"org-1"


# ---- keys -----------------------------------------------------------------------------------------

CALLERS = {b"authorization": b"Bearer callers", b"x-api-key": b"callers"}


def keys(fields):
    return {name: value for name, value in fields.items() if name.lower() in {b"authorization", b"x-api-key"}}


@pytest.mark.parametrize("open_gateway", [True, False])
def test_our_own_key_is_sent_as_the_provider_wants_it_and_never_the_callers(open_gateway):
    ours = {"api_key": Secret("ours"), "open_gateway": open_gateway}
    _, fields, *_ = sent(upstream(**ours), a_call(headers=CALLERS))
    assert keys(fields) == {b"authorization": b"Bearer ours"}
    _, fields, *_ = sent(upstream("anthropic", "http://h", **ours), a_call(Endpoint.MESSAGES, CALLERS))
    assert keys(fields) == {b"x-api-key": b"ours"}


@pytest.mark.parametrize("kind", ["openai", "anthropic", "sim"])
def test_a_gateway_with_keys_of_its_own_shows_them_to_no_upstream(kind):
    _, fields, *_ = sent(upstream(kind, "http://h"), a_call(Endpoint.MESSAGES, CALLERS))
    assert keys(fields) == {}


@pytest.mark.parametrize(
    ("kind", "endpoint", "given", "passed_on"),
    [
        ("openai", Endpoint.CHAT, {b"authorization": b"Bearer k"}, {b"authorization": b"Bearer k"}),
        ("openai", Endpoint.CHAT, {b"x-api-key": b"k"}, {b"authorization": b"Bearer k"}),
        ("openai", Endpoint.MESSAGES, {b"x-api-key": b"k"}, {b"authorization": b"Bearer k"}),
        ("anthropic", Endpoint.MESSAGES, {b"x-api-key": b"k"}, {b"x-api-key": b"k"}),
        ("anthropic", Endpoint.MESSAGES, {b"authorization": b"Bearer k"}, {b"authorization": b"Bearer k"}),
        ("anthropic", Endpoint.CHAT, {b"authorization": b"Bearer k"}, {b"x-api-key": b"k"}),
        ("openai", Endpoint.CHAT, {}, {}),
        ("openai", Endpoint.CHAT, {b"authorization": b"Basic k"}, {}),
    ],
)
def test_an_open_gateway_passes_the_callers_key_on(kind, endpoint, given, passed_on):
    base_url = "http://h/v1" if kind == "openai" else "http://h"
    an_upstream = upstream(kind, base_url, open_gateway=True)
    call = a_call(endpoint, given)
    _, fields, *_ = sent(an_upstream, call)
    assert keys(fields) == passed_on
    transfer = an_upstream.transfer(call, generation_of(call), TimeoutConfig())
    assert transfer.job.callers_key is bool(passed_on)


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "API-Key"])
def test_a_key_among_the_configured_fields_is_the_only_one(name):
    an_upstream = upstream(open_gateway=True, headers={name: "ours"})
    _, fields, *_ = sent(an_upstream, a_call(headers=CALLERS))
    assert b"callers" not in b"".join(fields.values())
    assert fields[name.encode()] == b"ours"


ACCOUNT = {b"openai-organization": b"org-1", b"openai-project": b"proj-1"}


@pytest.mark.parametrize(
    ("kind", "endpoint", "more", "passed_on"),
    [
        ("openai", Endpoint.CHAT, {"open_gateway": True}, ACCOUNT),
        ("openai", Endpoint.CHAT, {"open_gateway": True, "api_key": Secret("ours")}, {}),
        ("openai", Endpoint.CHAT, {}, {}),  # the gateway has keys of its own
        ("anthropic", Endpoint.CHAT, {"open_gateway": True}, {}),
        (
            "openai",
            Endpoint.CHAT,
            {"open_gateway": True, "headers": {"OpenAI-Project": "ours"}},
            {b"openai-organization": b"org-1", b"OpenAI-Project": b"ours"},
        ),
    ],
)
def test_the_account_that_a_callers_own_key_is_used_for_goes_on_with_it(kind, endpoint, more, passed_on):
    an_upstream = upstream(kind, "http://h/v1" if kind == "openai" else "http://h", **more)
    _, fields, *_ = sent(an_upstream, a_call(endpoint, {b"authorization": b"Bearer k", **ACCOUNT}))
    assert {name: value for name, value in fields.items() if name.lower() in ACCOUNT} == passed_on


# ---- bodies ---------------------------------------------------------------------------------------


def test_the_model_is_renamed_and_every_other_byte_is_the_callers():
    call = a_call(temperature=0.5, messages=[{"role": "user", "content": "\u00e9 \\ /"}])
    *_, raw = sent(upstream(), call)
    assert raw == call.body.replace(b'"m"', b'"theirs"', 1)


@pytest.mark.parametrize(
    ("more", "given", "options"),
    [
        ({}, {}, {"include_usage": True}),
        ({}, {"stream_options": None}, {"include_usage": True}),
        ({}, {"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({}, {"stream_options": {"x": 1}}, {"x": 1, "include_usage": True}),
        ({"running_usage": True}, {}, {"include_usage": True, "continuous_usage_stats": True}),
        ({"kind": "sim"}, {}, {"include_usage": True, "continuous_usage_stats": True}),
    ],
)
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_a_stream_is_asked_to_tell_its_usage(endpoint, more, given, options):
    *_, body, _ = sent(upstream(**more), a_call(endpoint, stream=True, **given))
    assert body["stream_options"] == options


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES])
def test_nobody_else_is_asked_for_it(endpoint):
    *_, body, _ = sent(upstream("sim", "http://h"), a_call(endpoint, stream=endpoint is not Endpoint.CHAT))
    assert "stream_options" not in body


def test_another_dialect_is_translated():
    line, _, body, _ = sent(upstream("anthropic", "http://h"), a_call(Endpoint.CHAT, max_tokens=7))
    assert line == b"POST /v1/messages HTTP/1.1"
    assert (body["model"], body["max_tokens"]) == ("theirs", 7)


# ---- the rest of an answer that broke --------------------------------------------------------------


def test_an_answer_that_may_call_custom_tools_is_not_gone_on_with_by_who_knows_functions_alone():
    tools = [{"type": "custom", "custom": {"name": "run"}}]
    for kind in ("anthropic", "openai"):
        asked = upstream(kind, "http://h").encoder
        assert asked.endpoint_for_more(a_call()) is not None
        with_tools = asked.endpoint_for_more(a_call(tools=tools))
        assert (with_tools is None) is (kind == "anthropic")
