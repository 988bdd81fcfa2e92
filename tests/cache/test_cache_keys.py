import json
import random
from typing import TypedDict

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from cached_calls import a_call
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params, embedding_create_params, moderation_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import input_token_count_params, response_compact_params, response_create_params

from crafted import CRAFTED
from penstock.cache import keys
from penstock.messages import Endpoint, Tenant
from penstock.upstream import fields
from penstock.wire import request

REQUIRED = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.EMBEDDINGS: {"input": "hi"},
    Endpoint.RESPONSES: {"input": "hi"},
    Endpoint.MESSAGES: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    Endpoint.INPUT_TOKENS: {"input": "hi"},
    Endpoint.COMPACT: {"input": "hi"},
    Endpoint.COUNT_TOKENS: {"messages": [{"role": "user", "content": "hi"}]},
    **{endpoint: {"input": "hi"} for endpoint in Endpoint if endpoint.opaque},
}


class Rerank(TypedDict, total=False):
    """What providers take there; no SDK of ours has it."""

    model: str
    query: str
    documents: list
    top_n: int
    return_documents: bool
    rank_fields: list
    max_chunks_per_doc: int
    max_tokens_per_doc: int


SCHEMAS = {
    Endpoint.CHAT: [chat_create_params.CompletionCreateParamsNonStreaming],
    Endpoint.COMPLETIONS: [completion_create_params.CompletionCreateParamsNonStreaming],
    Endpoint.EMBEDDINGS: [embedding_create_params.EmbeddingCreateParams],
    Endpoint.RESPONSES: [response_create_params.ResponseCreateParamsNonStreaming],
    Endpoint.MESSAGES: [
        message_create_params.MessageCreateParamsNonStreaming,
        beta_message_create_params.MessageCreateParamsNonStreaming,
    ],
    Endpoint.INPUT_TOKENS: [input_token_count_params.InputTokenCountParams],
    Endpoint.COMPACT: [response_compact_params.ResponseCompactParams],
    Endpoint.COUNT_TOKENS: [message_count_tokens_params.MessageCountTokensParams],
    Endpoint.MODERATIONS: [moderation_create_params.ModerationCreateParams],
    Endpoint.RERANK: [Rerank],
}
FIELDS = [
    (endpoint, name)
    for endpoint, schemas in SCHEMAS.items()
    for name in sorted(
        {name for schema in schemas for name in schema.__required_keys__ | schema.__optional_keys__}
    )
]
# Members that may differ without another answer, written out: a list of the product's own would agree with itself.
FORM = {"stream", "stream_options"}  # one entry serves both forms
BLAME = {"user", "safety_identifier"}  # whom the provider turns to in a case of abuse
NOTES = {"metadata"}  # for the provider's dashboard, or its own word for whom to blame
PRICE = {"prompt_cache_key", "prompt_cache_retention"}  # what the prompt costs
WITHOUT_EFFECT = {
    Endpoint.CHAT: FORM | BLAME | NOTES | PRICE,
    Endpoint.COMPLETIONS: FORM | {"user"},
    Endpoint.EMBEDDINGS: {"user"},
    Endpoint.RESPONSES: FORM,  # its answer repeats all the others
    Endpoint.MESSAGES: {"stream"} | NOTES,
    Endpoint.INPUT_TOKENS: set(),  # what is counted could be any of them
    Endpoint.COMPACT: set(),
    Endpoint.COUNT_TOKENS: set(),
    # Relayed as bytes: the form is the upstream's, so what asks for one counts.
    Endpoint.MODERATIONS: {"user"},
    Endpoint.RERANK: {"user"},
    Endpoint.IMAGES_GENERATIONS: {"user"},
    Endpoint.IMAGES_EDITS: {"user"},
    Endpoint.IMAGES_VARIATIONS: {"user"},
    Endpoint.SPEECH: {"user"},
    Endpoint.TRANSCRIPTIONS: {"user"},
    Endpoint.TRANSLATIONS: {"user"},
}
# Values of the types that members have; those that the gateway reads itself must be right.
TYPED = {
    "model": ["m", "n"],
    "stream": [False, True],
    "background": [False, True],
    "stream_options": [None, {}, {"include_usage": True}],
    "messages": [[], [{"role": "user", "content": "hi"}], [{"role": "user", "content": "ho"}]],
    "max_tokens": [1, 2, 3],
    "max_completion_tokens": [1, 2, 3],
    "max_output_tokens": [1, 2, 3],
}
ANY = ["", "a", "b", 0, 1, 1.5, True, False, {}, {"a": 1}, {"a": 2}, [], [1], [{"type": "function"}]]


def key(endpoint, body, *, headers=(), version="v1", scope="tenant:a", secret=keys.PUBLIC_SECRET):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = a_call(endpoint, data, headers=headers)
    return keys.key(call, model_version=version, scope=scope, secret=secret)


def chat(body, **more):
    return key(Endpoint.CHAT, body, **more)


# ---- everything is in it ----


def test_the_schemas_are_those_of_the_sdks():
    assert len(FIELDS) > 130
    assert (Endpoint.CHAT, "temperature") in FIELDS
    assert (Endpoint.MESSAGES, "system") in FIELDS
    assert (Endpoint.MODERATIONS, "input") in FIELDS


@pytest.mark.parametrize(("endpoint", "name"), FIELDS, ids=lambda value: getattr(value, "label", value))
def test_any_value_of_any_field_makes_a_key_of_its_own(endpoint, name):
    base = {"model": "m", **REQUIRED[endpoint]}
    values = TYPED.get(name, ANY)
    found = [key(endpoint, {**base, name: value}) for value in values]
    if name not in base:
        found.append(key(endpoint, base))
    if name in WITHOUT_EFFECT[endpoint]:
        assert len(set(found)) == 1
    else:
        assert len(set(found)) == len(found)


LEFT_OUT = {
    Endpoint.CHAT: (
        *("stream", "stream_options", "user", "safety_identifier", "metadata"),
        *("prompt_cache_key", "prompt_cache_retention"),
    ),
    Endpoint.COMPLETIONS: ("stream", "stream_options", "user"),
    Endpoint.EMBEDDINGS: ("user",),
    Endpoint.RESPONSES: ("stream", "stream_options"),
    Endpoint.MESSAGES: ("stream", "metadata"),
    Endpoint.INPUT_TOKENS: (),
    Endpoint.COMPACT: (),
    Endpoint.COUNT_TOKENS: (),
}


@pytest.mark.parametrize("endpoint", Endpoint)
def test_what_is_not_in_a_key_is_named_here_too(endpoint):
    """Whoever adds a member there thinks of it twice; who loses one loses hits."""
    assert keys.UNTELLING[endpoint] == set(LEFT_OUT.get(endpoint, ("user",)))


@pytest.mark.parametrize("endpoint", Endpoint)
def test_only_what_has_no_effect_is_left_out(endpoint):
    """Also what no schema has."""
    assert keys.UNTELLING[endpoint] == WITHOUT_EFFECT[endpoint]


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_field_that_nobody_knows_yet_is_in_the_key(endpoint):
    base = {"model": "m", **REQUIRED[endpoint]}
    found = [key(endpoint, base), *(key(endpoint, {**base, "newer_than_us": value}) for value in ANY)]
    assert len(set(found)) == len(found)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODIES = st.dictionaries(
    st.sampled_from(["a", "b", "tools", "user\0", ""]) | st.text(max_size=3).map(str.casefold), VALUES
)


@given(BODIES, BODIES)
def test_two_bodies_have_one_key_only_if_they_say_the_same(one, other):
    base = {"model": "m", **REQUIRED[Endpoint.CHAT]}
    reserved = {*base, "stream", "stream_options", "max_tokens", "max_completion_tokens"}
    one, other = ({k: v for k, v in body.items() if k not in reserved} for body in (one, other))
    telling = [
        {k: v for k, v in body.items() if k not in WITHOUT_EFFECT[Endpoint.CHAT]} for body in (one, other)
    ]
    same = json.dumps(telling[0], sort_keys=True) == json.dumps(telling[1], sort_keys=True)
    if chat({**base, **one}) == chat({**base, **other}):
        assert same
    elif same:  # only nested order may make a miss
        assert json.dumps(telling[0]) != json.dumps(telling[1])


@given(st.data())
def test_a_change_anywhere_deep_inside_makes_another_key(data):
    value = data.draw(VALUES)
    other = data.draw(VALUES.filter(lambda it: json.dumps(it) != json.dumps(value)))
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "x": {"y": value}}]}]}
    changed = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "x": {"y": other}}]}]}
    assert chat(body) != chat(changed)


def test_endpoint_model_version_scope_and_secret_are_in_it():
    body = {"model": "m", "messages": [], "prompt": "", "input": "", "max_tokens": 1}
    found = [key(endpoint, body) for endpoint in Endpoint]
    found += [chat(body, version="v2"), chat(body, scope="tenant:b"), chat(body, scope="shared")]
    found += [chat(body, secret=bytes(32))]
    assert len(set(found)) == len(found)
    assert all(len(name) == 32 for name in found)


def test_where_one_part_ends_and_the_next_begins_is_in_it():
    body = {"model": "m", "messages": []}
    assert chat(body, scope="ab", version="c") != chat(body, scope="a", version="bc")
    with_header = chat(body, headers=[(b"openai-beta", b"x")])
    assert with_header != chat(body, headers=[(b"anthropic-beta", b"x")])


@pytest.mark.parametrize("name", keys.TELLING_HEADERS)
def test_header_fields_that_change_the_answer_are_in_it(name):
    body = {"model": "m", "messages": []}
    found = [chat(body), chat(body, headers=[(name, b"1")]), chat(body, headers=[(name, b"2")])]
    assert len(set(found)) == 3


def test_every_header_field_that_goes_upstream_is_in_it():
    forwarded = {name for names in fields._FORWARDED.values() for name in names} | {b"anthropic-version"}
    assert forwarded <= set(keys.TELLING_HEADERS)


def test_header_fields_that_stay_here_are_not():
    body = {"model": "m", "messages": []}
    assert chat(body) == chat(body, headers=[(b"user-agent", b"x"), (b"idempotency-key", b"y")])


# ---- the same question, written otherwise ----


def test_the_order_and_spacing_of_members_do_not_matter():
    assert chat(b'{"model":"m","messages":[],"n":1}') == chat(
        b' { "n" : 1 , "messages": [] ,"model" : "m"}\n'
    )


def test_an_escaped_name_is_the_same_name():
    assert chat(b'{"model":"m","messages":[],"n":1}') == chat(rb'{"model":"m","messages":[],"\u006e":1}')


# ---- crafted bodies: what could be taken for one another ----


@pytest.mark.parametrize("bodies", CRAFTED.values(), ids=CRAFTED)
def test_crafted_bodies_are_not_taken_for_one_another(bodies):
    found = [chat(body) for body in bodies]
    assert len(set(found)) == len(found)


def test_the_repeated_member_that_counts_is_the_one_that_is_sent():
    doubled = a_call(body=b'{"model":"m","messages":[],"n":1,"n":2}')
    assert chat(doubled.body) == chat(b'{"model":"m","messages":[],"n":2}')
    assert request.rewritten(doubled.fields, "m") == b'{"model":"m","messages":[],"n":2}'


def test_no_answer_crosses_from_one_tenant_to_another_in_100_000_calls():
    """Few questions and many tenants, so that the same question is asked by many."""
    rand = random.Random(7)
    owner = {}
    questions = [
        a_call(body=b'{"model":"m","messages":[{"role":"user","content":"%d"}]}' % number)
        for number in range(50)
    ]
    tenants = [
        Tenant(name=name) for name in ("a", "b", "ab", "a:b", "shared", "tenant:a", "", "A", "a\0", "ä")
    ]
    for _ in range(100_000):
        call = rand.choice(questions)
        call.tenant = rand.choice(tenants)
        found = keys.key(call, model_version="v", scope=keys.scope_of(call))
        assert owner.setdefault(found, call.tenant.name) == call.tenant.name
    assert len(owner) == len(questions) * len(tenants)


# ---- who shares ----


def test_answers_are_a_tenants_own_unless_shared():
    a, b = (a_call(tenant=Tenant(name=name)) for name in ("a", "b"))
    assert keys.scope_of(a) != keys.scope_of(b)
    assert keys.scope_of(a, shared=True) == keys.scope_of(b, shared=True)
    assert keys.scope_of(a_call(tenant=Tenant(name="shared"))) != keys.scope_of(a, shared=True)


@pytest.mark.parametrize("shared", [False, True])
def test_where_the_provider_tells_callers_apart_each_key_has_its_own_answers(shared):
    headers = [{}, {b"authorization": b"Bearer 1"}, {b"authorization": b"Bearer 2"}, {b"x-api-key": b"3"}]
    scopes = [keys.scope_of(a_call(headers=each), shared=shared, open_to_all=True) for each in headers]
    assert len(set(scopes)) == 4


def test_a_scope_does_not_tell_the_callers_key():
    scope = keys.scope_of(a_call(headers={b"authorization": b"Bearer sk-secret"}), open_to_all=True)
    assert "sk-secret" not in scope


# ---- which calls have one answer ----


@pytest.mark.parametrize(
    ("member", "deterministic"),
    [
        (b'"temperature":0', True),
        (b'"temperature":0.0', True),
        (b'"temperature":-0', True),
        (b'"temperature":0e5', True),
        (b'"seed":1', True),
        (b'"seed":0', True),
        (b'"temperature":1,"seed":7', True),
        (b'"temperature":0.1', False),
        (b'"temperature":"0"', False),
        (b'"temperature":false', False),
        (b'"temperature":null', False),
        (b'"seed":null', False),
        (b'"seed":"1"', False),
        (b'"temperature":0,"temperature":1', False),
        (b'"top_p":0', False),
    ],
)
def test_temperature_0_or_a_seed_asks_for_one_answer(member, deterministic):
    assert keys.is_deterministic(a_call(body=b'{"model":"m","messages":[],%b}' % member)) is deterministic


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint.EMBEDDINGS,
        Endpoint.COUNT_TOKENS,
        Endpoint.INPUT_TOKENS,
        Endpoint.MODERATIONS,
        Endpoint.RERANK,
    ],
)
def test_what_has_only_one_answer(endpoint):
    body = json.dumps({"model": "m", **REQUIRED[endpoint]}).encode()
    assert keys.is_deterministic(a_call(endpoint, body))


def test_what_is_compacted_is_written_anew_each_time():
    body = json.dumps({"model": "m", **REQUIRED[Endpoint.COMPACT]}).encode()
    assert not keys.is_deterministic(a_call(Endpoint.COMPACT, body))


@pytest.mark.parametrize("endpoint", [Endpoint.IMAGES_GENERATIONS, Endpoint.SPEECH, Endpoint.TRANSCRIPTIONS])
def test_what_is_drawn_or_spoken_has_another_answer_each_time(endpoint):
    body = json.dumps({"model": "m", "input": "hi", "temperature": 0}).encode()
    assert not keys.is_deterministic(a_call(endpoint, body))


@pytest.mark.parametrize(
    ("member", "effects"),
    [
        (b'"n":1', False),
        (b'"tools":[{"type":"function","function":{"name":"f"}}]', False),
        (b'"tools":[{"name":"f","input_schema":{}}]', False),
        (b'"tools":[]', False),
        (b'"tools":null', False),
        (b'"store":false', False),
        (b'"conversation":null', False),
        (b'"store":true', True),
        (b'"background":true', True),
        (b'"conversation":"conv_1"', True),
        (b'"container":"c"', True),
        (b'"web_search_options":{}', True),
        (b'"mcp_servers":[{}]', True),
        (b'"mcp_servers":[]', False),
        (b'"tools":[{"type":"function"},{"type":"web_search"}]', True),
        (b'"tools":[{"type":"code_execution_20250522","name":"x"}]', True),
        (b'"tools":{"type":"function"}', True),
        (b'"tools":["x"]', True),
    ],
)
def test_calls_that_do_more_than_ask_are_told_apart(member, effects):
    assert keys.has_effects(a_call(body=b'{"model":"m","messages":[],%b}' % member)) is effects


def test_a_call_that_adds_to_a_conversation_has_an_effect():
    call = a_call(Endpoint.RESPONSES, b'{"model":"m","input":"hi"}')
    assert not keys.has_effects(call)
    call.asked = a_call(Endpoint.RESPONSES, b'{"model":"m","input":"hi","conversation":"conv_1"}')
    assert keys.has_effects(call)
