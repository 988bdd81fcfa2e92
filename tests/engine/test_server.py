"""The API of a local model, from outside: a real listener before a model that says sums."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time

import httpx2
import pytest
from engine_doubles import WORDS, LetterBackend, LetterTokenizer, SayingBackend, greedy, until_added

from penstock.config.model import LocalConfig
from penstock.engine.backend import Progress
from penstock.engine.serve import EngineService
from penstock.errors import ModelUnusable
from penstock.lab.serve import bind
from penstock.messages import Endpoint
from penstock.wire.delivered import token_ids
from penstock.wire.sse import Splitter

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED = [{"role": "user", "content": "penstock?"}]
PROMPT = LetterTokenizer().encode("<user>penstock?<assistant>", special=False)


def said(count, prompt=PROMPT):
    return LetterTokenizer().decode(greedy(prompt, count))


def chat(**more):
    return {"model": "m", "messages": ASKED, "max_tokens": 8, "temperature": 0, **more}


def completion(**more):
    return {"model": "m", "prompt": "penstock", "max_tokens": 8, "temperature": 0, **more}


@contextlib.asynccontextmanager
async def serving(backend, names=("m",), **config):
    """``(client, service)`` of a model's server."""

    def load():
        if isinstance(backend, Exception):
            raise backend
        return backend

    service = EngineService(load, LocalConfig(**config), names)
    sock = bind("127.0.0.1", 0)
    await service.start(sock)
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"
    try:
        async with httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
            yield client, service
    finally:
        if isinstance(backend, LetterBackend):
            backend.release()
        await service.close()


def play(test):
    asyncio.run(asyncio.wait_for(test, 60))


def ask(body, path=CHAT, backend=None, headers=None, **config):
    """The answer to one request."""
    answers = []

    async def test():
        async with serving(backend or LetterBackend(), **config) as (client, _):
            data = body if isinstance(body, bytes) else json.dumps(body)
            answers.append(await client.post(path, content=data, headers=headers))

    play(test())
    return answers[0]


def events(answer):
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")]


def error(answer):
    return answer.status_code, answer.json()["error"]


class TestChat:
    def test_a_plain_answer(self):
        answer = ask(chat()).json()
        assert answer["object"] == "chat.completion"
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": said(8), "refusal": None}
        assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
        used = {"prompt_tokens": len(PROMPT), "completion_tokens": 8, "total_tokens": len(PROMPT) + 8}
        assert answer["usage"] == used

    def test_a_stream_says_the_same(self):
        answer = ask(chat(stream=True, stream_options={"include_usage": True}))
        assert answer.text.endswith("data: [DONE]\n\n")
        *chunks, last = events(answer)
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == said(8)
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [
            "length"
        ]
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)
        assert all(chunk["usage"] is None for chunk in chunks)

    def test_usage_is_told_as_it_goes_if_that_is_asked_for(self):
        options = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, _ = events(ask(chat(stream=True, stream_options=options)))
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == list(range(9))

    def test_what_ends_by_itself_has_stopped(self):
        end = greedy(PROMPT, 5)[-1]
        answer = ask(chat(), backend=LetterBackend(end=end)).json()
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == greedy(PROMPT, 5).index(end) + 1

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_sequence_ends_it_and_is_not_told(self, stream):
        stop = said(20)[5:7]
        answer = ask(chat(stop=[stop, "never"], max_tokens=40, stream=stream))
        if stream:
            text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in events(answer))
            finish = events(answer)[-1]["choices"][0]["finish_reason"]
        else:
            text = answer.json()["choices"][0]["message"]["content"]
            finish = answer.json()["choices"][0]["finish_reason"]
            assert answer.json()["usage"]["completion_tokens"] == said(20).index(stop) + 2
        assert (text, finish) == (said(20)[: said(20).index(stop)], "stop")

    def test_several_choices_are_several_answers(self):
        answer = ask(chat(n=3)).json()
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in answer["choices"]} == {said(8)}
        assert answer["usage"]["completion_tokens"] == 24
        assert answer["usage"]["prompt_tokens"] == len(PROMPT)

    def test_log_probabilities_of_what_was_said(self):
        (choice,) = ask(chat(logprobs=True)).json()["choices"]
        told = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in told) == said(8)
        assert {token["logprob"] for token in told} == {-0.5}

    def test_the_last_message_is_gone_on_with(self):
        begun = [*ASKED, {"role": "assistant", "content": "a pipe"}]
        answer = ask(chat(messages=begun, continue_final_message=True, add_generation_prompt=False)).json()
        prompt = LetterTokenizer().encode("<user>penstock?<assistant>a pipe", special=False)
        assert answer["choices"][0]["message"]["content"] == said(8, prompt)

    def test_text_in_parts_is_text(self):
        parts = [{"role": "user", "content": [{"type": "text", "text": "penstock?"}]}]
        assert ask(chat(messages=parts)).json()["choices"][0]["message"]["content"] == said(8)


class TestCompletions:
    PROMPT = LetterTokenizer().encode("penstock", special=True)

    def test_a_plain_answer(self):
        answer = ask(completion(), COMPLETIONS).json()
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == said(8, self.PROMPT)

    def test_several_prompts_are_answered_in_their_order(self):
        prompts = ["one", [5, 6, 7], "three"]
        answer = ask(completion(prompt=prompts, n=2), COMPLETIONS).json()
        tokens = [
            [5, 6, 7] if one == [5, 6, 7] else LetterTokenizer().encode(one, special=True) for one in prompts
        ]
        assert [choice["text"] for choice in answer["choices"]] == [
            said(8, one) for one in tokens for _ in "ab"
        ]

    def test_the_limit_is_sixteen_tokens_unless_said(self):
        body = completion()
        del body["max_tokens"]
        assert ask(body, COMPLETIONS).json()["usage"]["completion_tokens"] == 16


class TestTokenIds:
    """In the form that vLLM uses, which the gateway reads from its log to go on with a broken answer."""

    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
    def test_the_log_has_all_of_them(self, path):
        body = chat(stream=True) if path == CHAT else completion(stream=True)
        answer = ask({**body, "return_token_ids": True}, path)
        log = Splitter().feed(answer.content)
        prompt = PROMPT if path == CHAT else TestCompletions.PROMPT
        endpoint = Endpoint.CHAT if path == CHAT else Endpoint.COMPLETIONS
        assert token_ids(endpoint, log) == (prompt, greedy(prompt, 8))

    def test_a_prompt_of_ids_goes_on_from_them(self):
        for cut in range(1, 8):
            ids = [*PROMPT, *greedy(PROMPT, cut)]
            answer = ask(completion(prompt=ids, max_tokens=8 - cut), COMPLETIONS).json()
            assert said(cut) + answer["choices"][0]["text"] == said(8)

    def test_a_plain_answer_has_them(self):
        answer = ask(chat(return_token_ids=True)).json()
        assert answer["prompt_token_ids"] == PROMPT
        assert answer["choices"][0]["token_ids"] == greedy(PROMPT, 8)

    def test_a_letter_of_three_tokens_is_told_with_all_three(self):
        """As if the model had said 漢: no chunk has a part of it."""

        class Kanji(LetterBackend):
            def step(self):
                progress = []
                for number, (_, _, ids) in list(self.running.items()):
                    ids.append(len(ids) % 3)
                    finish = "length" if len(ids) == 6 else ""
                    if finish:
                        del self.running[number]
                    progress.append(Progress(number, [ids[-1]], [], finish))
                return progress

        chunks = events(ask(chat(stream=True, return_token_ids=True), backend=Kanji()))
        told = [(c["choices"][0]["delta"]["content"], c["choices"][0].get("token_ids")) for c in chunks]
        assert [one for one in told if one[0]] == [("漢", [0, 1, 2]), ("漢", [0, 1, 2])]


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"temperature": -1}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"top_p": 1.5}, "top_p"),
            ({"top_k": -2}, "top_k"),
            ({"min_p": 2}, "min_p"),
            ({"n": 0}, "n"),
            ({"n": 17}, "n"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"min_tokens": 9}, "min_tokens"),
            ({"presence_penalty": 3}, "presence_penalty"),
            ({"repetition_penalty": 0}, "repetition_penalty"),
            ({"repetition_penalty": 1e-40}, "repetition_penalty"),
            ({"stop": ""}, "stop"),
            ({"stop": ["x"] * 17}, "stop"),
            ({"stop_token_ids": [10_000]}, "stop_token_ids"),
            ({"seed": 2**64}, "seed"),
            ({"messages": []}, "messages"),
            ({"logit_bias": {"5": 1}}, "logit_bias"),
            ({"top_logprobs": 2, "logprobs": True}, "top_logprobs"),
            ({"response_format": {"type": "json_schema"}}, "response_format"),
            ({"guided_regex": "("}, "guided_regex"),
            ({"structural_tag": "{}"}, "structural_tag"),
            ({"guided_choice": ["a"], "response_format": {"type": "json_object"}}, "guided_choice"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ],
    )
    def test_what_cannot_be_is_the_callers_mistake(self, more, param):
        status, told = error(ask(chat(**more)))
        assert (status, told["param"]) == (400, param)

    @pytest.mark.parametrize(
        "more",
        [
            {"prompt": []},
            {"prompt": ""},
            {"prompt": [[]]},
            {"prompt": ["a", 1]},
            {"prompt": [-1]},
            {"prompt": [len(WORDS)]},
            {"suffix": "x"},
            {"logprobs": 2},
            {"best_of": 3},
        ],
    )
    def test_so_with_completions(self, more):
        assert error(ask(completion(**more), COMPLETIONS))[0] == 400

    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
    @pytest.mark.parametrize(
        ("body", "why"),
        [
            (b"", "the body is empty"),
            (b"{", "the body is not valid JSON"),
            (b"[]", "Expected `object`"),
            (b"\xff", "the body is not valid JSON"),
            (b'{"model":"\xff"}', "the body is not UTF-8"),
            (b"[" * 5_000, "Expected `object`"),
        ],
    )
    def test_what_is_no_request(self, path, body, why):
        status, told = error(ask(body, path))
        assert status == 400
        assert why in told["message"]

    @pytest.mark.parametrize("limit", [None, 1, 190])
    def test_a_context_that_is_too_long_is_refused_before_anything_runs(self, limit):
        backend = LetterBackend(context=200)
        long = [{"role": "user", "content": "x" * 200}] if limit != 190 else ASKED
        status, told = error(ask(chat(messages=long, max_tokens=limit), backend=backend))
        assert (status, told["code"]) == (400, "context_length_exceeded")
        assert "200 tokens" in told["message"]
        assert not backend.added

    def test_without_a_limit_an_answer_ends_with_the_context(self):
        answer = ask(chat(max_tokens=None), backend=LetterBackend(context=60)).json()
        assert answer["usage"]["total_tokens"] == 60
        assert answer["choices"][0]["finish_reason"] == "length"

    def test_a_role_that_the_template_does_not_know(self):
        assert error(ask(chat(messages=[{"role": "nobody", "content": "x"}])))[0] == 400

    def test_a_grammar_is_refused_with_its_line(self):
        status, told = error(ask(chat(guided_grammar='root ::= "a"\n  x')))
        assert (status, told["param"]) == (400, "guided_grammar")
        assert "line 2" in told["message"]

    def test_a_rule_that_the_library_refuses(self):
        backend = LetterBackend()
        backend.unfit = "the rule cannot be used: line 1"
        status, told = error(ask(chat(guided_choice=["a"]), backend=backend))
        assert (status, told["message"]) == (400, backend.unfit)
        assert not backend.added

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_ambiguous_grammar_ends_its_own_call_and_no_other(self, stream):
        async def test():
            rule = {"grammar": "root ::= root root | [a-z]"}
            backend = SayingBackend("a" * 900, held=True)
            async with serving(backend) as (client, service):
                ruled = client.post(CHAT, json=chat(max_tokens=900, stream=stream, **rule))
                ruled = asyncio.ensure_future(ruled)
                await until_added(backend, 1)
                plain = asyncio.ensure_future(client.post(CHAT, json=chat(max_tokens=900)))
                while not service.engine.statistics().waiting:
                    await asyncio.sleep(0)
                backend.allow(200)
                stopped = await ruled
                backend.release()
                whole = await plain
                told = events(stopped)[-1]["error"] if stream else error(stopped)[1]
                assert stopped.status_code == (200 if stream else 400)
                assert (told["code"], told["type"]) == ("ambiguous_grammar", "invalid_request_error")
                assert whole.json()["choices"][0]["message"]["content"] == "a" * 900
                assert len(backend.cancelled) == 1

        play(test())

    def test_an_ambiguous_expression_ends_no_call(self):
        rule = "([a-z]+b?)+([a-z]+c?)+([a-z]+d?)+"
        answer = ask(chat(max_tokens=900, regex=rule), backend=SayingBackend("a" * 900)).json()
        assert answer["choices"][0]["message"]["content"] == "a" * 900

    def test_an_answer_to_a_grammar_with_one_reading_is_told_whole(self):
        rule = 'root ::= "a" root | "a"'
        answer = ask(chat(max_tokens=900, grammar=rule), backend=SayingBackend("a" * 900)).json()
        assert answer["choices"][0]["message"]["content"] == "a" * 900

    def test_a_model_of_another_name_is_not_found(self):
        status, told = error(ask(chat(model="other")))
        assert (status, told["code"]) == (404, "model_not_found")

    def test_any_name_where_none_is_given(self):
        assert ask(chat(model="other"), names=()).json()["model"] == "other"

    @pytest.mark.parametrize("name", ["penstock-priority", "penstock-deadline"])
    def test_header_fields_that_make_no_sense(self, name):
        assert error(ask(chat(), headers={name: "soon"}))[0] == 400

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", CHAT, 405),
            ("GET", "/v1/nothing", 404),
            ("POST", "/healthz", 404),
            ("POST", "/v1/moderations", 404),
        ],
    )
    def test_what_is_not_served_says_so(self, method, path, status):
        async def test():
            async with serving(LetterBackend()) as (client, _):
                answer = await client.request(method, path)
                assert error(answer)[0] == status

        play(test())


class TestPressure:
    def test_who_leaves_gives_the_place_up(self):
        async def test():
            backend = LetterBackend(held=True)
            async with serving(backend, slots=1) as (client, service):
                backend.allow()
                async with client.stream("POST", CHAT, json=chat(stream=True, max_tokens=100)) as answer:
                    async for _ in answer.aiter_lines():
                        break
                other = asyncio.ensure_future(client.post(CHAT, json=chat(max_tokens=2)))
                while not backend.cancelled:
                    backend.allow()
                    await asyncio.sleep(0)
                backend.release()
                assert (await other).json()["choices"][0]["message"]["content"] == said(2)
                assert backend.cancelled == backend.added[:1]
                assert service.engine.statistics().running == 0

        play(test())

    def test_a_rule_that_takes_long_keeps_nobody_else_waiting(self):
        async def test():
            backend = LetterBackend()
            ready = threading.Event()
            backend.prepare = lambda sampling: ready.wait(30)
            async with serving(backend) as (client, _):
                ruled = asyncio.ensure_future(client.post(CHAT, json=chat(guided_regex="a+")))
                assert (await client.post(CHAT, json=chat())).status_code == 200
                assert len(backend.added) == 1
                ready.set()
                assert (await ruled).status_code == 200

        play(test())

    def test_the_gateways_order_is_kept(self):
        async def test():
            backend = LetterBackend(held=True)
            async with serving(backend, slots=1) as (client, service):
                calls = [asyncio.ensure_future(client.post(CHAT, json=chat(max_tokens=1)))]
                await until_added(backend, 1)
                for headers in (
                    {},
                    {"penstock-deadline": f"{time.time() + 500:.0f}"},
                    {"penstock-priority": "7"},
                ):
                    calls.append(
                        asyncio.ensure_future(client.post(CHAT, json=chat(max_tokens=1), headers=headers))
                    )
                    while service.engine.statistics().waiting < len(calls) - 1:
                        await asyncio.sleep(0)
                backend.release()
                await asyncio.gather(*calls)
                assert backend.added == [1, 4, 3, 2]

        play(test())

    def test_too_many_are_told_to_come_back(self):
        async def test():
            backend = LetterBackend(held=True)
            async with serving(backend, slots=1, max_waiting=0) as (client, _):
                first = asyncio.ensure_future(client.post(CHAT, json=chat()))
                await until_added(backend, 1)
                refused = await client.post(CHAT, json=chat())
                assert error(refused)[0] == 503
                assert refused.headers["retry-after"] == "1"
                backend.release()
                assert (await first).status_code == 200

        play(test())

    def test_a_step_that_fails_ends_a_stream_in_an_error(self):
        async def test():
            backend = LetterBackend(held=True)
            async with serving(backend) as (client, _):
                backend.allow()
                async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
                    lines = answer.aiter_lines()
                    await anext(lines)
                    backend.fail = RuntimeError("in the middle")
                    backend.allow()
                    rest = [line async for line in lines]
                assert '"error"' in rest[-2]
                assert "[DONE]" not in "".join(rest)
                assert (await client.get("/healthz")).status_code == 503

        play(test())

    def test_no_room_in_the_cache_is_pressure(self):
        class Full(LetterBackend):
            def step(self):
                numbers = list(self.running)
                self.running.clear()
                return [Progress(number, [], [], "memory") for number in numbers]

        status, told = error(ask(chat(), backend=Full()))
        assert (status, told["code"]) == (503, "overloaded")


class TestState:
    def test_health_models_and_metrics(self):
        async def test():
            async with serving(LetterBackend()) as (client, service):
                await service.engine.loaded()
                assert (await client.get("/healthz")).json() == {"status": "ok"}
                (model,) = (await client.get("/v1/models")).json()["data"]
                assert (model["id"], model["max_model_len"], model["owned_by"]) == (
                    "m",
                    200,
                    "penstock-engine",
                )
                await client.post(CHAT, json=chat())
                await client.post(CHAT, json=chat(n=0))
                text = (await client.get("/metrics")).text
                assert 'penstock_engine_requests_total{endpoint="chat",status="200"} 1' in text
                assert 'penstock_engine_requests_total{endpoint="chat",status="400"} 1' in text
                assert 'penstock_engine_tokens_total{kind="answer"} 8' in text
                assert "penstock_engine_first_token_seconds_count 1" in text

        play(test())

    def test_a_model_that_cannot_be_loaded_tells_every_call_why(self):
        async def test():
            unusable = ModelUnusable("model/weights.bin is cut off: copy it again")
            async with serving(unusable) as (client, _):
                for _ in range(2):
                    status, told = error(await client.post(CHAT, json=chat()))
                    assert (status, told["code"]) == (503, "model_unusable")
                    assert told["message"] == unusable.message
                health = await client.get("/healthz")
                assert error(health) == (503, told)

        play(test())

    def test_calls_wait_while_it_is_loaded(self):
        async def test():
            backend, go = LetterBackend(), asyncio.Event()
            loop = asyncio.get_running_loop()

            def load():
                asyncio.run_coroutine_threadsafe(go.wait(), loop).result(30)
                return backend

            service = EngineService(load, LocalConfig(), ("m",))
            sock = bind("127.0.0.1", 0)
            await service.start(sock)
            base = f"http://127.0.0.1:{sock.getsockname()[1]}"
            async with httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False) as client:
                call = asyncio.ensure_future(client.post(CHAT, json=chat()))
                assert (await client.get("/healthz")).json() == {"status": "loading"}
                go.set()
                assert (await call).status_code == 200
            await service.close()

        play(test())
