"""From recorded calls to a student that answers them, and to one that is sent away: with real processes throughout.

A teacher of four layers is taught to do sums, after a fashion; a gateway serves it and writes down what it says; of
that a data set is made, a student of two layers learns from it, is exported, and put on trial behind the same name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
import torch

from penstock.optimize.dataset import Counts
from penstock.optimize.measure import measure
from penstock.optimize.progress import nobody
from penstock.optimize.recipe import follow, read_recipe
from penstock.optimize.steps import Prune, Pruning, take
from penstock.testing import GatewayProcess
from penstock.transcripts.transcript import read

PATIENCE = 120.0  # seconds for what other processes do
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SUMS = [(one, two) for one in range(20) for two in range(20)]


def question(one, two):
    return f"What is {one} plus {two}?"


def answer(one, two):
    return f"{one} plus {two} is {one + two}."


@pytest.fixture(scope="module")
def one_thread():
    """So small a model is trained no quicker by several, which wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def teacher(one_thread, tmp_path_factory):
    """A Llama that has learned to answer such questions, and to end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("teacher") / "large"
    said = [f"{USER}{question(*each)}{END}{ASSISTANT}{answer(*each)}{END}" for each in SUMS]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(said, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    whole.chat_template = TEMPLATE
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    draws = torch.Generator().manual_seed(3)
    for _ in range(300):
        # One conversation after the other, as the pieces of text are by which models are measured.
        chosen = [said[at] for at in torch.randint(len(said), (40,), generator=draws).tolist()]
        ids = torch.tensor(whole("".join(chosen), add_special_tokens=False)["input_ids"])
        batch = ids[: len(ids) // 256 * 256].view(-1, 256)
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.eos_token_id = 0
    model.save_pretrained(path)
    whole.save_pretrained(path)
    return path


def run(*words, status=0):
    """A command of ``penstock optimize``: what it has said."""
    command = [sys.executable, "-m", "penstock", "optimize", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with contextlib.closing(urllib.request.urlopen(request, timeout=PATIENCE)) as told:
        return json.load(told)


def answered(gateway, one, two):
    """What the alias answers, as a choice."""
    said = [{"role": "user", "content": question(one, two)}]
    asked = {"model": "sums", "messages": said, "temperature": 0, "max_tokens": 40}
    return post(gateway.base_url + "/chat/completions", asked)["choices"][0]


def ask(gateway, one, two):
    return answered(gateway, one, two)["message"]["content"]


def eventually(reached):
    deadline = time.monotonic() + PATIENCE
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def config(folder, versions, canary=None):
    """The alias ``sums``, with models of these directories by their versions."""
    model = {"candidates": [{"upstream": f"v{name}", "version": name} for name in versions]}
    if canary is not None:
        # Speeds of a machine that does something else, too, say little: a student may be a lot slower here.
        limits = {"least_calls": 8, "most_calls": 16, "more_errors": 0.2, "slower": 50, "confidence": 0.8}
        model["canary"] = {"version": canary, "steps": [0.5], **limits}
    return {
        "upstreams": {
            f"v{name}": {"kind": "local", "local": {"model": str(path), "slots": 4, "exact": True}}
            for name, path in versions.items()
        },
        "models": {"sums": model},
        "transcripts": {"directory": str(folder / "transcripts"), "tenants": ["default"]},
        "versions": {"path": str(folder / "versions.sqlite")},
        "ledger": {"path": str(folder / "ledger.sqlite")},
    }


def use(gateway, given):
    """Give the gateway another configuration."""
    held = json.loads(gateway.config_path.read_text())
    fresh = gateway.config_path.with_suffix(".new")
    fresh.write_text(json.dumps({**given, "listen": held["listen"], "control": held["control"]}))
    fresh.replace(gateway.config_path)
    wanted = given["models"]["sums"]["canary"]["version"]
    eventually(lambda: [each["version"] for each in gateway.ask("/v1/versions")["models"]] == [wanted])


def trial(gateway, version):
    """How the trial of this version stands, once it has ended; meanwhile, callers ask and are answered."""
    asked = 0
    while True:
        (found,) = gateway.ask("/v1/versions")["models"]
        assert found["version"] == version
        if found["phase"] not in {"unknown", "trial"}:  # unknown: the file was not read yet
            return found, asked
        for _ in range(4):
            # To some sums such a student says nothing at all; how many are asked, the machine's other load decides.
            assert answered(gateway, *SUMS[asked * 7 % len(SUMS)])["finish_reason"] in {"stop", "length"}
            asked += 1
        assert asked < 400, found


@pytest.mark.slow  # two models are trained, four loaded and six measured
@pytest.mark.timeout(900)
def test_recorded_calls_become_a_student_that_is_promoted_and_a_damaged_one_is_rolled_back(teacher, tmp_path):
    run("export", teacher, tmp_path / "large", "--runtime", "openvino")
    with GatewayProcess(config(tmp_path, {"1": tmp_path / "large"}), tmp_path) as gateway:
        eventually(lambda: gateway.readiness()["ready"])
        for one, two in SUMS[::3]:
            assert ask(gateway, one, two)
        ask(gateway, "AKIA" + "IOSFODNN7EXAMPLE", 2)
        eventually(lambda: len(list(read(tmp_path / "transcripts"))) >= len(SUMS[::3]) + 1)

        # What was said becomes a data set, and that a student.
        said = ("--tenant", "default", "--answered-by", "v1", "--similar", "1", "--held-back", "0.2")
        run("dataset", tmp_path / "transcripts", tmp_path / "set", *said)
        counts = json.loads((tmp_path / "set" / "dataset.json").read_text())
        counts = Counts(**counts)
        assert counts.with_secrets == 1
        assert counts.train > 60
        assert counts.held_out > 12
        half = Prune(
            method=Pruning.DEPTH, share=0.5, calibration=tmp_path / "set" / "train.jsonl", length=256
        )
        take(half, teacher, tmp_path / "half", nobody)
        recipe = {
            "model": str(tmp_path / "half"),
            "text": "set/held-out.jsonl",
            "calibration": "set/train.jsonl",
            "output": "student",
            "steps": [
                {
                    "distill": {
                        "teacher": str(teacher),
                        "steps": 120,
                        "batch": 4,
                        "learning_rate": 3e-3,
                    }
                },
                {"quantize": {"to": "int8", "runtime": "openvino"}},
            ],
        }
        (tmp_path / "student.yaml").write_text(json.dumps(recipe))
        quickly = functools.partial(measure, windows=4, repeats=1)
        follow(read_recipe(tmp_path / "student.yaml"), nobody, measure=quickly)
        student = tmp_path / "student" / "2-quantize"
        # The half that has not learned yet is far from good enough, so this is a test that can fail.
        held_out = ("--text", tmp_path / "set" / "held-out.jsonl", "--repeats", 1, "--max-loss", 0.3)
        assert "half loses" in run("evaluate", teacher, student, tmp_path / "half", *held_out, status=1)

        # Some calls try it; it is no worse, so all get it.
        use(gateway, config(tmp_path, {"1": tmp_path / "large", "2": student}, canary="2"))
        found, asked = trial(gateway, "2")
        assert found["phase"] == "promoted", found
        assert asked >= 16
        assert " plus " in ask(gateway, 3, 4)
        by = [each.upstream for each in read(tmp_path / "transcripts")]
        assert "v2" in by  # of whose answers the next student must not learn

        # The next one was damaged on its way here: nobody's call fails of it, and it is gone.
        broken = shutil.copytree(student, tmp_path / "broken")
        os.truncate(broken / "openvino_model.bin", 1_000)
        use(gateway, config(tmp_path, {"2": student, "3": broken}, canary="3"))
        found, asked = trial(gateway, "3")
        assert found["phase"] == "rolled_back", found
        assert asked <= 100
