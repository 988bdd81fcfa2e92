"""Graphs of ONNX Runtime GenAI's builder, computed by ONNX Runtime; `make optimize-tests` runs these."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from backend_suite import NUMBERS, TOKENS, VAST, BackendSuite, DrawnSuite, compute, greedy, small
from schema_suite import SchemaSuite
from torch_models import write_model

from penstock.config.model import LocalConfig
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.model_dir import inspect
from penstock.engine.serve import load
from penstock.errors import ModelUnusable

onnx = pytest.importorskip("penstock.engine.onnx", reason="ONNX Runtime is not installed")
making = pytest.importorskip("penstock.optimize.numerics.onnx", reason="ONNX Runtime GenAI is not installed")

# What these libraries warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def graphs(llama, tmp_path_factory):
    """The same model, by the precision of its weights."""
    from penstock.optimize.model_directory import open_model

    found = {}
    for form in ("fp32", "int4"):
        found[form] = tmp_path_factory.mktemp("graphs") / form
        found[form].mkdir()
        making.build(open_model(llama), found[form], making.Form(form), lambda *_: None)
    return found


@pytest.fixture(scope="session")
def graph(graphs):
    return graphs["fp32"]


@pytest.fixture(scope="session")
def backend(graph):
    backend = load(LocalConfig(model=str(graph), threads=1, slots=32, cache_bytes=16_000_000))
    yield backend
    backend.close()


def tight(slots=8, tokens=256):
    """Memory for so many tokens: of each, 2 heads of 16 numbers in 4 layers, as keys and as values, in fp32."""
    return small(slots, tokens * 2 * 4 * 2 * 16 * 4)


class TestOnnx(BackendSuite, DrawnSuite, SchemaSuite):
    @pytest.fixture
    def make(self, graph):
        return lambda config: onnx.OnnxBackend(inspect(graph), config)

    @pytest.fixture
    def enlarged(self, graph, tmp_path):
        copy = shutil.copytree(graph, tmp_path / "copy")
        os.truncate(copy / "model.onnx.data", VAST)
        return copy

    def test_it_says_what_transformers_says(self, backend, prompts, llama):
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
        for prompt in prompts:
            wanted = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
            plain = Sampling(max_tokens=TOKENS, temperature=0.0)
            assert compute(backend, (prompt, plain))[0][0] == wanted[0].tolist()[len(prompt) :]

    def test_a_seeded_answer_is_gone_on_with_from_any_token(self, backend, prompts):
        asked = {"temperature": 1.2, "top_p": 0.9, "seed": 11, "ignore_eos": True}
        ((ids, _, _),) = compute(backend, (prompts[0], Sampling(max_tokens=TOKENS, **asked)))
        cuts = range(1, TOKENS)
        rests = compute(
            backend,
            *(([*prompts[0], *ids[:cut]], Sampling(max_tokens=TOKENS - cut, **asked)) for cut in cuts),
        )
        assert [ids[:cut] + rest for cut, (rest, _, _) in zip(cuts, rests, strict=True)] == [ids] * len(cuts)

    def test_who_comes_later_is_begun_beside_those_who_are_under_way(self, backend, prompts):
        """It is no static batch: the first one is not waited for."""
        first, second = next(NUMBERS), next(NUMBERS)
        backend.add(first, prompts[0], greedy(60, ignore_eos=True))
        for _ in range(5):
            backend.step()
        backend.add(second, prompts[1], greedy(3, ignore_eos=True))
        told = [progress for _ in range(4) for progress in backend.step()]
        assert [bool(progress.finish) for progress in told if progress.number == second] == [0, 0, 1]
        assert len([progress for progress in told if progress.number == first]) == 4
        backend.cancel(first)

    def test_a_long_prompt_is_read_in_parts_while_others_go_on(self, backend):
        prompt = [(7 * place) % 300 + 2 for place in range(480)]
        ((alone, _, _),) = compute(backend, (prompt, greedy(8)))
        other = ([5, 6, 7], greedy(20, ignore_eos=True))
        assert compute(backend, other, (prompt, greedy(8)))[1][0] == alone
        numbers = [next(NUMBERS), next(NUMBERS)]
        backend.add(numbers[0], *other)
        backend.step()
        backend.add(numbers[1], prompt, greedy(1))
        assert [progress.number for progress in backend.step()] == numbers[:1]  # 256 of 480 have been read
        assert [progress.number for progress in backend.step()] == numbers
        backend.cancel(numbers[0])

    @pytest.mark.parametrize("steps", [0, 1])
    def test_who_leaves_while_a_prompt_is_read_disturbs_nobody(self, backend, steps):
        """Rows are moved then, also that of a prompt of which a part is known."""
        prompt = [(11 * place) % 300 + 2 for place in range(400)]
        ((alone, _, _),) = compute(backend, (prompt, greedy(8)))
        others = [next(NUMBERS) for _ in range(3)]
        for number in others:
            backend.add(number, [number % 300, 5], greedy(40, ignore_eos=True))
        backend.step()
        last = next(NUMBERS)
        backend.add(last, prompt, greedy(8))
        for _ in range(steps):
            backend.step()
        backend.cancel(others[0])
        backend.cancel(others[2])
        said = []
        for _ in range(len(alone) + 3):
            said += [token for each in backend.step() if each.number == last for token in each.ids]
        backend.cancel(others[1])
        assert said == alone

    def test_who_leaves_before_its_prompt_was_read_is_not_told_of(self, backend, prompts):
        numbers = [next(NUMBERS) for _ in range(3)]
        for number in numbers:
            backend.add(number, [3] * 200, greedy(4))
        backend.step()
        backend.cancel(numbers[1])  # a part of its prompt is read
        backend.cancel(numbers[2])  # it waits
        told = [progress.number for _ in range(6) for progress in backend.step()]
        assert set(told) == {numbers[0]}
        assert compute(backend, (prompts[0], greedy(3))) == compute(backend, (prompts[0], greedy(3)))

    def test_memory_that_fills_up_costs_time_and_no_token(self, make, prompts):
        """There is room for 256 tokens at once, and some of the answers are begun again."""
        backend = make(tight())
        assert backend.card.context == 256
        alone = [compute(backend, (prompt, greedy(60, ignore_eos=True)))[0] for prompt in prompts]
        numbers = {next(NUMBERS): prompt for prompt in prompts * 2}
        told = {number: [] for number in numbers}
        for number, prompt in numbers.items():
            backend.add(number, prompt, greedy(60, ignore_eos=True))
        most = 0
        while any(len(ids) < 60 for ids in told.values()):
            for progress in backend.step():
                told[progress.number] += progress.ids
            most = max(most, backend.statistics()["cache_bytes"])
        backend.close()
        assert list(told.values()) == [ids for ids, _, _ in alone] * 2
        assert most <= tight().cache_bytes

    def test_a_call_is_refused_a_cache_in_int8(self, graph):
        with pytest.raises(ModelUnusable, match="cache_precision"):
            load(LocalConfig(model=str(graph), cache_precision="int8"))

    def test_weights_in_int4_say_the_same_alone_and_together(self, graphs, prompts):
        backend = load(LocalConfig(model=str(graphs["int4"]), threads=1, slots=8, cache_bytes=8_000_000))
        alone = [compute(backend, (prompt, greedy()))[0] for prompt in prompts]
        together = compute(backend, *((prompt, greedy()) for prompt in prompts * 2))
        backend.close()
        assert together == alone * 2

    def test_a_template_that_does_not_take_a_message(self, backend):
        with pytest.raises(CannotTake, match="no such role"):
            backend.tokenizer.render([{"role": "nobody", "content": ""}], answer=True)

    def test_its_tokenizer_is_that_of_transformers(self, backend, llama):
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(llama)
        messages = [{"role": "user", "content": "<b> & 漢字 \n"}]
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert backend.tokenizer.render(messages, answer=True) == rendered
        for text in (rendered, "the penstock", "漢字 🙂", "  a\n\n b"):
            assert backend.tokenizer.encode(text, special=True) == theirs.encode(text)
            ids = theirs.encode(text)
            assert backend.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["JSONTokenizer", "HFTokenizer"])
def test_a_template_is_told_what_the_caller_says(llama, tmp_path, kind):
    from penstock.engine._hf_tokenizer import HFTokenizer
    from penstock.engine._json_tokenizer import JSONTokenizer

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(llama / name, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ mood | default('calm') }}: {{ messages[0].content }}")
    tokenizer = {"JSONTokenizer": JSONTokenizer, "HFTokenizer": HFTokenizer}[kind](tmp_path, 384)
    messages = [{"role": "user", "content": "a"}]
    assert tokenizer.render(messages, answer=True) == "calm: a"
    assert tokenizer.render(messages, answer=True, more={"mood": "angry"}) == "angry: a"


class TestRefused:
    @pytest.fixture
    def copy(self, graph, tmp_path):
        return shutil.copytree(graph, tmp_path / "copy")

    def refused(self, path, match):
        with pytest.raises(ModelUnusable, match=match) as caught:
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))
        assert str(path) in str(caught.value)

    def test_weights_that_are_no_numbers_are_refused(self, copy):
        (data,) = copy.glob("*.data")
        data.write_bytes(b"\xff" * data.stat().st_size)
        self.refused(copy, "says something else than alone")

    def test_weights_that_are_cut_off_are_refused(self, copy):
        os.truncate(copy / "model.onnx.data", 1_000)
        self.refused(copy, "cannot be used by ONNX Runtime")

    def test_a_graph_that_is_cut_off_is_refused(self, copy):
        os.truncate(copy / "model.onnx", 1_000)
        self.refused(copy, "cannot be used by ONNX Runtime")

    def test_a_graph_that_is_not_there_is_named(self, copy):
        (copy / "model.onnx").unlink()
        self.refused(copy, "is missing, which genai_config.json names")

    def test_a_graph_without_a_tokenizer_is_refused(self, copy):
        (copy / "tokenizer.json").unlink()
        self.refused(copy, "tokenizer.json cannot be read")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"decoder": []}}', "{"], ids=repr)
    def test_a_configuration_that_makes_no_sense(self, copy, text):
        (copy / "genai_config.json").write_text(text)
        self.refused(copy, "genai_config.json")

    def test_a_graph_that_wants_what_it_is_not_given(self, copy):
        config = json.loads((copy / "genai_config.json").read_text())
        config["model"]["decoder"]["num_hidden_layers"] = 3
        (copy / "genai_config.json").write_text(json.dumps(config))
        self.refused(copy, "another kind")

    def test_more_tokens_than_it_has(self, copy):
        """What it is tried out with shows that the graph is not the one that was told of."""
        config = json.loads((copy / "genai_config.json").read_text())
        config["model"]["decoder"]["head_size"] = 32
        (copy / "genai_config.json").write_text(json.dumps(config))
        self.refused(copy, "cannot be used by ONNX Runtime")

    def test_another_backend_than_its_own(self, copy):
        with pytest.raises(ModelUnusable, match="holds no weights for the backend"):
            load(LocalConfig(model=str(copy), backend="openvino"))


def test_another_backend_goes_on_with_what_this_one_began(llama, backend):
    """The same weights in PyTorch, and an answer that is cut at every token: the rest is the same."""
    other = load(LocalConfig(model=str(llama), threads=1, slots=4, cache_bytes=4_000_000))
    prompt = backend.tokenizer.encode("<|user|>the penstock<|assistant|>", special=False)
    ((ids, _, _),) = compute(backend, (prompt, greedy()))
    cuts = range(1, len(ids))
    rests = compute(other, *(([*prompt, *ids[:cut]], greedy(TOKENS - cut)) for cut in cuts))
    other.close()
    assert [ids[:cut] + rest for cut, (rest, _, _) in zip(cuts, rests, strict=True)] == [ids] * len(cuts)
