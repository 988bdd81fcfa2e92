"""Models of Hugging Face's, as they are, by transformers; `make optimize-tests` runs these."""

from __future__ import annotations

import json
import os
import signal

import pytest
from backend_suite import NUMBERS, TOKENS, VAST, BackendSuite, DrawnSuite, compute, greedy, small
from schema_suite import SchemaSuite
from torch_models import write_model

from penstock.config.model import LocalConfig
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.model_dir import inspect
from penstock.engine.serve import load
from penstock.errors import ModelUnusable

transformers = pytest.importorskip("penstock.engine.transformers", reason="PyTorch is not installed")

import torch  # noqa: E402 - it is there now

# What these libraries warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

KINDS = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 16},
    "gemma2": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "num_key_value_heads": 4},
    "mixtral": {"num_local_experts": 4},
}


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def backend(llama):
    backend = load(LocalConfig(model=str(llama), threads=1, slots=32, cache_bytes=16_000_000))
    yield backend
    backend.close()


class TestTransformers(BackendSuite, DrawnSuite, SchemaSuite):
    @pytest.fixture
    def make(self, llama):
        return lambda config: transformers.TransformersBackend(inspect(llama), config)

    @pytest.fixture
    def enlarged(self, llama, tmp_path):
        """With one more tensor, which is all of it but a little."""
        copy = copy_of(llama, tmp_path)
        file = copy / "model.safetensors"
        data = file.read_bytes()
        length = 8 + int.from_bytes(data[:8], "little")
        header, behind = json.loads(data[8:length]), len(data) - length
        header["vast"] = {"dtype": "I8", "shape": [VAST], "data_offsets": [behind, behind + VAST]}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[length:])
        os.truncate(file, 8 + len(text) + behind + VAST)
        return copy

    def test_a_seeded_answer_is_gone_on_with_from_any_token(self, backend, prompts):
        """Chance depends on the seed and the place alone."""
        asked = {"temperature": 1.2, "top_p": 0.9, "seed": 11, "ignore_eos": True}
        ((ids, _, _),) = compute(backend, (prompts[0], Sampling(max_tokens=TOKENS, **asked)))
        cuts = range(1, TOKENS)
        rests = compute(
            backend,
            *(([*prompts[0], *ids[:cut]], Sampling(max_tokens=TOKENS - cut, **asked)) for cut in cuts),
        )
        assert [ids[:cut] + rest for cut, (rest, _, _) in zip(cuts, rests, strict=True)] == [ids] * len(cuts)

    def test_log_probabilities_are_the_models_own(self, backend, prompts, llama):
        ((ids, logprobs, _),) = compute(backend, (prompts[0], greedy(6, logprobs=True)))
        model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
        with torch.no_grad():
            shares = model(torch.tensor([[*prompts[0], *ids]])).logits[0].log_softmax(-1)
        wanted = [float(shares[len(prompts[0]) - 1 + place, token]) for place, token in enumerate(ids)]
        assert [logprob.value for logprob in logprobs] == pytest.approx(wanted, abs=1e-3)

    def test_it_says_what_the_librarys_own_generate_says(self, backend, prompts, llama):
        model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
        for prompt in prompts:
            wanted = model.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)
            plain = Sampling(max_tokens=TOKENS, temperature=0.0)
            assert compute(backend, (prompt, plain))[0][0] == wanted[0].tolist()[len(prompt) :]

    def test_a_cache_that_fills_up_costs_time_and_no_token(self, make, prompts):
        """There is room for 256 tokens at once, and some of the answers are begun again."""
        backend = make(small(8, 256 * 1024))
        alone = [compute(backend, (prompt, greedy(60, ignore_eos=True)))[0] for prompt in prompts]
        together = compute(backend, *((prompt, greedy(60, ignore_eos=True)) for prompt in prompts * 2))
        backend.close()
        assert together == alone * 2

    def test_who_is_cancelled_while_the_cache_is_full_does_not_hold_up_the_others(self, make, prompts):
        backend = make(small(8, 256 * 1024))
        numbers = [next(NUMBERS) for _ in range(8)]
        for number in numbers:
            backend.add(number, prompts[0], greedy(60, ignore_eos=True))
        for _ in range(40):
            backend.step()
        for number in numbers[:-1]:
            backend.cancel(number)
        told = []
        while not told or not told[-1].finish:
            told += backend.step()
        backend.close()
        assert told[-1].number == numbers[-1]

    def test_a_long_prompt_is_read_in_parts(self, backend):
        prompt = [(7 * place) % 300 + 2 for place in range(480)]
        ((alone, _, _),) = compute(backend, (prompt, greedy(8)))
        other = ([5, 6, 7], greedy(20, ignore_eos=True))
        assert compute(backend, other, (prompt, greedy(8)))[1][0] == alone

    def test_a_template_that_does_not_take_a_message(self, backend):
        with pytest.raises(CannotTake, match="no such role"):
            backend.tokenizer.render([{"role": "nobody", "content": ""}], answer=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention_says_what_it_says_without_pages(kind, tmp_path):
    path = write_model(tmp_path / kind, kind, **KINDS[kind])
    backend = load(LocalConfig(model=str(path), threads=1, slots=4, cache_bytes=4_000_000))
    prompts = [[(3 + place * place * kinds) % 300 for place in range(30 * kinds)] for kinds in (1, 2, 3)]
    plain = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    said = compute(backend, *((prompt, plain) for prompt in prompts))
    backend.close()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for prompt, (ids, _, _) in zip(prompts, said, strict=True):
        wanted = model.generate(
            torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None
        )
        assert ids == wanted[0].tolist()[len(prompt) :]


def test_another_backend_goes_on_with_what_this_one_began(llama, backend, tmp_path):
    """The same weights in OpenVINO's form, and an answer that is cut at every token: the rest is the same."""
    pytest.importorskip("openvino_genai")
    from penstock.optimize.model_directory import open_model
    from penstock.optimize.numerics import openvino as exported

    exported.build(open_model(llama), tmp_path / "ir", "fp32", lambda *_: None)
    prompt = backend.tokenizer.encode("<|user|>the penstock<|assistant|>", special=False)
    ((ids, _, _),) = compute(backend, (prompt, greedy()))
    other = load(
        LocalConfig(model=str(tmp_path / "ir"), threads=1, exact=True, slots=4, cache_bytes=4_000_000)
    )
    cuts = range(1, len(ids))
    rests = compute(other, *(([*prompt, *ids[:cut]], greedy(TOKENS - cut)) for cut in cuts))
    other.close()
    assert [ids[:cut] + rest for cut, (rest, _, _) in zip(cuts, rests, strict=True)] == [ids] * len(cuts)


class TestRefused:
    @pytest.mark.parametrize("kind", ["bloom", "mamba"])
    def test_an_attention_that_knows_no_pages(self, kind, tmp_path):
        path = write_model(tmp_path / kind, kind)
        with pytest.raises(ModelUnusable, match=rf"{kind}.*cannot be used by transformers"):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))

    def test_an_architecture_that_nobody_knows(self, llama, tmp_path):
        path = copy_of(llama, tmp_path)
        (path / "config.json").write_text('{"model_type": "nothing", "architectures": ["NothingAtAll"]}')
        with pytest.raises(ModelUnusable, match="NothingAtAll"):
            load(LocalConfig(model=str(path), slots=2))

    def test_weights_of_another_model(self, llama, tmp_path):
        path = copy_of(llama, tmp_path)
        text = (path / "config.json").read_text()
        (path / "config.json").write_text(text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 6'))
        with pytest.raises(ModelUnusable, match="tensors are missing"):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))

    def test_weights_of_another_size_are_named(self, llama, tmp_path):
        path = copy_of(llama, tmp_path)
        given = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(given | {"vocab_size": 4_000}))
        with pytest.raises(ModelUnusable, match=r"weight is \(\d+, \d+\) in its file and \(4000, "):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))

    @pytest.mark.parametrize("wrong", [{"num_attention_heads": 0}, {"hidden_size": "64"}])
    def test_a_configuration_that_makes_no_sense(self, llama, tmp_path, wrong):
        """Each tells it by an error of its own."""
        path = copy_of(llama, tmp_path)
        given = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(given | wrong))
        with pytest.raises(ModelUnusable, match="cannot be used by transformers"):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))

    def test_code_of_the_models_own(self, llama, tmp_path):
        path = copy_of(llama, tmp_path)
        text = (path / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "own"')
        own = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},'
        (path / "config.json").write_text(text.replace("{", own, 1))
        (path / "own.py").write_text(f"open({str(path / 'ran')!r}, 'w')")
        with pytest.raises(ModelUnusable):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))
        assert not (path / "ran").exists()

    def test_a_model_without_a_tokenizer_is_refused(self, llama, tmp_path):
        path = copy_of(llama, tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (path / name).unlink()
        with pytest.raises(ModelUnusable, match="tokenizer"):
            load(LocalConfig(model=str(path), slots=2, cache_bytes=4_000_000))

    def test_a_cache_in_int8(self, llama):
        with pytest.raises(ModelUnusable, match="cache_precision"):
            load(LocalConfig(model=str(llama), cache_precision="int8"))


def copy_of(directory, tmp_path):
    import shutil

    return shutil.copytree(directory, tmp_path / "copy")


@pytest.mark.slow  # four processes, two of which import PyTorch
def test_an_engine_that_is_killed_loses_no_answer(llama, tmp_path):
    """The same test as OpenVINO's, with this backend in the process that is killed."""
    import httpx2
    import test_local_upstream as local

    from penstock.testing import GatewayProcess

    asked = {**local.LONG, "max_tokens": 300}
    config = local.config(model=str(llama), backend="transformers")
    with GatewayProcess(config, tmp_path) as gateway, httpx2.Client(timeout=60, trust_env=False) as client:
        uncut = local.whole(client, gateway, asked)
        first = local.engine_pid(gateway)
        text, done, usage = local.streamed(client, gateway, asked, lambda: os.kill(first, signal.SIGKILL))
        assert (text, done, usage["completion_tokens"]) == (uncut, True, 300)
        rescued = 'penstock_continuations_total{how="tokens",outcome="rescued"}'
        assert local.metric(client, gateway, rescued) == 1
