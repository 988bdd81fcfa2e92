"""What callers of vLLM are used to: each member and path works, or is refused by its name."""

from __future__ import annotations

import openai
import pytest
from engine_doubles import WORDS, LetterBackend, LetterTokenizer
from test_server import ASKED, COMPLETIONS, PROMPT, ask, chat, completion, error, events, play, said, serving

from penstock import __version__
from penstock.engine.backend import Logprob, ModelCard, Progress
from penstock.engine.unsupported import UnsupportedBody

LETTERS = LetterTokenizer()
TEXT = LETTERS.encode("penstock", special=False)


class DrawingBackend(LetterBackend):
    """Draws by itself: a bias of a hundred decides, and the two likeliest are told."""

    def __init__(self):
        super().__init__()
        card = {name: getattr(self.card, name) for name in ModelCard.__struct_fields__}
        self.card = ModelCard(**card | {"draws": True, "scores": True})

    def step(self):
        progress = []
        for one in super().step():
            sampling = self.asked[one.number]
            ids = [sampling.logit_bias[0][0]] if sampling.logit_bias else one.ids
            top = tuple((token, -1.0 - token) for token in range(4, 4 + sampling.top_logprobs))
            told = [Logprob(-0.5, top)] if sampling.logprobs else []
            prompt = []
            if sampling.prompt_logprobs is not None:
                prompt = [
                    Logprob(-float(place), top[:1], 7) for place in range(1, self.lengths.pop(one.number, 1))
                ]
            progress.append(Progress(one.number, ids, told, one.finish, prompt=prompt))
        return progress

    def add(self, number, prompt, sampling):
        self.asked = getattr(self, "asked", {}) | {number: sampling}
        self.lengths = getattr(self, "lengths", {}) | {number: len(prompt)}
        super().add(number, prompt, sampling)


class TestDone:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("prompt", ["penstock", TEXT], ids=["text", "ids"])
    def test_an_echo_comes_first(self, stream, prompt):
        answer = ask(completion(prompt=prompt, echo=True, n=2, stream=stream), COMPLETIONS)
        texts = ["", ""]
        for told in events(answer) if stream else [answer.json()]:
            for choice in told["choices"]:
                texts[choice["index"]] += choice["text"]
        assert texts == ["penstock" + said(8, TEXT)] * 2

    def test_each_of_several_prompts_is_echoed(self):
        answer = ask(completion(prompt=["ab", [*TEXT]], echo=True), COMPLETIONS).json()
        assert [choice["text"][:8] for choice in answer["choices"]] == [
            "ab" + said(6, LETTERS.encode("ab", special=False)),
            "penstock",
        ]

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_stop_sequence_is_part_of_the_answer_if_that_is_asked_for(self, stream):
        stop = said(20)[5:7]
        more = {"stop": [stop], "include_stop_str_in_output": True, "max_tokens": 40, "stream": stream}
        answer = ask(chat(**more))
        if stream:
            text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in events(answer))
        else:
            text = answer.json()["choices"][0]["message"]["content"]
        assert text == said(20)[: said(20).index(stop) + 2]

    def test_a_template_is_told_what_the_caller_says(self):
        more = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
        used = ask(chat(**more)).json()["usage"]["prompt_tokens"]
        assert used == len(PROMPT) + len("(enable_thinking False)(reasoning_effort low)")

    def test_a_template_is_not_told_other_messages(self):
        status, told = error(ask(chat(chat_template_kwargs={"messages": []})))
        assert (status, told["param"]) == (400, "chat_template_kwargs")

    def test_the_likeliest_tokens_of_a_chat(self):
        answer = ask(chat(logprobs=True, top_logprobs=2, max_tokens=1), backend=DrawingBackend()).json()
        ((told,),) = [choice["logprobs"]["content"] for choice in answer["choices"]]
        assert told["logprob"] == -0.5
        assert [(one["token"], one["logprob"]) for one in told["top_logprobs"]] == [("!", -5.0), ('"', -6.0)]

    def test_the_likeliest_tokens_of_a_completion(self):
        body = completion(logprobs=2, max_tokens=1)
        (choice,) = ask(body, COMPLETIONS, DrawingBackend()).json()["choices"]
        chosen = choice["text"]
        assert choice["logprobs"]["top_logprobs"] == [{"!": -5.0, '"': -6.0, chosen: -0.5}]

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_echo_with_log_probabilities_has_those_of_the_prompt(self, stream):
        """Of its first token nothing can be said."""
        body = completion(prompt="abc", echo=True, logprobs=1, max_tokens=2, stream=stream)
        answer = ask(body, COMPLETIONS, DrawingBackend())
        told = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for each in events(answer) if stream else [answer.json()]:
            for name in told:
                told[name] += each["choices"][0]["logprobs"][name]
        assert "".join(told["tokens"]) == "abc" + said(2, LETTERS.encode("abc", special=False))
        assert told["token_logprobs"] == [None, -1.0, -2.0, -0.5, -0.5]
        assert told["top_logprobs"][:3] == [None, {"!": -5.0, "b": -1.0}, {"!": -5.0, "c": -2.0}]
        assert told["text_offset"] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("kind", ["chat", "completion"])
    def test_log_probabilities_of_a_prompt_as_vllm_has_them(self, kind):
        body = chat() if kind == "chat" else completion(prompt="abc", n=2)
        answer = ask(
            body | {"prompt_logprobs": 0},
            *([] if kind == "chat" else [COMPLETIONS]),
            backend=DrawingBackend(),
        ).json()
        if kind == "chat":
            assert len(answer["prompt_logprobs"]) == len(PROMPT)
            return
        (b,) = LETTERS.encode("b", special=False)
        for choice in answer["choices"]:
            first, second, _ = choice["prompt_logprobs"]
            assert first is None
            assert second == {str(b): {"logprob": -1.0, "rank": 7, "decoded_token": "b"}}

    def test_a_bias_reaches_who_draws(self):
        (choice,) = ask(chat(logit_bias={"40": 100}), backend=DrawingBackend()).json()["choices"]
        assert choice["message"]["content"] == 8 * WORDS[40].decode()

    @pytest.mark.parametrize("bias", [{"x": 1}, {"-1": 1}, {"10000": 1}, {"5": 101}, {"5": -100.5}])
    def test_a_bias_that_makes_no_sense(self, bias):
        status, told = error(ask(chat(logit_bias=bias), backend=DrawingBackend()))
        assert (status, told["param"]) == (400, "logit_bias")

    def test_alternatives_need_log_probabilities(self):
        status, told = error(ask(chat(top_logprobs=2), backend=DrawingBackend()))
        assert (status, told["param"]) == (400, "top_logprobs")


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("allowed_token_ids", [5]),
            ("bad_words", ["x"]),
            ("cache_salt", "mine"),
            ("chat_template", "{{ messages }}"),
            ("early_stopping", True),
            ("kv_transfer_params", {"a": 1}),
            ("length_penalty", 0.5),
            ("logits_processors", ["x"]),
            ("modalities", ["text", "audio"]),
            ("priority", -5),
            ("prompt_embeds", "AAAA"),
            ("prompt_logprobs", 0),
            ("repetition_detection", {"max_pattern_size": 3}),
            ("return_tokens_as_token_ids", True),
            ("skip_special_tokens", False),
            ("thinking_token_budget", 5),
            ("truncate_prompt_tokens", 5),
            ("use_beam_search", True),
            ("vllm_xargs", {"a": 1}),
            ("web_search_options", {}),
            ("audio", {"voice": "x"}),
            ("logit_bias", {"5": 1}),
        ],
    )
    def test_what_is_not_done_by_its_name(self, name, value):
        status, told = error(ask(chat(**{name: value})))
        assert (status, told["param"], told["code"]) == (400, name, "unsupported_parameter")

    def test_every_one_of_them_is_tried(self):
        (tried,) = (
            mark.args[1]
            for mark in TestRefused.test_what_is_not_done_by_its_name.pytestmark
            if mark.name == "parametrize"
        )
        own = set(UnsupportedBody.__struct_fields__) - set(UnsupportedBody.__mro__[1].__struct_fields__)
        assert own <= {name for name, _ in tried}

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
            ({"echo": True, "logprobs": 1, "return_token_ids": True}, "echo"),
            ({"echo": True, "logprobs": 1, "prompt_logprobs": 1}, "echo"),
            ({"prompt_logprobs": 21}, "prompt_logprobs"),
            ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ],
    )
    def test_log_probabilities_of_a_prompt_that_cannot_be_told(self, more, param):
        status, told = error(ask(completion(**more), COMPLETIONS, DrawingBackend()))
        assert (status, told["param"]) == (400, param)

    @pytest.mark.parametrize("more", [{"logprobs": 0}, {"logprobs": 2}])
    def test_an_echo_with_log_probabilities(self, more):
        status, told = error(ask(completion(echo=True, **more), COMPLETIONS))
        assert (status, told["code"]) == (400, "unsupported_parameter")

    def test_what_says_what_happens_anyway_is_taken(self):
        more = {
            "skip_special_tokens": True,
            "use_beam_search": False,
            "length_penalty": 1.0,
            "priority": 0,
            "bad_words": [],
            "spaces_between_special_tokens": True,
            "modalities": ["text"],
            "prompt_logprobs": None,
        }
        assert ask(chat(**more)).json()["choices"][0]["message"]["content"] == said(8)


class TestTokens:
    @staticmethod
    def told(path, body, **config):
        answer = ask(body, path, **config)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def test_of_a_text(self):
        assert self.told("/tokenize", {"model": "m", "prompt": "penstock", "return_token_strs": True}) == {
            "count": 8,
            "max_model_len": 200,
            "tokens": TEXT,
            "token_strs": [*"penstock"],
        }

    def test_of_a_chat_those_that_it_would_be_asked_with(self):
        told = self.told("/tokenize", {"messages": ASKED})
        assert (told["tokens"], told["token_strs"]) == (PROMPT, None)

    def test_token_ids_are_told_as_text_again(self):
        assert self.told("/detokenize", {"model": "m", "tokens": TEXT}) == {"prompt": "penstock"}

    def test_a_text_longer_than_the_context_is_counted(self):
        assert self.told("/tokenize", {"prompt": "x" * 30_000})["count"] == 30_000

    @pytest.mark.parametrize(
        ("path", "body", "status"),
        [
            ("/tokenize", {}, 400),
            ("/tokenize", {"prompt": 5}, 400),
            ("/tokenize", b"{", 400),
            ("/tokenize", {"messages": [{"role": "nobody"}]}, 400),
            ("/tokenize", {"model": "other", "prompt": "x"}, 404),
            ("/detokenize", {"tokens": [-1]}, 400),
            ("/detokenize", {"tokens": [10_000]}, 400),
            ("/detokenize", {"tokens": ["x"]}, 400),
        ],
    )
    def test_what_makes_no_sense(self, path, body, status):
        assert error(ask(body, path))[0] == status


class TestPaths:
    def test_the_one_model_by_its_name(self):
        async def test():
            async with serving(LetterBackend(), names=("org/name",)) as (client, _):
                base = str(client.base_url)
                async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="x", max_retries=0) as sdk:
                    assert (await sdk.models.retrieve("org/name")).id == "org/name"
                    with pytest.raises(openai.NotFoundError):
                        await sdk.models.retrieve("other")

        play(test())

    def test_signs_of_life_and_a_version(self):
        async def test():
            async with serving(LetterBackend()) as (client, service):
                await service.engine.loaded()
                for path in ("/healthz", "/health", "/ping"):
                    assert (await client.get(path)).status_code == 200
                assert (await client.get("/version")).json() == {"version": __version__}
                assert (await client.get("/tokenize")).status_code == 405

        play(test())
