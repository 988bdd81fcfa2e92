"""An answer says how many attempts it took, and who has made it where the configuration lets it."""

import json

import pytest
from continuing import CHAT, MESSAGES, body_for, simulated
from serving import call, on_uvloop

from penstock.config.model import CandidateConfig, ModelCacheConfig, ModelConfig

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
WHO = ("penstock-upstream", "penstock-model", "penstock-version", "penstock-attempts")


def told(answer):
    return [answer.headers.get(name) for name in WHO]


def candidates(*ups, model="inner", version=""):
    return [
        CandidateConfig(upstream=f"up{up}", model=model, version=version, weight=not number)
        for number, up in enumerate(ups)
    ]


def asked(*scripts, bodies=(PROMPT,), path=CHAT, models=None, **more):
    async def main():
        async with simulated(*scripts, models=models, **more) as (_, port, _):
            return [await call(port, body, path) for body in bodies]

    return on_uvloop(main)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["sim", "anthropic", "openai"])
def test_who_has_answered_is_told_if_it_shall_be(path, stream, kind):
    models = {"m": ModelConfig(candidates=candidates(0, version="7"))}
    bodies = [{**body_for(path), "stream": stream}]
    more = {"kinds": [kind], "path": path, "models": models, "bodies": bodies}
    (answer,) = asked("tokens=4", show_upstream=True, **more)
    assert told(answer) == ["up0", "inner", "7", None]
    assert "127.0.0.1" not in json.dumps(answer.headers)
    (answer,) = asked("tokens=4", **more)
    assert told(answer) == [None] * 4


@pytest.mark.parametrize("stream", [True, False])
def test_who_stood_in_is_told_and_after_how_many_attempts(stream):
    models = {"m": ModelConfig(candidates=candidates(0, 1))}
    more = {"models": models, "bodies": [{**PROMPT, "stream": stream}]}
    (answer,) = asked("500", "tokens=4", show_upstream=True, **more)
    upstream, model, version, attempts = told(answer)
    assert (upstream, model, version) == ("up1", "inner", None)
    assert int(attempts) > 1
    (answer,) = asked("500", "tokens=4", **more)
    assert told(answer) == [None, None, None, attempts]


def test_a_kept_answer_tells_who_made_it_and_no_attempts():
    models = {"m": ModelConfig(candidates=candidates(0, 1), cache=ModelCacheConfig())}
    answers = asked("500", "tokens=4", models=models, show_upstream=True, bodies=[PROMPT] * 3)
    assert [answer.headers["penstock-status"] for answer in answers] == ["created", "cached", "cached"]
    assert [told(answer)[:2] for answer in answers] == [["up1", "inner"]] * 3
    assert [told(answer)[3] is None for answer in answers] == [False, True, True]


def test_a_name_that_a_caller_made_up_makes_no_header_of_its_own():
    models = {"*": ModelConfig(candidates=candidates(0, model=""))}
    bodies = [{**PROMPT, "model": "x\r\nset-cookie: a=1\u00e9"}]
    (answer,) = asked("tokens=4", models=models, show_upstream=True, bodies=bodies)
    assert answer.headers["penstock-model"] == "x??set-cookie: a=1?"
    assert "set-cookie" not in answer.headers


def fallback_of(*scripts, models, **more):
    (answer,) = asked(*scripts, models=models, **more)
    assert answer.status == 200
    return answer.headers.get("penstock-fallback")


@pytest.mark.parametrize("stream", [True, False])
def test_that_another_has_answered_is_told_without_its_name(stream):
    more = {"bodies": [{**PROMPT, "stream": stream}]}
    both = {"m": ModelConfig(candidates=candidates(0, 1))}
    assert fallback_of("tokens=4", "tokens=4", models=both, **more) is None
    assert fallback_of("500", "tokens=4", models=both, **more) == "candidate"
    other = {
        "m": ModelConfig(candidates=candidates(0), fallbacks=['little "one"']),
        'little "one"': ModelConfig(candidates=candidates(1)),
    }
    assert fallback_of("tokens=4", "tokens=4", models=other, **more) is None
    assert fallback_of("500", "tokens=4", models=other, **more) == 'model; model="little \\"one\\""'


def test_a_kept_answer_tells_that_another_has_made_it():
    models = {"m": ModelConfig(candidates=candidates(0, 1), cache=ModelCacheConfig())}
    answers = asked("500", "tokens=4", models=models, bodies=[PROMPT] * 2)
    assert [answer.headers["penstock-fallback"] for answer in answers] == ["candidate"] * 2
