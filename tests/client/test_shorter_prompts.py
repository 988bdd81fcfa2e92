"""Prompts that the client shortens, through the SDKs and a gateway: what is sent, told, and in the books."""

from __future__ import annotations

import asyncio
import contextlib
import json

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.client import _prompts
from penstock.client._calls import Calls
from penstock.client._prompts import read_rules, shortened, stated
from penstock.client.options import Options
from penstock.errors import ConfigError
from penstock.ledger.report import attempts_of, summarize
from penstock.messages import Endpoint
from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.wire.prompt_left import Left

RULES = {"whitespace": True, "duplicates": True, "history_tokens": 500}
DOCUMENT = "All about the gated pipe that feeds a turbine, and loses nothing of it. " * 5
HEADER = "penstock-prompt-changed"


def turns(*texts):
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


HISTORY = turns(
    *("long ago   it was said " + "so " * 200 for _ in range(8)), f"{DOCUMENT}\n\nWhat    is that?"
)
TWICE = turns(f"{DOCUMENT}\n\nWhat is it?", "A pipe.", f"{DOCUMENT}\n\nAnd   who made it?")
SAID = {"history": HISTORY, "twice": TWICE}


def body(messages, model="sim"):
    return json.dumps({"model": model, "messages": messages}, separators=(",", ":")).encode()


def less(messages, rules=RULES, headers=None):
    """The turns that are left, and what the header says."""
    found = shortened(read_rules({"*": rules}), Endpoint.CHAT, headers or {}, body(messages))
    assert found is not None
    return json.loads(found[0])["messages"], found[1]


def tokens(messages):
    """As the simulator counts."""
    return -(-sum(len(turn["content"].encode()) for turn in messages) // 4)


def test_an_image_is_no_text_to_the_client_either():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    said = [*turns("Who?", "I."), {"role": "user", "content": [image]}]
    assert shortened(read_rules({"*": {"history_tokens": 2_000}}), Endpoint.CHAT, {}, body(said)) is None


@pytest.fixture(scope="module")
def provider():
    with SimulatorProcess() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(provider, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    prices = folder / "prices.toml"
    prices.write_text(
        'version = "of a test"\n[[price]]\nupstream = "sim"\nmodels = ["*"]\n'
        "input = 10\ncached_input = 1\ncache_write = 12\noutput = 20\n"
    )
    to_sim = {"candidates": [{"upstream": "sim"}], "join": "never"}
    to_sim_by = lambda name: {**to_sim, "candidates": [{"upstream": "sim", "model": name}]}  # noqa: E731
    settings = {
        "upstreams": {"sim": {"kind": "sim", "base_url": provider.base_url}},
        "models": {
            "*": to_sim,
            "both": {**to_sim_by("sim"), "prompt": RULES},
            "stricter": {**to_sim_by("sim"), "prompt": {"history_tokens": 300}},
            "kept": {**to_sim_by("sim:cached=64"), "prompt_cache": {"min_tokens": 100}},
        },
        "ledger": {"path": str(folder / "ledger.sqlite")},
        "prices": str(prices),
    }
    with GatewayProcess(settings, folder) as running:
        running.ledger = folder / "ledger.sqlite"
        yield running


def flushed(gateway, generation):
    """The rows of an answer, once they are in the file."""
    for _ in range(500):
        with contextlib.suppress(ConfigError):  # the file is made with the first rows
            rows = attempts_of(gateway.ledger, generation)
            if rows and all(row.outcome != "reserved" for row in rows):
                return rows
        asyncio.run(asyncio.sleep(0.02))
    raise AssertionError("no row")


def ask_openai(gateway, messages, *, model="sim", stream=False, prompts=None, library="httpx2"):
    """The answer's headers."""
    with penstock.http_client(trust_env=False, prompts=prompts or {}, library=library) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        raw = client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=4, stream=stream
        )
        if stream:
            assert "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
        return raw.headers


# ---- through the SDKs and a gateway ----------------------------------------------------------------


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", SAID)
def test_the_simulator_counts_what_the_header_and_the_ledger_say(gateway, provider, said, stream, library):
    messages = SAID[said]
    kept, _ = less(messages)
    provider.reset_bill()
    headers = ask_openai(gateway, messages, stream=stream, prompts={"si*": RULES}, library=library)
    before, after = tokens(messages), tokens(kept)
    assert headers[HEADER].endswith(f"tokens;before={before};after={after}")
    assert provider.bill()["input_tokens"] == after
    (row,) = flushed(gateway, headers["penstock-generation"])
    assert (row.input_tokens, row.left_out_tokens) == (after, before - after)


def test_without_rules_a_prompt_goes_as_it_is(gateway, provider):
    for prompts in (None, {"other-*": RULES}, {"*": {}}):
        provider.reset_bill()
        headers = ask_openai(gateway, HISTORY, prompts=prompts)
        assert HEADER not in headers
        assert provider.bill()["input_tokens"] == tokens(HISTORY)
        (row,) = flushed(gateway, headers["penstock-generation"])
        assert row.left_out_tokens == 0


@pytest.mark.parametrize("said", SAID)
def test_where_both_sides_shorten_by_the_same_rules_it_is_done_once(gateway, said):
    ways = ({}, {"both": RULES})
    told = [ask_openai(gateway, SAID[said], model="both", prompts=prompts) for prompts in ways]
    assert told[0][HEADER] == told[1][HEADER]
    rows = [flushed(gateway, headers["penstock-generation"])[0] for headers in told]
    assert rows[0].left_out_tokens == rows[1].left_out_tokens > 0
    assert rows[0].input_tokens == rows[1].input_tokens


def test_where_the_gateway_leaves_out_more_both_are_told_of_together(gateway):
    rules = {"stricter": {"whitespace": True, "history_tokens": 700}}
    headers = ask_openai(gateway, HISTORY, model="stricter", prompts=rules)
    (row,) = flushed(gateway, headers["penstock-generation"])
    kept, _ = less(HISTORY, {"whitespace": True, "history_tokens": 300})
    before, after = tokens(HISTORY), tokens(kept)
    assert headers[HEADER].startswith("whitespace;bytes=")
    assert headers[HEADER].endswith(f"tokens;before={before};after={after}")
    assert "history;count=8;" in headers[HEADER]
    assert (row.input_tokens, row.left_out_tokens) == (after, before - after)


def test_anthropics_sdk_and_its_asynchronous_one(gateway):
    kept, _ = less(HISTORY)

    async def ask():
        async with penstock.async_http_client(trust_env=False, prompts={"*": RULES}) as http:
            client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", http_client=http)
            raw = await client.messages.with_raw_response.create(
                model="sim", max_tokens=4, messages=HISTORY, system="Be brief."
            )
            return raw.headers, await raw.parse()

    with penstock.http_client(trust_env=False, prompts={"*": RULES}) as http:
        client = anthropic.Anthropic(base_url=gateway.url, api_key="any", http_client=http)
        one = client.messages.with_raw_response.create(
            model="sim", max_tokens=4, messages=HISTORY, system="Be brief."
        )
    system = [{"content": "Be brief."}]
    for headers, answer in ((one.headers, one.parse()), asyncio.run(ask())):
        assert answer.usage.input_tokens == tokens([*system, *kept])
        assert headers[HEADER].endswith(f"after={tokens([*system, *kept])}")


def test_a_response_is_shortened_too(gateway):
    with penstock.http_client(trust_env=False, prompts={"*": RULES}) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        answer = client.responses.with_raw_response.create(model="sim:tokens=4", input=HISTORY)
    kept, _ = less(HISTORY)
    assert answer.parse().usage.input_tokens == tokens(kept)
    assert answer.headers[HEADER].endswith(f"before={tokens(HISTORY)};after={tokens(kept)}")


def test_a_large_body_that_is_uploaded_says_it_too(gateway):
    messages = turns("so " * 500_000, "Yes.", "x   y " * 400_000)
    with penstock.http_client(
        trust_env=False, prompts={"*": {"history_tokens": 1, "whitespace": True}}, gateways=[gateway.url]
    ) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        raw = client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=4)
        assert http.statistics().bytes_saved > 1_500_000 + 800_000
    (row,) = flushed(gateway, raw.headers["penstock-generation"])
    assert row.left_out_tokens == tokens(messages) - row.input_tokens > 500_000


def test_questions_that_differ_in_what_is_left_out_have_one_kept_answer(gateway):
    with penstock.http_client(
        trust_env=False, prompts={"*": RULES}, cache=penstock.client.CacheOptions()
    ) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        ask = client.chat.completions.with_raw_response.create
        told = [
            ask(model="sim", messages=turns(text), max_tokens=4, temperature=0).headers
            for text in ("how are you", "how    are you")
        ]
        assert http.statistics().cached == 1
    assert [headers.get(HEADER) for headers in told] == [
        None,
        "whitespace;bytes=3, tokens;before=4;after=3",
    ]


HOSTILE = [
    "",
    "x",
    "tokens;before=1;after=2",
    "tokens;before=-5;after=-9",
    "tokens;before=99999999;after=0",
    "tokens;before=9223372036854775808;after=0",
    "tokens;before=1e9;after=0",
    "tokens;before=٣٠٠;after=٢٠٠".encode(),
    "whitespace;bytes=3,tokens;before=9;after=1",
    "tokens;before=9;after=1, tokens;before=9;after=1",
    "whitespace;bytes=9;tokens;before=9;after=1; DROP TABLE attempts",
    "history;count=1;bytes=" + "9" * 5_000 + ", tokens;before=9;after=1",
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_caller_says_that_cannot_be_is_not_believed(gateway, value):
    with penstock.http_client(trust_env=False) as http:
        answer = http.post(
            gateway.base_url + "/chat/completions", content=body(turns("hi")), headers={HEADER: value}
        )
    assert answer.status_code == 200
    (row,) = flushed(gateway, answer.headers["penstock-generation"])
    assert (row.left_out_tokens, row.input_tokens) == (0, 1)
    assert row.cost == row.input_tokens * 10**7 + row.output_tokens * 2 * 10**7


def test_what_a_caller_may_say_changes_no_money(gateway):
    with penstock.http_client(trust_env=False) as http:
        answer = http.post(
            gateway.base_url + "/chat/completions",
            content=body(turns("hi")),
            headers={HEADER: "tokens;before=10000000;after=0"},
        )
    (row,) = flushed(gateway, answer.headers["penstock-generation"])
    assert (row.left_out_tokens, row.input_tokens) == (10_000_000, 1)
    assert row.cost == row.input_tokens * 10**7 + row.output_tokens * 2 * 10**7


# ---- the books agree -------------------------------------------------------------------------------


def sample(text, name, **labels):
    """The sum of a metric's samples with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(name + "{") and all(each in line for each in wanted)
    )


def test_ledger_control_api_and_metrics_tell_the_same_to_the_token(gateway, provider):
    metrics = gateway.metrics()
    of_before = {
        "cached": sample(metrics, "penstock_prompt_cache_tokens_total", kind="cached"),
        "missed": sample(metrics, "penstock_prompt_cache_missed_usd_total"),
        "left": sample(metrics, "penstock_prompt_left_out_tokens_total"),
    }
    summary = gateway.ask("/v1/ledger/summary")["outcomes"]["completed"]
    prompt = turns("Say it. " * 100)  # 200 tokens, of which the provider's cache has 64
    provider.reset_bill()
    made = [ask_openai(gateway, prompt, model="kept") for _ in range(3)]
    shorter = ask_openai(gateway, HISTORY, model="both")
    rows = [flushed(gateway, headers["penstock-generation"])[0] for headers in (*made, shorter)]
    assert [(row.input_tokens, row.cached_input_tokens) for row in rows[:3]] == [(200, 64)] * 3
    # 64 tokens at 9 dollars a million less; what was sent again and could have been kept, likewise.
    assert [row.prompt_cache_saved for row in rows[:3]] == [64 * 9 * 10**6] * 3
    assert [row.prompt_cache_missed for row in rows[:3]] == [0, *[(200 - 64) * 9 * 10**6] * 2]
    assert provider.bill()["cached_input_tokens"] == 3 * 64

    for by, name in (("model", "kept"), ("upstream", "sim"), ("tenant", "default")):
        lines = {line.group[0]: line for line in summarize(gateway.ledger, by=[by])}
        told = {line[by]: line for line in gateway.ask(f"/v1/ledger?by={by}")["lines"]}
        for figure in ("left_out_tokens", "shortened_to_tokens", "shortened_from_tokens", "cached_share"):
            assert told[name][figure] == getattr(lines[name], figure)
        for amount in ("prompt_cache_saved", "prompt_cache_missed"):
            assert told[name][f"{amount}_picousd"] == getattr(lines[name], amount)
    by_model = {line.group[0]: line for line in summarize(gateway.ledger, by=["model"])}
    assert by_model["kept"].cached_share == 0.32
    assert by_model["kept"].prompt_cache_missed == 2 * (200 - 64) * 9 * 10**6

    now = gateway.ask("/v1/ledger/summary")["outcomes"]["completed"]
    grown = {name: now[name] - summary[name] for name in now if isinstance(now[name], int)}
    assert grown["prompt_cache_saved"] == 3 * 64 * 9 * 10**6
    assert grown["prompt_cache_missed"] == 2 * (200 - 64) * 9 * 10**6
    assert grown["left_out_tokens"] == rows[3].left_out_tokens
    text = gateway.metrics()
    assert sample(text, "penstock_prompt_cache_tokens_total", kind="cached") - of_before["cached"] == 3 * 64
    assert sample(text, "penstock_prompt_cache_missed_usd_total") - of_before["missed"] == pytest.approx(
        2 * (200 - 64) * 9e-6
    )
    left = sample(text, "penstock_prompt_left_out_tokens_total") - of_before["left"]
    assert left == rows[3].left_out_tokens


# ---- the rules -------------------------------------------------------------------------------------


def test_the_rule_of_a_name_is_that_of_the_gateway():
    rules = read_rules({"*": {"whitespace": True}, "gpt-*": {"duplicates": True}, "gpt-4": {}})
    doubled = turns("a   b")
    for model, changed in (("other", True), ("gpt-5", False), ("gpt-4", False)):
        assert (shortened(rules, Endpoint.CHAT, {}, body(doubled, model)) is not None) is changed


@pytest.mark.parametrize(
    "wrong",
    [
        {"*": {"white": True}},
        {"*": {"history_tokens": 0}},
        {"*": {"history_tokens": "8000"}},
        {"*": {"whitespace": "yes"}},
        {"*": True},
    ],
)
def test_a_rule_that_there_is_not_is_refused(wrong):
    with pytest.raises(ValueError, match="prompts"):
        penstock.http_client(prompts=wrong)


@pytest.mark.parametrize(
    ("endpoint", "headers", "content"),
    [
        (Endpoint.CHAT, {"content-encoding": "gzip"}, body(TWICE)),
        (Endpoint.EMBEDDINGS, {}, b'{"model":"sim","input":"a   b"}'),
        (Endpoint.CHAT, {}, b"{"),
        (Endpoint.CHAT, {}, b'{"messages":[]}'),
        (Endpoint.CHAT, {}, b'{"model":"sim","messages":"a   b"}'),
        (Endpoint.CHAT, {}, b'{"model":"sim","messages":["a   b"]}'),
        (None, {}, body(TWICE)),
    ],
)
def test_what_is_no_prompt_is_left_alone(endpoint, headers, content):
    assert shortened(read_rules({"*": RULES}), endpoint, headers, content) is None


def test_a_call_without_rules_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(_prompts, "shortened", None)
    call = Calls(Options()).begin("POST", "http", "x", "/v1/chat/completions", {}, body(TWICE))
    assert (call.body, call.stated) == (body(TWICE), "")


def test_a_gateway_that_says_what_cannot_be_changes_nothing_of_what_we_say():
    left = Left(whitespace=4, before=9, after=8)
    assert stated(left, None) == stated(left, "nonsense é") == left.stated().decode()
    more = Left(turns=1, history=40, before=8, after=2)
    assert stated(left, more.stated().decode()) == (
        "whitespace;bytes=4, history;count=1;bytes=40, tokens;before=9;after=2"
    )


@given(
    st.lists(
        st.text(st.sampled_from("ab \n\t`\r"), max_size=40)
        | st.just("word " * 60)
        | st.just("x\n\n" + "word " * 60 + "\n\ny"),
        max_size=9,
    ),
    st.sampled_from([None, 1, 60, 150]),
    st.booleans(),
    st.booleans(),
)
def test_what_was_shortened_is_not_shortened_once_more(texts, budget, whitespace, duplicates):
    rules = {"*": {"whitespace": whitespace, "duplicates": duplicates, "history_tokens": budget}}
    once = shortened(read_rules(rules), Endpoint.CHAT, {}, body(turns(*texts)))
    if once is not None:
        assert shortened(read_rules(rules), Endpoint.CHAT, {}, once[0]) is None
