"""What is written down of conversations, and of whose: nothing, unless they have agreed to it."""

import hashlib
import json

import msgspec
import pytest
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    serving,
)

from penstock.config.model import KeyConfig, TranscriptsConfig
from penstock.testing import FakeClock, ScriptedUpstream, Step
from penstock.transcripts.transcript import Message, read

STREAM = {**PROMPT, "stream": True}
SAID = [Message("user", "hello"), Message("assistant", "hi")]
PLAIN = [Step.REQUEST, plain(COMPLETION)]
STREAMED = [Step.REQUEST, STREAM_HEAD + delta("h") + delta("i", "stop", (3, 2)) + DONE + STREAM_END]
RESPONSE = {"model": "m", "input": "hello"}


def key(name, tenant):
    return KeyConfig(name=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest(), tenant=tenant)


def wanted(tmp_path, **more):
    return TranscriptsConfig(**{"directory": str(tmp_path / "kept"), "tenants": ["default"], **more})


def written(tmp_path, script, *calls, settings=None, **more):
    """The transcripts of these calls, and what was counted."""

    async def main():
        async with ScriptedUpstream([script * len(calls)]) as upstream:
            given = config(upstream.url, transcripts=settings or wanted(tmp_path), **more)
            async with serving(given) as (gateway, port):
                for asked in calls:
                    answer = await call(port, *asked[:1], **asked[1])
                    assert answer.status == 200, answer.body
                transcriber = gateway._transcriber
        return {fate: cell.value for fate, cell in transcriber._fates.items() if cell.value}

    counted = on_uvloop(main)
    return list(read(tmp_path / "kept")), counted


@pytest.mark.parametrize(
    ("script", "body", "path"),
    [
        (PLAIN, PROMPT, "/v1/chat/completions"),
        (STREAMED, STREAM, "/v1/chat/completions"),
        (PLAIN, {**PROMPT, "max_tokens": 9}, "/v1/messages"),
        (STREAMED, {**STREAM, "max_tokens": 9}, "/v1/messages"),
        (PLAIN, RESPONSE, "/v1/responses"),
        (STREAMED, {**RESPONSE, "stream": True}, "/v1/responses"),
    ],
)
def test_a_conversation_is_written_down_the_same_whatever_its_api(script, body, path, tmp_path):
    (found,), counted = written(tmp_path, script, (body, {"path": path}))
    assert list(found.messages) == SAID
    assert (found.tenant, found.model, found.upstream, found.upstream_model) == ("default", "m", "up0", "m")
    assert found.id.startswith("gen_")
    assert counted == {"written": 1}


def test_only_those_who_have_agreed_are_written_down(tmp_path):
    calls = [(PROMPT, {"headers": [f"authorization: Bearer {name}"]}) for name in ("one", "two", "three")]
    keys = [key("one", "acme"), key("two", "zeta"), key("three", "acme-2")]
    found, counted = written(tmp_path, PLAIN, *calls, settings=wanted(tmp_path, tenants=["acme"]), keys=keys)
    assert [each.tenant for each in found] == ["acme"]
    assert counted == {"written": 1}


def test_a_call_may_say_that_it_is_not_to_be_stored(tmp_path):
    refused = (PROMPT, {"headers": ["cache-control: no-store"]})
    assert written(tmp_path, PLAIN, refused) == ([], {})
    assert written(tmp_path, PLAIN, ({**PROMPT, "store": False}, {})) == ([], {})


@pytest.mark.parametrize(
    "settings", [{"models": ["other", "n*"]}, {"share": 0.0}, {"tenants": []}, {"directory": ""}]
)
def test_what_the_configuration_leaves_out_is_not_written(settings, tmp_path):
    assert written(tmp_path, PLAIN, (PROMPT, {}), settings=wanted(tmp_path, **settings)) == ([], {})
    assert not (tmp_path / "kept").exists()


def choice(**more):
    return {**COMPLETION, "choices": [{**COMPLETION["choices"][0], **more}]}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({**PROMPT, "tools": [TOOL]}, COMPLETION),
        ({**PROMPT, "messages": [{"role": "user", "content": [IMAGE]}]}, COMPLETION),
        ({**PROMPT, "n": 2}, COMPLETION),
        ({**PROMPT, "messages": [*PROMPT["messages"], {"role": "assistant", "content": "h"}]}, COMPLETION),
        (PROMPT, choice(finish_reason="length")),
        (PROMPT, choice(finish_reason="content_filter")),
        (PROMPT, choice(message={"role": "assistant", "content": None, "refusal": "no"})),
        (PROMPT, choice(message={"role": "assistant", "content": None, "tool_calls": [CALLED]})),
        (PROMPT, choice(message={"role": "assistant", "content": " "})),
        (PROMPT, {"choices": []}),
    ],
)
def test_what_nothing_can_be_learnt_from_by_text_alone_is_left_out(body, answer, tmp_path):
    assert written(tmp_path, [Step.REQUEST, plain(answer)], (body, {})) == ([], {"unusable": 1})


def test_an_answer_that_broke_is_no_transcript(tmp_path):
    async def main():
        script = [Step.REQUEST, STREAM_HEAD + delta("h"), Step.CLOSE]
        async with ScriptedUpstream([script] * 9) as upstream:
            given = config(upstream.url, transcripts=wanted(tmp_path))
            async with serving(given) as (_, port):
                answer = await call(port, STREAM)
                assert b"error" in answer.body

    on_uvloop(main)
    assert list(read(tmp_path / "kept")) == []


def test_consent_that_is_withdrawn_or_given_counts_from_the_next_call_on(tmp_path):
    async def main():
        async with ScriptedUpstream([PLAIN * 5]) as upstream:
            given = config(upstream.url)
            async with serving(given) as (gateway, port):
                for settings in (
                    TranscriptsConfig(),
                    wanted(tmp_path),
                    wanted(tmp_path, tenants=[]),
                    wanted(tmp_path, directory=str(tmp_path / "other")),
                    wanted(tmp_path, directory=""),
                ):
                    gateway.reload(msgspec.structs.replace(given, transcripts=settings))
                    await call(port, PROMPT)

    on_uvloop(main)
    assert [len(list(read(tmp_path / name))) for name in ("kept", "other")] == [1, 1]


def test_a_disk_that_fails_costs_no_answer(tmp_path):
    (tmp_path / "kept").write_text("in the way")
    found, counted = written(tmp_path, STREAMED, (STREAM, {}), (STREAM, {}))
    assert (found, counted) == ([], {"failed": 2})


def test_the_gateway_removes_what_was_kept_for_long_enough_although_nobody_calls(tmp_path):
    old = tmp_path / "kept" / "default" / "0000000000001-1-1.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps({}))

    async def main():
        clock = FakeClock()
        given = config("http://127.0.0.1:9", transcripts=wanted(tmp_path, tenants=[]))
        async with serving(given, clock):
            clock.advance(61)

    on_uvloop(main)
    assert not old.exists()
