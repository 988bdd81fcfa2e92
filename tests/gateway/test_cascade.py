"""The smaller model first: what callers get, and what it comes to."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from serving import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    on_uvloop,
    plain,
    serving,
    until,
)

from penstock.config.model import CandidateConfig, CascadeConfig, ModelConfig
from penstock.testing import ScriptedUpstream, Step

SCHEMA = {"type": "object", "required": ["sum"], "properties": {"sum": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
PRICES = """
version = "test"

[[price]]
models = ["large"]
input = 10
output = 10

[[price]]
models = ["small", "judging"]
input = 1
output = 1
"""


def said(text, *, finish="stop", logprob=None, usage=(100, 10)):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if logprob is not None:
        choice["logprobs"] = {"content": [{"token": "t", "logprob": logprob}]}
    tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return plain({"id": "c", "object": "chat.completion", "choices": [choice], "usage": tokens})


def streamed(*words):
    return (
        STREAM_HEAD
        + b"".join(delta(word) for word in words)
        + delta("", "stop", (100, 10))
        + DONE
        + STREAM_END
    )


def asked(*, stream=False, **more):
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    return {"model": "m", "stream": stream, "max_tokens": 50, "messages": messages, **more}


def run(talk, small, *, large=None, judge=None, prices="", **checks):
    """``talk(port, gateway)``, with what the models say; and what each of them was asked."""

    async def main():
        scripts = [
            [[Step.REQUEST, *(each if isinstance(each, list) else [each])]]
            for each in (small, large or said("large"), judge or said("yes"))
        ]
        async with (
            ScriptedUpstream(scripts[0]) as one,
            ScriptedUpstream(scripts[1]) as two,
            ScriptedUpstream(scripts[2]) as three,
        ):
            whole = config(one.url, two.url, three.url, prices=prices)
            cascade = CascadeConfig(model="mini", judge="judge" if judge is not None else "", **checks)
            models = {
                "m": ModelConfig(
                    candidates=[CandidateConfig(upstream="up1", model="large")], cascade=cascade
                ),
                "mini": ModelConfig(candidates=[CandidateConfig(upstream="up0", model="small")]),
                "judge": ModelConfig(candidates=[CandidateConfig(upstream="up2", model="judging")]),
            }
            async with serving(msgspec.structs.replace(whole, models=models)) as (gateway, port):
                found = await talk(port, gateway)
            assert gateway.pipeline.registry.account.held == 0
            return found, [b"".join(each.received) for each in (one, two, three)]

    return on_uvloop(main)


def outcomes(gateway):
    (family,) = [each for each in gateway.metrics.collect() if each.name == "penstock_cascade_calls_total"]
    return {sample.labels[1]: sample.value for sample in family.samples}


def dollars(gateway, name):
    (family,) = [
        each for each in gateway.metrics.collect() if each.name == f"penstock_cascade_{name}_usd_total"
    ]
    return sum(sample.value for sample in family.samples)


def rows(gateway):
    return [
        (row.number, row.model, row.upstream_model, row.outcome.value)
        for row in gateway.recorder.ledger.recent()[::-1]
    ]


async def once(port, gateway, **more):
    answer = await call(port, asked(**more))
    return answer, outcomes(gateway), rows(gateway)


def test_an_answer_that_passes_is_the_answer(tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)

    async def talk(port, gateway):
        return await once(port, gateway), dollars(gateway, "saved"), dollars(gateway, "lost")

    (((answer, became, ledger), saved, lost), (_, large, _)) = run(talk, said("2"), prices=str(prices))
    assert answer.json()["choices"][0]["message"]["content"] == "2"
    assert answer.headers["penstock-cascade"] == "mini"
    assert answer.headers["penstock-cost"] == "0.00011"
    assert became == {"kept": 1}
    assert ledger == [(1, "mini", "small", "completed")]
    assert large == b""
    assert (saved, lost) == (pytest.approx(0.00099), 0)


@pytest.mark.parametrize(
    ("small", "checks", "more", "outcome"),
    [
        (said("two", finish="content_filter"), {}, {}, "refusal"),
        (said(""), {}, {}, "refusal"),
        (said("I'm sorry, but no."), {"refusals": ["i'm sorry"]}, {}, "refusal"),
        (said('{"sum": "two"}'), {}, {"response_format": FORMAT}, "form"),
        (said("Sure!"), {}, {"response_format": {"type": "json_object"}}, "form"),
        (said("2", logprob=-2.0), {"min_logprob": -1.0}, {}, "logprob"),
        (said("2"), {"min_logprob": -1.0}, {}, "logprob"),
        (error("500 Internal Server Error"), {}, {}, "failed"),
        (error("400 Bad Request"), {}, {}, "failed"),
    ],
)
def test_what_does_not_pass_is_asked_of_the_larger_model(small, checks, more, outcome):
    (answer, became, ledger), _ = run(lambda port, gateway: once(port, gateway, **more), small, **checks)
    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "large"
    assert "penstock-cascade" not in answer.headers
    assert became == {outcome: 1}
    assert [row[:3] for row in ledger] == [(1, "mini", "small"), (2, "m", "large")]


def test_a_form_that_is_kept_and_words_that_are_sure_pass():
    more = {"response_format": FORMAT}
    (answer, became, _), (small, _, _) = run(
        lambda port, gateway: once(port, gateway, **more), said('{"sum": 2}', logprob=-0.1), min_logprob=-1.0
    )
    assert became == {"kept": 1}
    assert b'"logprobs":true' in small
    assert "logprobs" not in answer.json()["choices"][0]  # the caller did not ask for them


@pytest.mark.parametrize(("verdict", "outcome"), [("Yes.", "kept"), ("no", "judge"), ("", "judge")])
def test_a_judge_decides(verdict, outcome):
    (answer, became, ledger), (_, _, judge) = run(once, said("two, I think"), judge=said(verdict))
    assert became == {outcome: 1}
    assert b"What is 1 + 1?" in judge
    assert b"two, I think" in judge
    assert ledger[1] == (2, "judge", "judging", "completed")
    assert len(ledger) == (2 if outcome == "kept" else 3)
    assert answer.json()["choices"][0]["message"]["content"] == (
        "two, I think" if outcome == "kept" else "large"
    )


def test_a_judge_that_fails_keeps_nothing():
    (_, became, _), _ = run(once, said("2"), judge=error("500 Internal Server Error"))
    assert became == {"failed": 1}


@pytest.mark.parametrize("passes", [True, False])
def test_a_stream_is_one_answer_and_no_word_of_the_other(passes):
    refusals = [] if passes else ["small"]
    (answer, _, _), _ = run(
        lambda port, gateway: once(port, gateway, stream=True),
        streamed("small ", "words"),
        large=streamed("large ", "words"),
        refusals=refusals,
    )
    kept, other = (b"small ", b"large ") if passes else (b"large ", b"small ")
    assert kept in answer.body
    assert other not in answer.body
    assert answer.body.count(b"[DONE]") == 1
    assert answer.body.startswith(b"id: 0\n")


def test_who_takes_too_long_is_left():
    never = asyncio.Event()
    (answer, became, ledger), _ = run(once, [never], timeout=0.05)
    assert answer.json()["choices"][0]["message"]["content"] == "large"
    assert became == {"late": 1}
    assert [row[3] for row in ledger] == ["cancelled", "completed"]


def test_a_caller_who_leaves_ends_it():
    never = asyncio.Event()

    async def talk(port, gateway):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(asked(stream=True)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await until(
            lambda: any(each.upstream_model == "small" for each in gateway.recorder.ledger.open_attempts())
        )
        writer.close()
        await writer.wait_closed()
        await until(lambda: not gateway.pipeline.productions)
        return rows(gateway), outcomes(gateway)

    (ledger, became), (_, large, _) = run(talk, [never])
    assert [row[1:] for row in ledger] == [("mini", "small", "cancelled")]
    assert became == {}
    assert large == b""


@pytest.mark.parametrize(
    "more",
    [
        {"store": True},
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    ],
)
def test_calls_that_cannot_be_asked_twice_or_judged_go_to_the_larger_model(more):
    (answer, became, _), (small, _, _) = run(lambda port, gateway: once(port, gateway, **more), said("2"))
    assert answer.json()["choices"][0]["message"]["content"] == "large"
    assert became == {}
    assert small == b""
