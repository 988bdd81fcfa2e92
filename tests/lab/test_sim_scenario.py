from __future__ import annotations

import pytest

from penstock.lab import scenario
from penstock.lab.scenario import MAX, Script, ScriptError, of_headers, of_model, parse

BASE = Script()


def test_an_empty_script_is_the_default():
    assert parse("") == BASE
    assert of_model("sim", BASE) == BASE
    assert of_model("gpt-4o", BASE) == BASE
    assert of_model("simple-model:7b", BASE) == BASE


def test_pace_and_length():
    script = of_model("sim:ttft=200,tps=50,tokens=300", BASE)
    assert (script.ttft, script.tps, script.tokens) == (0.2, 50.0, 300)
    assert parse("tokens=max").tokens == MAX


def test_presets_take_options_too():
    script = of_model("sim-slow:tps=5", BASE)
    assert (script.ttft, script.tps) == (0.5, 5.0)


@pytest.mark.parametrize(
    ("text", "failure", "after"),
    [
        ("cut-after=5", "cut-after", 5),
        ("close-after=0", "close-after", 0),
        ("stall-after=1", "stall-after", 1),
        ("malformed-event", "malformed-event", 3),
        ("error-event=7", "error-event", 7),
        ("no-terminator", "no-terminator", 0),
        ("reset-before-headers", "reset-before-headers", 0),
        ("429", "429", 0),
        ("400-context-length", "400-context-length", 0),
    ],
)
def test_a_failure_is_told_with_its_place(text, failure, after):
    script = parse(text)
    assert (script.failure, script.after) == (failure, after)


def test_failures_last_for_a_number_of_calls_or_a_time():
    assert (parse("500-once").failure, parse("500-once").first) == ("500", 1)
    assert (parse("503-for=3").failure, parse("503-for=3").first) == ("503", 3)
    assert (parse("503-for=250ms").first_seconds, parse("503-for=250ms").first) == (0.25, 0)
    assert parse("cut-after=2,once,key=a") == parse("key=a,once,cut-after=2")


def test_slowness_is_told_in_milliseconds_or_has_a_usual_one():
    assert parse("slow-first-token").delay == 5
    assert parse("slow-first-token=100").delay == 0.1
    assert parse("slow-trickle").byte_seconds == 0.001


def test_headers_override_the_model_and_the_model_the_defaults():
    defaults = parse("tokens=10,tps=1")
    script = of_model("sim:tokens=20", defaults)
    assert (script.tokens, script.tps) == (20, 1.0)
    headers = {
        b"x-sim-output-tokens": b"30",
        b"x-sim-ttft-ms": b"7",
        b"x-sim-tokens-per-second": b"9",
        b"x-sim-scenario": b"once, 429",
    }
    script = of_headers(headers, script)
    assert (script.tokens, script.ttft, script.tps, script.failure, script.first) == (
        30,
        0.007,
        9.0,
        "429",
        1,
    )
    assert of_headers({}, defaults) is defaults


@pytest.mark.parametrize(
    "text",
    [
        "fly",
        "ttft",
        "ttft=soon",
        "ttft=-1",
        "ttft=nan",
        "tps=inf",
        "tokens=1.5",
        "cut-after",
        "once=2",
        "429=3",
        "key=",
        "retry-after=1\r\nx: y",
        "503-for=ms",
    ],
)
def test_a_wrong_option_is_named(text):
    with pytest.raises(ScriptError) as caught:
        parse(text)
    assert text.partition("=")[0] in str(caught.value)


def test_a_model_that_is_none_of_the_simulators_is_named():
    with pytest.raises(ScriptError, match="sim-huge"):
        of_model("sim-huge", BASE)


def test_the_list_of_scenarios_names_every_option():
    listed = scenario.__doc__
    for name in [*scenario._PLAIN_FAILURES, *scenario._AFTER, "500-once", "503-for", "slow-first-token"]:
        assert name in listed, name
    for name in [
        "ttft",
        "spread",
        "tps",
        "tokens",
        "early-head",
        "thinking",
        "tool",
        "parallel",
        "cached",
        "prefill",
        "prefix-cache",
    ]:
        assert name in listed
    for name in ["once", "share", "key", "retry-after"]:
        assert name in listed
