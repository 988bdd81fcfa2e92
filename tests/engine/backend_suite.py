"""What every backend must do, with a real model: to be inherited by a class of tests."""

from __future__ import annotations

import asyncio
import itertools
import json

import msgspec
import pytest
from engine_doubles import Reader

from penstock.config.model import LocalConfig
from penstock.engine import request
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.engine import Engine, Job
from penstock.engine.serve import load
from penstock.engine.text import TextStream, text_of
from penstock.errors import ModelUnusable
from penstock.messages import Endpoint

QUESTIONS = ("What is json.dumps?", "What does os.path.join do?", "Explain asyncio.run.", "Hello", "漢字 🙂")
TOKENS = 24
NUMBERS = itertools.count(1)
VAST = 10**12  # bytes of a file; all but a few of them are a hole


def compute(backend, *asked):
    """``(ids, logprobs, finish)`` of each, computed together until all have ended."""
    told = {}
    for prompt, sampling in asked:
        number = next(NUMBERS)
        backend.add(number, prompt, sampling)
        told[number] = ([], [], [])
    while not all(finish for _, _, finish in told.values()):
        for progress in backend.step():
            ids, logprobs, finish = told[progress.number]
            ids += progress.ids
            logprobs += progress.logprobs
            finish += [progress.finish] if progress.finish else []
    return [(ids, logprobs, finish[0]) for ids, logprobs, finish in told.values()]


def scores(backend, *asked):
    """Of the prompt's tokens, of each."""
    told = {}
    for prompt, sampling in asked:
        number = next(NUMBERS)
        backend.add(number, prompt, sampling)
        told[number] = []
    left = set(told)
    while left:
        for progress in backend.step():
            told[progress.number] += progress.prompt
            left -= {progress.number} if progress.finish else set()
    return list(told.values())


def greedy(count=TOKENS, **more):
    return Sampling(max_tokens=count, temperature=0.0, repetition_penalty=1.2, **more)


def small(slots=2, cache_bytes=8_000_000):
    return LocalConfig(threads=1, exact=True, slots=slots, cache_bytes=cache_bytes)


class BackendSuite:
    """Who inherits has the fixtures ``make``, a backend of a :class:`LocalConfig`, and ``backend``, one that is made.

    And ``enlarged``: a directory of such a model, whose weights are :data:`VAST` bytes long.
    """

    @pytest.fixture
    def prompts(self, backend):
        tokenizer = backend.tokenizer
        return [
            tokenizer.encode(
                tokenizer.render([{"role": "user", "content": text}], answer=True), special=False
            )
            for text in QUESTIONS
        ]

    def test_a_model_that_the_memory_has_no_room_for_is_refused_before_it_is_loaded(self, enlarged):
        with pytest.raises(ModelUnusable, match=r"needs about 100\d\.\d GB .* are free") as refused:
            load(LocalConfig(model=str(enlarged), threads=1, exact=True, slots=2, cache_bytes=4_000_000))
        assert str(enlarged) in refused.value.message

    def test_many_together_say_what_each_says_alone(self, backend, prompts):
        alone = [compute(backend, (prompt, greedy()))[0] for prompt in prompts]
        assert compute(backend, *((prompt, greedy()) for prompt in prompts * 4)) == alone * 4

    def test_an_answer_that_is_cut_at_any_token_is_gone_on_with_to_the_letter(self, backend, prompts):
        for prompt in prompts:
            ((ids, _, finish),) = compute(backend, (prompt, greedy()))
            cuts = range(1, len(ids))
            rests = compute(backend, *(([*prompt, *ids[:cut]], greedy(TOKENS - cut)) for cut in cuts))
            for cut, (rest, _, ending) in zip(cuts, rests, strict=True):
                assert (ids[:cut] + rest, ending) == (ids, finish)

    def test_one_that_has_computed_nothing_goes_on_where_another_one_stopped(self, make, prompts):
        """As after a ``kill -9``, at any token: nothing is left of the first one's cache, and none is kept here."""
        first = make(small())
        ((whole, _, finish),) = compute(first, (prompts[0], greedy()))
        first.close()
        second = make(msgspec.structs.replace(small(), prefix_cache=False))
        for cut in range(1, len(whole)):
            ((rest, _, ending),) = compute(second, ([*prompts[0], *whole[:cut]], greedy(TOKENS - cut)))
            assert (whole[:cut] + rest, ending) == (whole, finish)
        second.close()

    def test_text_is_that_of_the_librarys_own_decoder(self, backend, prompts):
        assert backend.tokenizer.pieces() is not None
        for prompt in prompts:
            ((ids, _, _),) = compute(backend, (prompt, greedy()))
            stream = TextStream(text_of(backend.tokenizer.pieces(), backend.tokenizer.decode, prompt))
            told = [*stream.feed(ids, []), stream.end()]
            assert "".join(piece.text for piece in told) == backend.tokenizer.decode(ids)

    @pytest.mark.parametrize("text", ["plain", "漢字", "🙂", "\n\n  indented"])
    def test_text_survives_its_way_through_tokens(self, backend, text):
        ids = backend.tokenizer.encode(text, special=False)
        pieces = backend.tokenizer.pieces()
        assert b"".join(pieces[token] for token in ids).decode() == text

    def test_log_probabilities_are_those_of_the_tokens(self, backend, prompts):
        ((ids, logprobs, _),) = compute(backend, (prompts[0], greedy(logprobs=True)))
        assert len(ids) == len(logprobs)
        ((_, unasked, _),) = compute(backend, (prompts[0], greedy()))
        assert unasked == []
        assert all(logprob.value <= 0 for logprob in logprobs)

    def test_what_was_said_is_as_likely_in_a_prompt(self, make, prompts):
        backend = make(msgspec.structs.replace(small(), prefix_cache=False))
        if not backend.card.scores:
            pytest.skip("how likely the tokens of a prompt are is not told")
        plain = Sampling(max_tokens=TOKENS, temperature=0.0, logprobs=True, ignore_eos=True)
        ((ids, logprobs, _),) = compute(backend, (prompts[0], plain))
        prompt = [*prompts[0], *ids]
        scored = Sampling(max_tokens=3, temperature=0.0, prompt_logprobs=0)
        for _ in range(2):
            (of_prompt,) = scores(backend, (prompt * 8, scored))
            assert len(of_prompt) == 8 * len(prompt) - 1
            told = [score.value for score in of_prompt[len(prompts[0]) - 1 : len(prompt) - 1]]
            assert told == pytest.approx([logprob.value for logprob in logprobs], abs=1e-3)
        backend.close()

    def test_the_same_seed_says_the_same(self, backend, prompts):
        def sampled(seed):
            return Sampling(max_tokens=TOKENS, temperature=1.0, seed=seed)

        ((first, _, _),) = compute(backend, (prompts[0], sampled(5)))
        ((again, _, _),) = compute(backend, (prompts[0], sampled(5)))
        ((other, _, _),) = compute(backend, (prompts[0], sampled(6)))
        assert first == again
        assert first != other

    def test_without_a_seed_each_call_says_something_else(self, backend, prompts):
        """Also those that came together, as the choices of one request do, and the same question asked again."""
        anything = Sampling(max_tokens=TOKENS, temperature=1.0, ignore_eos=True)
        said = [ids for _ in range(2) for ids, _, _ in compute(backend, *[(prompts[0], anything)] * 2)]
        assert len(set(map(tuple, said))) == 4

    @pytest.mark.parametrize("temperature", [1e-6, 1e-40, 5e-324])
    def test_next_to_no_temperature_is_none(self, backend, temperature):
        """Logits that are divided by so little are no numbers any more, and what is drawn of these is anything."""

        def ids(temperature):
            asked = {"model": "m", "prompt": QUESTIONS[0], "max_tokens": 8, "temperature": temperature}
            read = request.read(
                Endpoint.COMPLETIONS, json.dumps(asked).encode(), backend.tokenizer, backend.card
            )
            return compute(backend, (read.prompts[0], read.sampling))[0][0]

        assert ids(temperature) == ids(0)

    def test_a_stop_token_ends_an_answer(self, backend, prompts):
        ((ids, _, _),) = compute(backend, (prompts[0], greedy(ignore_eos=True)))
        stopped = greedy(ignore_eos=True, stop_token_ids=(ids[5],))
        ((cut, _, finish),) = compute(backend, (prompts[0], stopped))
        assert finish == "stop"
        assert cut == ids[: ids.index(ids[5]) + 1]

    def test_a_cancelled_answer_is_not_told_of_again(self, backend, prompts):
        numbers = [next(NUMBERS), next(NUMBERS)]
        for number in numbers:
            backend.add(number, prompts[0], greedy())
        backend.step()
        backend.cancel(numbers[0])
        told = [progress.number for _ in range(3) for progress in backend.step()]
        assert set(told) == {numbers[1]}
        backend.cancel(numbers[1])
        assert backend.step() == []

    @pytest.mark.parametrize("wrong", [{"min_tokens": 50}, {"repetition_penalty": 0.0}])
    def test_what_contradicts_itself_is_refused_and_does_no_harm(self, backend, prompts, wrong):
        with pytest.raises(CannotTake):
            backend.add(
                next(NUMBERS),
                prompts[0],
                Sampling(**{"max_tokens": 5, "temperature": 0.0, "repetition_penalty": 1.0, **wrong}),
            )
        compute(backend, (prompts[0], greedy(2)))

    def test_an_engine_of_it(self, make, backend, prompts):
        """Its thread, its loop, its end: with a backend of its own."""

        async def test():
            engine = Engine(lambda: make(small(4)), slots=4)
            await engine.loaded()
            readers = [Reader() for _ in prompts]
            for prompt, reader in zip(prompts, readers, strict=True):
                engine.submit(Job(prompt, greedy()), reader)
            for reader in readers:
                await reader.ended.wait()
            await engine.close()
            return [reader.ids for reader in readers]

        alone = [compute(backend, (prompt, greedy()))[0][0] for prompt in prompts]
        assert asyncio.run(test()) == alone


class DrawnSuite:
    """The same for those that choose tokens here and not in a library."""

    def test_the_likeliest_tokens_are_told_and_change_nothing(self, backend, prompts):
        ((ids, told, _),) = compute(
            backend, (prompts[0], greedy(ignore_eos=True, logprobs=True, top_logprobs=3))
        )
        ((plain, _, _),) = compute(backend, (prompts[0], greedy(ignore_eos=True)))
        assert ids == plain
        for token, logprob in zip(ids, told, strict=True):
            values = [value for _, value in logprob.top]
            assert len(values) == 3
            assert values == sorted(values, reverse=True)
            assert values[0] >= logprob.value  # a penalty may have passed over the likeliest
            if token in dict(logprob.top):
                assert dict(logprob.top)[token] == logprob.value

    def test_a_bias_decides_for_its_own_call_alone(self, backend, prompts):
        ((plain, _, _),) = compute(backend, (prompts[0], greedy(4, ignore_eos=True)))
        token = (plain[0] + 1) % backend.card.vocabulary
        towards = Sampling(max_tokens=4, temperature=0.0, ignore_eos=True, logit_bias=((token, 100.0),))
        against = greedy(4, ignore_eos=True, logit_bias=tuple((one, -100.0) for one in set(plain)))
        calls = [(prompts[0], one) for one in (towards, greedy(4, ignore_eos=True), against)]
        (biased, _, _), (beside, _, _), (without, _, _) = compute(backend, *calls)
        assert biased == [token] * 4
        assert beside == plain
        assert not set(without) & set(plain)
