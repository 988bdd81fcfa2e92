"""What is asked in the stead of a model that does not take a prompt: it is too long, or a filter refuses it."""

import asyncio
import contextlib
import json

import pytest
from continuing import CHAT, body_for, check_form, error_of, events_of, simulated, text_of, whole_text
from gateway_doubles import a_call, a_generation
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    error,
    frame,
    plain,
    rows,
    serving,
    until,
)

from penstock.config.model import (
    CanaryConfig,
    CandidateConfig,
    CapabilitiesConfig,
    CascadeConfig,
    LimitConfig,
    LimitsConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    ShadowConfig,
    VersionsConfig,
)
from penstock.messages import Outcome
from penstock.testing import ScriptedUpstream, Step

ONCE = RetryConfig(attempts=2, first_delay=0.0)
TOO_LONG = error("400 Bad Request", "prompt is too long: 9 tokens > 8 maximum")
FILTERED = error("400 Bad Request", "Content Exists Risk")
FLAGGED = error("403 Forbidden", "Your chosen model requires moderation and your input was flagged for hate")
DOWN = error("503 Busy")


def said(text):
    message = {"role": "assistant", "content": text}
    return plain({**COMPLETION, "choices": [{**COMPLETION["choices"][0], "message": message}]})


def streamed(text):
    return STREAM_HEAD + delta(text) + delta("", "stop", (3, 1)) + DONE + STREAM_END


def at(*upstreams, **more):
    """A model whose candidates are these upstreams, with the window that stands behind a name."""
    chosen = []
    for number, each in enumerate(upstreams):
        name, _, window = each.partition(":")
        window = int(window) if window else None
        chosen.append(CandidateConfig(name, weight=float(not number), context_window=window))
    return ModelConfig(candidates=chosen, **more)


@contextlib.asynccontextmanager
async def before(answers, models, **more):
    """``(gateway, port, upstreams)``: each upstream always gives its answer, which may be steps of a script."""
    scripts = [
        [[Step.REQUEST, *(each if isinstance(each, list) else [each])] * (1 if isinstance(each, list) else 9)]
        for each in answers
    ]
    upstreams = [ScriptedUpstream(script) for script in scripts]
    async with contextlib.AsyncExitStack() as stack:
        for upstream in upstreams:
            await stack.enter_async_context(upstream)
        settings = config(*(each.url for each in upstreams), models=models, **{"retry": ONCE, **more})
        async with serving(settings) as (gateway, port):
            yield gateway, port, upstreams


def run(answers, models, body=PROMPT, **more):
    """The answer, and its attempts: upstream, outcome, error."""

    async def main():
        async with before(answers, models, **more) as (gateway, port, _):
            answer = await call(port, body)
            await until(lambda: not gateway.pipeline.productions)
            return answer, [(row.upstream, row.outcome.value, row.error) for row in rows(gateway)]

    return asyncio.run(main())


def who(answer):
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("refusal", "key", "code"),
    [
        (TOO_LONG, "context_length_fallbacks", "c"),
        (FILTERED, "content_filter_fallbacks", "c"),
        (FLAGGED, "content_filter_fallbacks", "upstream_forbidden"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_does_not_take_a_prompt_makes_way_for_the_one_named(refusal, key, code, stream):
    models = {"m": at("up0", fallbacks=["no"], **{key: ["other"]}), "other": at("up1"), "no": at("up2")}
    good = streamed("yes") if stream else said("yes")
    answer, attempts = run([refusal, good, said("no")], models, {**PROMPT, "stream": stream})
    assert answer.status == 200
    assert b"yes" in answer.body
    assert attempts == [("up0", "failed", code), ("up1", "completed", "")]


@pytest.mark.parametrize("named", [{}, {"content_filter_fallbacks": ["other"]}])
def test_who_is_named_for_nothing_or_for_something_else_is_not_asked(named):
    models = {"m": at("up0", "up1", fallbacks=["other"], **named), "other": at("up1")}
    answer, attempts = run([TOO_LONG, said("no")], models)
    assert answer.status == 400
    assert answer.json()["error"]["message"] == "up0: prompt is too long: 9 tokens > 8 maximum"
    assert attempts == [("up0", "failed", "c")]


def test_what_is_merely_forbidden_goes_on_to_the_next_candidate():
    models = {"m": at("up0", "up1", content_filter_fallbacks=["other"]), "other": at("up2")}
    answer, _ = run([error("403 no", "not for you"), said("next"), said("other")], models)
    assert who(answer) == "next"


def test_a_replica_is_not_asked_unless_it_is_known_to_take_more():
    models = {"m": at("up0:50", "up1:50", "up2:90", context_length_fallbacks=["other"]), "other": at("up3")}
    answers = [TOO_LONG, said("no"), said("larger"), said("other")]
    answer, attempts = run(answers, models)
    assert who(answer) == "larger"
    assert [name for name, _, _ in attempts] == ["up0", "up2"]
    answer, attempts = run([TOO_LONG, said("no"), TOO_LONG, said("other")], models)
    assert who(answer) == "other"
    assert [name for name, _, _ in attempts] == ["up0", "up2", "up3"]


def test_who_is_named_may_name_others_and_nobody_is_asked_twice():
    models = {
        "m": at("up0", context_length_fallbacks=["long"]),
        "long": at("up1", context_length_fallbacks=["m", "longer"]),
        "longer": at("up2", context_length_fallbacks=["long", "m"]),
    }
    answer, attempts = run([TOO_LONG, TOO_LONG, said("longest")], models)
    assert who(answer) == "longest"
    assert [name for name, _, _ in attempts] == ["up0", "up1", "up2"]
    answer, attempts = run([TOO_LONG] * 3, models)
    assert (answer.status, len(attempts)) == (400, 3)
    assert "up2: prompt is too long" in answer.json()["error"]["message"]


def test_a_fallback_that_names_nobody_is_stood_in_for_by_whom_the_called_model_names():
    models = {
        "m": at("up0", fallbacks=["other"], context_length_fallbacks=["long"]),
        "other": at("up1"),
        "long": at("up2"),
    }
    answer, attempts = run([DOWN, TOO_LONG, said("long")], models)
    assert who(answer) == "long"
    assert [name for name, _, _ in attempts] == ["up0", "up0", "up1", "up2"]


def test_who_stands_in_fails_like_anybody_and_has_fallbacks_of_its_own():
    models = {
        "m": at("up0", context_length_fallbacks=["long"]),
        "long": at("up1", fallbacks=["last"]),
        "last": at("up2"),
    }
    answer, attempts = run([TOO_LONG, DOWN, said("last")], models)
    assert who(answer) == "last"
    assert [name for name, _, _ in attempts] == ["up0", "up1", "up1", "up2"]
    answer, _ = run([TOO_LONG, DOWN, DOWN], models)
    assert answer.status == 503
    assert answer.json()["error"]["message"].endswith("[before that: up0 (c), up1 (upstream_failed)]")


def test_what_has_begun_is_never_begun_anew():
    broken = {"error": {"message": "prompt is too long: 9 tokens > 8 maximum", "code": 400}}
    models = {"m": at("up0", context_length_fallbacks=["long"]), "long": at("up1")}

    async def main():
        go_on = asyncio.Event()
        begun = [STREAM_HEAD + delta("so"), go_on, frame(broken) + STREAM_END]
        async with before([begun, streamed("anew")], models) as (gateway, port, _):
            asked = asyncio.ensure_future(call(port, {**PROMPT, "stream": True}))
            await until(lambda: any(each.events for each in gateway.pipeline.registry))
            go_on.set()
            answer = await asked
            return answer, [row.upstream for row in rows(gateway)]

    answer, attempts = asyncio.run(main())
    assert b"so" in answer.body
    assert b"anew" not in answer.body
    assert error_of(events_of(answer)) is not None
    assert attempts == ["up0"]


def test_an_error_in_a_stream_that_has_said_nothing_is_one_like_any_other():
    refused = STREAM_HEAD + frame({"error": {"message": "Content Exists Risk", "code": 400}}) + STREAM_END
    models = {"m": at("up0", content_filter_fallbacks=["other"]), "other": at("up1")}
    answer, attempts = run([refused, streamed("yes")], models, {**PROMPT, "stream": True})
    assert b"yes" in answer.body
    assert [name for name, _, _ in attempts] == ["up0", "up1"]


# ---- before anybody is asked ----


def words(number):
    return {"model": "m", "messages": [{"role": "user", "content": " ".join(["word"] * number)}]}


@pytest.mark.parametrize(("number", "answered"), [(100, "small"), (101, "long")])
def test_what_is_surely_too_long_is_not_sent_and_what_might_fit_is(number, answered):
    models = {"m": at("up0:100", context_length_fallbacks=["long"]), "long": at("up1")}
    answer, attempts = run([said("small"), said("long")], models, words(number))
    assert who(answer) == answered
    assert [name for name, _, _ in attempts] == [{"small": "up0", "long": "up1"}[answered]]


def test_a_prompt_as_long_as_a_window_is_taken():
    answer, _ = run([said("no"), said("just")], {"m": at("up0:50", "up1:100")}, words(100))
    assert who(answer) == "just"


def test_replicas_that_take_it_come_first_then_who_is_named_then_fallbacks():
    models = {
        "m": at("up0:50", "up1:200", fallbacks=["other"], context_length_fallbacks=["short", "long"]),
        "short": at("up2:60"),
        "long": at("up3"),
        "other": at("up4"),
    }
    answers = [said("no"), DOWN, said("no"), DOWN, said("other")]
    answer, attempts = run(answers, models, words(100))
    assert who(answer) == "other"
    assert list(dict.fromkeys(name for name, _, _ in attempts)) == ["up1", "up3", "up4"]


def test_what_nobody_takes_is_refused_and_nobody_is_asked():
    models = {"m": at("up0:50", context_length_fallbacks=["long"]), "long": at("up1:99")}
    answer, attempts = run([said("no"), said("no")], models, words(100))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert answer.json()["error"]["message"] == "the prompt has 100 tokens or more, and 'm' takes 50"
    assert attempts == []


def test_only_the_text_that_a_model_must_read_is_counted():
    models = {"m": at("up0:50")}
    long = " ".join(["word"] * 100)
    messages = [
        {"role": "assistant", "content": f"{long}</think>so", "reasoning_content": long},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": long}}]},
    ]
    for more in (
        {"messages": messages},
        {**words(100), "transforms": ["middle-out"]},
        {"tools": [{"x": long}]},
    ):
        answer, _ = run([said("sent")], models, {**PROMPT, **more})
        assert who(answer) == "sent"


def test_a_wrong_body_is_the_upstreams_to_refuse():
    messages = [7, None, {"content": {"a": "b c d e"}}, {"content": [None, 3, {"text": 5}, {"text": None}]}]
    answer, _ = run([said("sent")], {"m": at("up0:2")}, {"model": "m", "messages": messages})
    assert who(answer) == "sent"


# ---- what else goes by the model ----


def test_an_answer_in_anothers_stead_is_not_kept_as_the_models_own():
    models = {
        "m": at("up0", context_length_fallbacks=["long"], cache=ModelCacheConfig(calls="all")),
        "long": at("up1"),
    }

    async def main():
        async with before([TOO_LONG, said("long")], models) as (gateway, port, _):
            statuses = [(await call(port, PROMPT)).headers["penstock-status"] for _ in range(2)]
            return statuses, [row.upstream for row in rows(gateway)]

    assert asyncio.run(main()) == (["created", "created"], ["up0", "up1", "up0", "up1"])


def test_callers_of_the_same_question_share_the_answer_in_anothers_stead():
    async def main():
        go_on = asyncio.Event()
        models = {"m": at("up0", context_length_fallbacks=["long"], join="always"), "long": at("up1")}
        async with before([TOO_LONG, [go_on, said("long")]], models) as (gateway, port, upstreams):
            asked = [asyncio.ensure_future(call(port, PROMPT)) for _ in range(3)]
            await until(lambda: gateway.pipeline.admission.in_progress == 3 and upstreams[1].connections)
            go_on.set()
            answers = await asyncio.gather(*asked)
            told = sorted(answer.headers["penstock-status"] for answer in answers)
            attempts = [row.upstream for row in rows(gateway) if row.outcome is not Outcome.JOINED]
            return told, {who(answer) for answer in answers}, attempts

    told, texts, attempts = asyncio.run(main())
    assert told == ["created", "joined", "joined"]
    assert texts == {"long"}
    assert attempts == ["up0", "up1"]


PRICES = """
version = "test"

[[price]]
models = ["*"]
upstream = "up0"
input = 1
output = 1

[[price]]
models = ["*"]
upstream = "up1"
input = 100
output = 100
"""


def test_the_dearer_model_that_may_stand_in_is_what_a_budget_reserves(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    models = {"m": at("up0", context_length_fallbacks=["long"]), "long": at("up1"), "alone": at("up0")}
    limits = LimitsConfig(tiers={"standard": LimitConfig(usd_per_day=10)})

    async def main():
        async with before([TOO_LONG, said("long")], models, prices=str(path), limits=limits) as (
            gateway,
            port,
            _,
        ):
            limiter = gateway.pipeline.admission.limiter
            budget = limiter._concerned(a_call()).budgets[0]
            whole = budget.left
            reserved = {}
            for name in ("m", "alone"):
                one = a_call(model=name)
                held = limiter.reserve(one)
                reserved[name] = whole - budget.left
                held.release()
            assert budget.left == whole
            answer = await call(port, {**PROMPT, "max_tokens": 9})
            await until(lambda: not gateway.pipeline.productions)
            return reserved, answer, whole - budget.left

    reserved, answer, spent = asyncio.run(main())
    assert reserved["m"] == 100 * reserved["alone"]
    assert answer.headers["penstock-cost"] == "0.0005"
    assert spent == 5 * 100 * 10**6


def test_limits_hold_for_the_model_that_stands_in():
    models = {"m": at("up0", context_length_fallbacks=["long"]), "long": at("up1")}
    limits = LimitsConfig(models={"long": LimitConfig(requests_per_minute=1)})

    async def main():
        async with before([TOO_LONG, said("long")], models, limits=limits) as (_, port, _):
            return [(await call(port, PROMPT)).status for _ in range(2)]

    assert asyncio.run(main()) == [200, 400]


def test_what_others_answer_is_not_taken_of_the_models_own_limit():
    models = {"m": at("up0:50", context_length_fallbacks=["long"]), "long": at("up1")}
    limits = LimitsConfig(models={"m": LimitConfig(requests_per_minute=1)})

    async def main():
        async with before([said("m"), said("long")], models, limits=limits) as (_, port, _):
            asked = [words(100), words(100), words(1), words(1), words(100)]
            return [(await call(port, body)).status for body in asked]

    assert asyncio.run(main()) == [200, 200, 200, 429, 200]


def test_who_stands_in_is_known_by_the_name_under_which_it_is_limited():
    models = {
        "m": at("up0", content_filter_fallbacks=["other"]),
        "other": ModelConfig([CandidateConfig("up1", model="there")]),
    }
    limits = LimitsConfig(models={"other": LimitConfig(usd_per_day=1)})

    async def main():
        async with before([said("no")] * 2, models, limits=limits) as (gateway, _, _):
            return gateway.pipeline.snapshot.router.reaches("m", "up1", "there")

    assert asyncio.run(main()).name == "other"


def test_a_broken_stream_of_who_stands_in_goes_on_there_and_not_where_it_was_refused():
    models = {
        "m": at("up0", context_length_fallbacks=["long"]),
        "long": at("up1", "up2"),
    }
    prefill = CapabilitiesConfig(prefill="continue_final_message")

    async def main():
        async with simulated(
            "400-context-length",
            "cut-after=5,once",
            "",
            kinds=["openai"] * 3,
            capabilities=[prefill] * 3,
            models=models,
        ) as (gateway, port, _):
            answer = await call(port, body_for(CHAT), CHAT)
            await until(lambda: not gateway.pipeline.productions)
            return events_of(answer), rows(gateway)

    events, attempts = asyncio.run(main())
    assert text_of(CHAT, events) == whole_text(CHAT)
    check_form(CHAT, events)
    assert [row.outcome for row in attempts] == [Outcome.FAILED, Outcome.PARTIAL, Outcome.CONTINUED]
    assert [row.upstream for row in attempts][:2] == ["up0", "up1"]
    assert attempts[2].upstream_model == "long"


def test_a_log_that_another_process_began_with_who_stands_in_goes_on_there():
    models = {
        "m": at("up0:5", fallbacks=["other"], context_length_fallbacks=["long"]),
        "other": at("up3"),
        "long": at("up1", "up2"),
    }

    async def main():
        async with before([said("no")] * 4, models) as (gateway, _, _):
            router = gateway.pipeline.snapshot.router
            asked = a_call(body=json.dumps(words(100)).encode())
            begun = a_generation(asked)
            begun.append([b"data: {}\n\n"], 0.0)
            found = {}
            for name in ("up0", "up1", "up9"):
                begun.served_by = (name, "m" if name == "up0" else "long")
                chosen = router.substitutes.fit(asked, begun, router.route(asked))
                found[name] = [each.upstream.name for each in chosen]
            return found

    assert asyncio.run(main()) == {"up0": ["up0", "up3"], "up1": ["up1", "up2"], "up9": ["up0", "up3"]}


def test_a_smaller_model_that_is_asked_because_of_the_load_has_those_that_it_names():
    models = {"s": at("up0", context_length_fallbacks=["long"]), "m": at("up2"), "long": at("up1")}

    async def main():
        async with before([said("no")] * 3, models) as (gateway, _, _):
            router = gateway.pipeline.snapshot.router
            less = a_call(model="s", named="m")
            (small,) = router.route(less)
            named = router.substitutes.after(less, small, "context_length", [], [small])
            return [each.upstream.name for each in named]

    assert asyncio.run(main()) == ["up1"]


def test_what_another_model_said_is_not_compared_with_another_version():
    candidates = [CandidateConfig("up0", version="1"), CandidateConfig("up1", version="2", weight=0)]
    shadow = ShadowConfig(version="2", share=1.0, max_load=1.0)
    models = {
        "m": ModelConfig(candidates, shadow=shadow, content_filter_fallbacks=["other"]),
        "other": at("up2"),
    }

    async def main():
        async with before([FILTERED, said("no"), said("yes")], models) as (gateway, port, upstreams):
            answer = await call(port, PROMPT)
            await until(lambda: not gateway.pipeline.productions and not gateway._shadows._running)
            return who(answer), upstreams[1].connections

    assert asyncio.run(main()) == ("yes", 0)


def test_who_wants_a_version_gets_no_other_model():
    candidates = [CandidateConfig("up0", version="1"), CandidateConfig("up1", version="2")]
    models = {"m": ModelConfig(candidates, content_filter_fallbacks=["other"]), "other": at("up2")}
    answer, attempts = run([FILTERED, FILTERED, said("no")], models, {**PROMPT, "model": "m@2"})
    assert answer.status == 400
    assert [name for name, _, _ in attempts] == ["up1"]


def test_what_a_version_on_trial_refuses_the_old_one_is_asked_and_then_who_is_named():
    candidates = [CandidateConfig("up0", version="new"), CandidateConfig("up1", version="old")]
    canary = CanaryConfig(version="new", steps=[1.0])
    models = {
        "m": ModelConfig(candidates, canary=canary, content_filter_fallbacks=["other"]),
        "other": at("up2"),
    }
    answer, attempts = run([FILTERED, FILTERED, said("yes")], models, versions=VersionsConfig(path=""))
    assert who(answer) == "yes"
    assert [name for name, _, _ in attempts] == ["up0", "up1", "up2"]


def test_a_smaller_model_that_refuses_in_a_cascade_makes_way_for_the_larger_one():
    models = {
        "m": at("up1", cascade=CascadeConfig(model="mini")),
        "mini": at("up0", content_filter_fallbacks=["other"]),
        "other": at("up2"),
    }
    answer, attempts = run([FILTERED, said("large"), said("no")], models)
    assert who(answer) == "large"
    assert [name for name, _, _ in attempts] == ["up0", "up1"]


# ---- explain ----


def test_explain_says_who_stands_in_and_who_is_too_small():
    models = {
        "m": at("up0:50", context_length_fallbacks=["long"], content_filter_fallbacks=["other"]),
        "long": at("up1:150"),
        "other": at("up2"),
    }

    async def main():
        async with before([said("no")] * 3, models) as (gateway, _, _):
            return [gateway.explain(CHAT, {}, json.dumps(words(number)).encode()) for number in (9, 100, 200)]

    short, long, longest = asyncio.run(main())
    assert short["outcome"] == "sent to up0 as 'm'"
    assert [(each["upstream"], each.get("why")) for each in short["candidates"]] == [
        ("up0", None),
        ("up1", "if the prompt is longer than the ones before take"),
        ("up2", "if a filter of the ones before refuses the prompt"),
    ]
    assert long["outcome"] == "sent to up1 as 'long'"
    assert long["candidates"][0]["skipped"] == "the prompt has 100 tokens or more, and it takes 50"
    assert longest["outcome"].startswith(
        "refused with 400 context_length_exceeded: the prompt has 200 tokens or more"
    )


def test_where_nothing_of_it_is_configured_there_is_nothing_to_ask():
    async def main():
        async with before([said("yes")], {"m": at("up0", fallbacks=["n"]), "n": at("up0")}) as (
            gateway,
            _,
            _,
        ):
            return gateway.pipeline.snapshot.router.substitutes

    assert asyncio.run(main()) is None
