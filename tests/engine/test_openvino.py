"""The model that comes with the package, computed by OpenVINO GenAI."""

from __future__ import annotations

import asyncio
import json

import pytest
from engine_doubles import Reader
from test_engine_schema import GOOD

from penstock.config.model import LocalConfig
from penstock.engine import demo
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.engine import Engine, Job
from penstock.engine.model_dir import inspect
from penstock.engine.schema import compiled
from penstock.engine.text import TextStream, text_of
from penstock.errors import ModelUnusable

openvino = pytest.importorskip("penstock.engine.openvino", reason="OpenVINO GenAI is not installed")

QUESTIONS = ("What is json.dumps?", "What does os.path.join do?", "Explain asyncio.run.", "Hello", "漢字 🙂")
TOKENS = 24


@pytest.fixture(scope="module")
def backend():
    config = LocalConfig(threads=1, exact=True, slots=32, cache_bytes=64_000_000)
    made = openvino.OpenVINOBackend(inspect(demo.path()), config)
    yield made
    made.close()


@pytest.fixture
def prompts(backend):
    tokenizer = backend.tokenizer
    return [
        tokenizer.encode(tokenizer.render([{"role": "user", "content": text}], answer=True), special=False)
        for text in QUESTIONS
    ]


NUMBERS = iter(range(1, 1_000_000))


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


def greedy(count=TOKENS, **more):
    return Sampling(max_tokens=count, temperature=0.0, repetition_penalty=1.2, **more)


def test_many_together_say_what_each_says_alone(backend, prompts):
    alone = [compute(backend, (prompt, greedy()))[0] for prompt in prompts]
    assert compute(backend, *((prompt, greedy()) for prompt in prompts * 4)) == alone * 4


def test_an_answer_that_is_cut_at_any_token_is_gone_on_with_to_the_letter(backend, prompts):
    for prompt in prompts:
        ((ids, _, finish),) = compute(backend, (prompt, greedy()))
        cuts = range(1, len(ids))
        rests = compute(backend, *(([*prompt, *ids[:cut]], greedy(TOKENS - cut)) for cut in cuts))
        for cut, (rest, _, ending) in zip(cuts, rests, strict=True):
            assert (ids[:cut] + rest, ending) == (ids, finish)


def test_a_new_process_goes_on_where_another_one_stopped(prompts):
    """As after a ``kill -9``: nothing is left of the first one's cache."""
    config = LocalConfig(threads=1, exact=True, slots=2, cache_bytes=8_000_000)
    first = openvino.OpenVINOBackend(inspect(demo.path()), config)
    ((whole, _, _),) = compute(first, (prompts[0], greedy()))
    first.close()
    second = openvino.OpenVINOBackend(inspect(demo.path()), config)
    ((rest, _, _),) = compute(second, ([*prompts[0], *whole[:7]], greedy(TOKENS - 7)))
    second.close()
    assert whole[:7] + rest == whole


def test_text_is_that_of_the_librarys_own_decoder(backend, prompts):
    assert backend.tokenizer.pieces() is not None
    for prompt in prompts:
        ((ids, _, _),) = compute(backend, (prompt, greedy()))
        stream = TextStream(text_of(backend.tokenizer.pieces(), backend.tokenizer.decode, prompt))
        told = [*stream.feed(ids, []), stream.end()]
        assert "".join(piece.text for piece in told) == backend.tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["plain", "漢字", "🙂", "\n\n  indented", "<|end|>"])
def test_text_survives_its_way_through_tokens(backend, text):
    ids = backend.tokenizer.encode(text, special=False)
    pieces = backend.tokenizer.pieces()
    assert b"".join(pieces[token] for token in ids).decode() == ("" if text == "<|end|>" else text)


def test_the_chat_template_is_the_models_own(backend):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert backend.tokenizer.render(messages[:1], answer=True) == "<|user|>a<|end|><|assistant|>"
    assert backend.tokenizer.render(messages, answer=False).endswith("<|assistant|>b")


def test_log_probabilities_are_those_of_the_tokens(backend, prompts):
    ((ids, logprobs, _),) = compute(backend, (prompts[0], greedy(logprobs=True)))
    assert len(ids) == len(logprobs)
    ((_, unasked, _),) = compute(backend, (prompts[0], greedy()))
    assert unasked == []
    assert all(value <= 0 for value in logprobs)


def test_the_same_seed_says_the_same(backend, prompts):
    def sampled(seed):
        return Sampling(max_tokens=TOKENS, temperature=1.0, seed=seed)

    ((first, _, _),) = compute(backend, (prompts[0], sampled(5)))
    ((again, _, _),) = compute(backend, (prompts[0], sampled(5)))
    ((other, _, _),) = compute(backend, (prompts[0], sampled(6)))
    assert first == again
    assert first != other


def test_a_stop_token_ends_an_answer(backend, prompts):
    ((ids, _, _),) = compute(backend, (prompts[0], greedy(ignore_eos=True)))
    ((cut, _, finish),) = compute(backend, (prompts[0], greedy(ignore_eos=True, stop_token_ids=(ids[5],))))
    assert finish == "stop"
    assert cut == ids[: ids.index(ids[5]) + 1]


def test_a_cancelled_answer_is_not_told_of_again(backend, prompts):
    numbers = [next(NUMBERS), next(NUMBERS)]
    for number in numbers:
        backend.add(number, prompts[0], greedy())
    backend.step()
    backend.cancel(numbers[0])
    told = [progress.number for _ in range(3) for progress in backend.step()]
    assert set(told) == {numbers[1]}
    backend.cancel(numbers[1])
    assert backend.step() == []


def test_a_schema_rules_the_answer(backend, prompts):
    schema = {"enum": ["penstock", "gateway", {"a": 1}]}
    ((ids, _, finish),) = compute(backend, (prompts[0], greedy(schema=compiled(schema))))
    assert finish == "stop"
    assert json.loads(backend.tokenizer.decode(ids)) in schema["enum"]


@pytest.mark.parametrize("schema", GOOD)
def test_every_kind_of_schema_that_is_let_through_compiles(backend, prompts, schema):
    """One that did not would cost the library its state."""
    ((ids, _, _),) = compute(backend, (prompts[0], greedy(4, schema=compiled(schema))))
    assert ids


@pytest.mark.parametrize("wrong", [{"min_tokens": 50}, {"repetition_penalty": 0.0}])
def test_what_contradicts_itself_is_refused_and_does_no_harm(backend, prompts, wrong):
    with pytest.raises(CannotTake):
        backend.add(next(NUMBERS), prompts[0], Sampling(max_tokens=5, temperature=0.0, **wrong))
    compute(backend, (prompts[0], greedy(2)))


def test_an_unknown_architecture_is_refused_with_its_name(tmp_path):
    """A graph without keys and values: no text model."""
    for path in demo.path().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for part in ("xml", "bin"):
        (tmp_path / f"openvino_model.{part}").write_bytes(
            (demo.path() / f"openvino_detokenizer.{part}").read_bytes()
        )
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["NothingForAnything"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match="NothingForAnything"):
        openvino.OpenVINOBackend(inspect(tmp_path), LocalConfig(slots=1, cache_bytes=1_000_000))


def test_an_engine_of_it(backend, prompts):
    """Its thread, its loop, its end: with a backend of its own."""
    config = LocalConfig(threads=1, exact=True, slots=4, cache_bytes=8_000_000)

    async def test():
        engine = Engine(lambda: openvino.OpenVINOBackend(inspect(demo.path()), config), slots=4)
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


QWEN = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}{% else %}{{ message.content }}{% endif %}{% endfor %}"
)


def test_a_template_is_told_of_tools_and_of_their_calls():
    """In the form of Qwen's own, which the library's own engine of templates has to understand."""
    tokenizer = openvino.openvino_genai.Tokenizer(str(demo.path()))
    tokenizer.set_chat_template(QWEN)
    offered = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    messages = [
        {"role": "user", "content": "and?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bern"}}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    text = openvino.OpenVINOTokenizer(tokenizer).render(messages, answer=True, tools=[offered])
    before, _, after = text.partition("</tools>")
    assert json.loads(before.removeprefix("<tools>")) == offered
    call = after.partition("<tool_call>")[2].partition("</tool_call>")[0]
    assert json.loads(call) == {"name": "weather", "arguments": {"city": "Bern"}}
    assert after.endswith("<tool>rain")
    assert "<tools>" not in openvino.OpenVINOTokenizer(tokenizer).render(messages, answer=True)
