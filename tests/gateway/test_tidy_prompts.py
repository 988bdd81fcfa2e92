"""Shorter prompts, as the upstream gets them and the caller is told."""

import json

from serving import COMPLETION, call, config, on_uvloop, plain, serving

from penstock.config.model import ModelCacheConfig, ModelConfig, PromptConfig
from penstock.testing import ScriptedUpstream, Step


def a_question(text, **more):
    return {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": text}], **more}


def compact(body):
    """As SDKs write it."""
    return json.dumps(body, separators=(",", ":")).encode()


async def asked(port, *bodies):
    return [await call(port, body) for body in bodies]


def run(prompt, *bodies, cache=None, rows=None):
    """:param rows: of the ledger, oldest first, are added to these"""
    rows = [] if rows is None else rows

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)] * 9]) as upstream:
            made = config(upstream.url)
            made.models["m"] = ModelConfig(
                candidates=made.models["m"].candidates, prompt=prompt, cache=cache, join="never"
            )
            async with serving(made) as (gateway, port):
                answers = await asked(port, *bodies)
                rows.extend(gateway.recorder.ledger.recent()[::-1])
                return answers, upstream.received[0], gateway.recorder._left_out

    return on_uvloop(main)


def test_the_caller_is_told_what_the_upstream_did_not_get():
    (answer,), received, left = run(PromptConfig(whitespace=True), a_question("how    are you"))
    assert b'"content":"how are you"' in received
    changed = answer.headers["penstock-prompt-changed"]
    assert changed.startswith("whitespace;bytes=3, tokens;before=")
    assert left["whitespace"].value == 1


def test_questions_that_differ_in_what_is_left_out_have_one_answer():
    answers, _, _ = run(
        PromptConfig(whitespace=True),
        *(compact(a_question(text)) for text in ("how are you", "how   are you")),
        cache=ModelCacheConfig(),
    )
    assert [answer.headers["penstock-status"] for answer in answers] == ["created", "cached"]
    assert "penstock-prompt-changed" not in answers[0].headers
    assert "penstock-prompt-changed" in answers[1].headers


def test_what_was_left_out_of_a_prompt_is_in_the_ledger_also_where_a_kept_answer_is_given():
    rows = []
    long, short = (compact(a_question(f"how{' ' * spaces}are you")) for spaces in (41, 1))
    run(PromptConfig(whitespace=True), short, long, long, cache=ModelCacheConfig(), rows=rows)
    assert [(row.outcome.value, row.left_out) for row in rows] == [
        ("completed", 0),
        ("cached", 10),
        ("cached", 10),
    ]


def test_what_a_client_has_left_out_of_each_prompt_is_told_of_each_kept_answer():
    rows = []

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)] * 9]) as upstream:
            made = config(upstream.url)
            made.models["m"] = ModelConfig(candidates=made.models["m"].candidates, cache=ModelCacheConfig())
            async with serving(made) as (gateway, port):
                for tokens in (7, 7, 7, 9, 9, 9, 0, 0, 0):
                    told = (
                        f"Penstock-Prompt-Changed: whitespace;bytes=40, tokens;before={20 + tokens};after=20"
                    )
                    headers = [told] if tokens else []
                    await call(port, a_question("how are you"), headers=headers)
                rows.extend(gateway.recorder.ledger.recent()[::-1])
                return gateway.repeats.answered

    assert on_uvloop(main) == 1  # the third of those that nothing was left out of
    assert [row.left_out for row in rows] == [7, 7, 7, 9, 9, 9, 0, 0, 0]


def test_without_configuration_a_prompt_goes_on_as_it_came():
    (answer,), received, _ = run(None, a_question("how    are you"))
    assert b"how    are you" in received
    assert "penstock-prompt-changed" not in answer.headers
