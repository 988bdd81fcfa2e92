"""The model that comes with the package, computed by OpenVINO GenAI."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import time

import msgspec
import pytest
from backend_suite import NUMBERS, VAST, BackendSuite, compute, greedy, small
from schema_suite import NESTED, PLAIN, is_nested
from test_engine_regex import RULED
from test_engine_schema import GOOD
from test_gbnf import JSON
from test_schema_work import CHEAP

from penstock.config.model import LocalConfig
from penstock.engine import demo, gbnf
from penstock.engine.backend import CannotTake, Sampling
from penstock.engine.model_dir import inspect
from penstock.engine.productions import of_pattern
from penstock.engine.regex import read as read_regex
from penstock.engine.request import read
from penstock.engine.schema import compiled
from penstock.errors import ModelUnusable, Overloaded
from penstock.messages import Endpoint

openvino = pytest.importorskip("penstock.engine.openvino", reason="OpenVINO GenAI is not installed")
from penstock.engine import _openvino_rules  # noqa: E402 - it needs that, too


def made(config):
    return openvino.OpenVINOBackend(inspect(demo.path()), config)


@pytest.fixture(scope="module")
def backend():
    backend = made(LocalConfig(threads=1, exact=True, slots=32, cache_bytes=64_000_000))
    yield backend
    backend.close()


class TestOpenVINO(BackendSuite):
    @pytest.fixture
    def make(self):
        return made

    @pytest.fixture
    def enlarged(self, tmp_path):
        for path in demo.path().iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        os.truncate(tmp_path / "openvino_model.bin", VAST)
        return tmp_path


def test_a_token_that_stands_for_no_text_has_none(backend):
    (token,) = backend.tokenizer.encode("<|end|>", special=False)
    assert backend.tokenizer.pieces()[token] == b""


def test_the_chat_template_is_the_models_own(backend):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert backend.tokenizer.render(messages[:1], answer=True) == "<|user|>a<|end|><|assistant|>"
    assert backend.tokenizer.render(messages, answer=False).endswith("<|assistant|>b")


@pytest.fixture
def prompt(backend):
    return backend.tokenizer.encode("<|user|>What is json.dumps?<|end|><|assistant|>", special=False)


def test_a_schema_rules_the_answer(backend, prompt):
    schema = {"enum": ["penstock", "gateway", {"a": 1}]}
    ((ids, _, finish),) = compute(backend, (prompt, greedy(schema=compiled(schema))))
    assert finish == "stop"
    assert json.loads(backend.tokenizer.decode(ids)) in schema["enum"]


@pytest.mark.parametrize("schema", GOOD)
def test_every_kind_of_schema_that_is_let_through_compiles(backend, prompt, schema):
    """One that did not would cost the library its state."""
    ((ids, _, _),) = compute(backend, (prompt, greedy(4, schema=compiled(schema))))
    assert ids


@pytest.mark.parametrize("expression", RULED)
def test_an_expression_rules_the_answer(backend, prompt, expression):
    """One that did not compile would cost the library its state, so all kinds are asked of the same one."""
    rule = {"grammar": of_pattern(read_regex(expression))}
    drawn = [Sampling(max_tokens=40, temperature=1.0, seed=seed, **rule) for seed in range(3)]
    for ids, _, finish in compute(backend, (prompt, greedy(40, **rule)), *((prompt, one) for one in drawn)):
        text = backend.tokenizer.decode(ids)
        assert finish == "length" or re.fullmatch(expression, text, re.ASCII)


def said_by_grammar(backend, prompt, grammar, limit=40):
    """Texts that ended, greedy and drawn."""
    backend.prepare(greedy(limit, grammar=grammar))
    drawn = [
        Sampling(max_tokens=limit, temperature=1.0, seed=seed, grammar=grammar)
        for seed in range(6)  # as many as it takes for one to end
    ]
    told = compute(backend, (prompt, greedy(limit, grammar=grammar)), *((prompt, one) for one in drawn))
    return [backend.tokenizer.decode(ids) for ids, _, finish in told if finish == "stop"]


@pytest.mark.parametrize("kind", PLAIN)
def test_a_grammar_rules_the_answer(backend, prompt, kind):
    """Python's own reading of the same as an expression is the oracle."""
    texts = said_by_grammar(backend, prompt, PLAIN[kind])
    assert texts
    assert [text for text in texts if not re.fullmatch(PLAIN[kind].regex(), text)] == []


def test_a_grammar_that_needs_itself_rules_the_answer(backend, prompt):
    texts = said_by_grammar(backend, prompt, NESTED)
    assert texts
    assert all(map(is_nested, texts))


def test_llama_cpps_grammar_for_json_rules_the_answer(backend, prompt):
    texts = said_by_grammar(backend, prompt, gbnf.read(JSON), 120)
    assert texts
    for text in texts:
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "bad", [{"schema": "{"}, {"schema": '{"type": "nothing"}'}, {"schema": '{"$ref": "#/$defs/x"}'}], ids=str
)
def test_a_rule_that_the_library_refuses_costs_nobody_an_answer(backend, prompt, bad):
    """Within a step it would: no later one succeeds then."""
    with pytest.raises(CannotTake, match=r"the rule cannot be used: .+"):
        backend.prepare(greedy(4, **bad))
    ((ids, _, finish),) = compute(backend, (prompt, greedy(4, ignore_eos=True)))
    assert (len(ids), finish) == (4, "length")


@pytest.mark.parametrize(
    "expression", ["([^x]{1,10}[^y]{1,10}){9}", "([\\w ]{1,10}[^y]{1,10}){9}", "([^x]{3,5}[^y]{2,4}){15}"]
)
def test_an_expression_whose_steps_would_hold_up_everybody_is_refused(backend, expression):
    with pytest.raises(CannotTake, match="each step would hold up everybody"):
        backend.prepare(greedy(4, grammar=of_pattern(read_regex(expression))))


def test_bounded_repetitions_within_others_are_ruled_by_short_steps(backend, prompt):
    """Which ended with none within seconds, as they were given before."""
    rule = of_pattern(read_regex("([^x]{1,10}[^y]?){9}"))
    backend.prepare(greedy(30, grammar=rule))
    began = time.process_time()
    ((ids, _, finish),) = compute(backend, (prompt, greedy(30, grammar=rule)))
    assert time.process_time() - began < 2
    assert finish == "length" or re.fullmatch(rule.regex(), backend.tokenizer.decode(ids))


def test_a_rule_is_compiled_once_and_beside_the_steps(backend, prompt, monkeypatch):
    rule = greedy(4, grammar=gbnf.read('root ::= "penstock" | "turbine"'))
    backend.prepare(rule)
    monkeypatch.setattr(backend._rules, "_pipeline", None)
    backend.prepare(rule)
    assert backend._rules._pipeline is None  # nobody asked for another
    backend.prepare(greedy(4, grammar=gbnf.read('root ::= "gate" | "lake"')))
    assert backend._rules._pipeline is not None


def test_rules_are_forgotten_when_there_are_many_and_nobody_is_computed(backend, prompt, monkeypatch):
    rule = greedy(12, grammar=of_pattern(read_regex("[^a]{1,20}")))
    backend.rest()
    backend.prepare(rule)
    before = compute(backend, (prompt, rule))
    kept = backend._rules._bytes
    pipeline = backend._pipeline
    monkeypatch.setattr(_openvino_rules, "MOST_BYTES", 2 * kept)
    backend.rest()
    assert backend._pipeline is pipeline  # there are not many yet
    backend.prepare(greedy(12, grammar=of_pattern(read_regex("[^b]{1,20}"))))
    assert backend._rules.are_many
    del pipeline
    backend.rest()
    assert repr(backend._rules) == "<RuleCompiler 0 rules, some 0 MB>"
    assert compute(backend, (prompt, rule)) == before
    assert backend.tokenizer.decode(backend.tokenizer.encode("json", special=False)) == "json"


def test_beyond_them_no_new_rule_is_compiled_until_then(backend, prompt, monkeypatch):
    rule = greedy(4, grammar=of_pattern(read_regex("[^a]{1,20}")))
    backend.prepare(rule)
    monkeypatch.setattr(_openvino_rules, "MOST_BYTES", 100)
    other = greedy(4, grammar=of_pattern(read_regex("[^c]{1,20}")))
    with pytest.raises(Overloaded, match="no memory for another rule"):
        backend.prepare(other)
    backend.prepare(rule)  # which is there
    ((ids, _, _),) = compute(backend, (prompt, rule))
    assert ids
    backend.rest()
    backend.prepare(other)


def in_use():
    """Bytes that this process has asked for, as its C library counts them."""

    class Figures(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in ["arena", "ord", "sm", "h", "hblkhd", "usm", "fsm", "uordblks", "ford", "keep"]
        ]

    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("the C library does not count")
    library.mallinfo2.restype = Figures
    figures = library.mallinfo2()
    return figures.uordblks + figures.hblkhd


def test_what_rules_take_is_known_and_given_back(backend, monkeypatch):
    backend.prepare(
        greedy(4, grammar=of_pattern(read_regex("[^ab]{1,20}")))
    )  # what is made once only is there
    words = [[f"word{kind}{place * 7919}" for place in range(100)] for kind in range(3)]
    rules = [greedy(4, grammar=of_pattern(read_regex("|".join(each)))) for each in words]
    rules += [greedy(4, grammar=of_pattern(read_regex(f"{place}[^y]{{1,100}}"))) for place in range(3)]
    before, kept = in_use(), backend._rules._bytes
    for rule in rules:
        backend.prepare(rule)
    taken, known = in_use() - before, backend._rules._bytes - kept
    assert 0.9 * taken < known < 4 * taken
    monkeypatch.setattr(_openvino_rules, "MOST_BYTES", 100)
    backend.rest()
    assert in_use() < before + 0.2 * taken


@pytest.mark.parametrize(
    "expression",
    [
        "[a-z ]*a[a-z ]{40}",
        "[a-z ]*a[a-z ]{40}|[a-z ]*b[a-z ]{40}",
        "([a-z ]*a[a-z ]{30}0){1,6}",
        "(a{1,60}){1,60}",
        "(a|aa){1,1000}",
        "([a-z]{1,9}|[a-m]{1,7}b?){1,12}",
        "(.*a){20}.{5}",
    ],
)
def test_no_expression_that_is_let_through_keeps_the_compiler(backend, prompt, expression):
    """As deterministic automata the first three have more states than there is memory."""
    rule = of_pattern(read_regex(expression))
    began = time.process_time()
    backend.prepare(greedy(4, grammar=rule))
    assert time.process_time() - began < 3
    ((ids, _, finish),) = compute(backend, (prompt, greedy(4, grammar=rule)))
    assert (len(ids), finish) == (4, "length")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("expression", ["[^x]?" * 20, "[ab]{5,8}([ab]?[^x]{1,40})*", "[^0]{1,199}"])
def test_no_expression_with_many_bounds_keeps_the_steps(backend, prompt, expression):
    """With the library's own repetitions, 15 steps of the first one did not end within 9 s."""
    rule = {"grammar": of_pattern(read_regex(expression))}
    drawn = [Sampling(max_tokens=60, temperature=1.0, seed=seed, **rule) for seed in range(3)]
    for ids, _, finish in compute(backend, *((prompt, one) for one in drawn)):
        text = backend.tokenizer.decode(ids)
        assert finish == "length" or re.fullmatch(expression, text, re.DOTALL)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("least", [0, 300])
def test_a_text_with_bounds_keeps_to_them_and_does_not_keep_the_steps(backend, prompt, least):
    schema = {"type": "string", "minLength": least, "maxLength": 330}
    drawn = [
        Sampling(max_tokens=400, temperature=1.0, seed=seed, schema=compiled(schema)) for seed in range(3)
    ]
    told = compute(backend, *((prompt, one) for one in drawn))
    assert [finish for _, _, finish in told] == ["stop"] * 3
    assert all(least <= len(json.loads(backend.tokenizer.decode(ids))) <= 330 for ids, _, _ in told)


@pytest.mark.parametrize("kind", CHEAP)
def test_large_schemas_that_are_let_through_are_kept_to(backend, prompt, kind):
    asked = greedy(6, schema=compiled(CHEAP[kind]))
    backend.prepare(asked)
    ((ids, _, _),) = compute(backend, (prompt, asked))
    assert ids


@pytest.mark.parametrize("name", ["guided_choice", "structured_outputs"])
def test_a_request_with_a_choice_gets_one_of_it(backend, name):
    texts = ["json.dumps", "os.path (or not)"]
    rule = {name: texts if name == "guided_choice" else {"choice": texts}}
    asked = {"model": "m", "messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 30}
    request = read(Endpoint.CHAT, json.dumps(asked | rule).encode(), backend.tokenizer, backend.card)
    ((ids, _, finish),) = compute(backend, (request.prompts[0], request.sampling))
    assert (backend.tokenizer.decode(ids) in texts, finish) == (True, "stop")


def test_how_likely_a_prompt_is_can_be_asked_where_all_of_it_is_computed(backend):
    assert not backend.card.scores  # beginnings are computed once, and nothing is told of them then


def test_no_more_threads_draw_than_may_compute():
    assert openvino.properties(LocalConfig(threads=3))["sampler_num_threads"] == 3
    assert "sampler_num_threads" not in openvino.properties(LocalConfig())
    assert "sampler_num_threads" not in openvino.properties(LocalConfig(threads=3), cache=False)


@pytest.mark.parametrize(
    ("threads", "cores", "whole", "hinted"),
    [(1, 4, True, True), (0, 1, True, True), (2, 4, True, False), (0, 4, True, False), (1, 1, False, False)],
)
def test_one_thread_alone_computes_weights_that_are_not_rounded_in_fp32(
    monkeypatch, threads, cores, whole, hinted
):
    """In bf16, where the processor has that, the library would end the process."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    told = openvino.properties(LocalConfig(threads=threads), whole=whole)
    assert (told.get("INFERENCE_PRECISION_HINT") == "f32") == hinted


def test_keys_and_values_in_fp32_are_computed_in_fp32_as_well(prompt):
    """Where the processor has bf16, the library takes nothing else together."""
    kept = made(LocalConfig(threads=1, cache_precision="fp32", slots=2, cache_bytes=8_000_000))
    ((ids, _, _),) = compute(kept, (prompt, greedy(4, ignore_eos=True)))
    kept.close()
    assert len(ids) == 4


def test_weights_of_two_bytes_that_are_computed_in_fp32_need_twice_the_room():
    model = msgspec.structs.replace(inspect(demo.path()), half_bytes=VAST)
    with pytest.raises(ModelUnusable, match="are free"):
        openvino.OpenVINOBackend(model, small(1, 1_000_000))
    abilities = openvino.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if {"BF16", "FP16"}.isdisjoint(abilities):
        pytest.skip("this processor computes everything in fp32")
    openvino.OpenVINOBackend(model, LocalConfig(threads=2, slots=1, cache_bytes=1_000_000)).close()


def test_a_new_one_goes_on_where_another_one_stopped_at_any_token(backend, prompt):
    """With the settings that most have: what is said is kept for the next, but there is nothing yet."""
    ((whole, _, finish),) = compute(backend, (prompt, greedy(6)))
    for cut in range(1, len(whole)):
        new = made(small())
        ((rest, _, ending),) = compute(new, ([*prompt, *whole[:cut]], greedy(6 - cut)))
        new.close()
        assert (whole[:cut] + rest, ending) == (whole, finish)


def steps_until_said(backend, prompt):
    """How many it takes until the first token; a step reads 256 of a prompt's at most."""
    number = next(NUMBERS)
    backend.add(number, prompt, greedy(1))
    return next(count for count in itertools.count(1) if any(told.finish for told in backend.step()))


@pytest.mark.parametrize(("kept", "steps"), [(True, 1), (False, 4)])
def test_what_prompts_have_in_common_is_computed_once(kept, steps):
    backend = made(msgspec.structs.replace(small(), prefix_cache=kept))
    common = backend.tokenizer.encode("What is json.dumps? " * 150, special=False)[:900]
    other = [token + 1 for token in common]
    assert steps_until_said(backend, [*common, 5]) == 4
    assert steps_until_said(backend, [*common, 6]) == steps
    assert steps_until_said(backend, [*other, 5]) == 4
    backend.close()


def test_keys_and_values_in_int8_take_less_than_a_third_and_answer(prompt):
    def of(precision):
        """Bytes of a page, and an answer."""
        kept = made(LocalConfig(threads=1, cache_precision=precision, slots=2, cache_bytes=8_000_000))
        ((ids, _, finish),) = compute(kept, (prompt, greedy(8, ignore_eos=True)))
        assert (len(ids), finish) == (8, "length")
        kept.add(next(NUMBERS), prompt, greedy(8, ignore_eos=True))
        kept.step()
        told = kept.statistics()
        kept.close()
        return told["cache_bytes"] * told["cache_usage_percent"] / 100, ids

    (rounded, ids), (whole, in_whole) = of("int8"), of("fp32")
    assert rounded < whole / 3
    assert ids[:4] == in_whole[:4]  # the model is sure of these


@pytest.fixture
def copy(tmp_path):
    """The model with some of its files written anew; ``template``: what its tokenizer's graph has."""

    def make(template=None, **files):
        for path in demo.path().iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        for name, text in files.items():
            (tmp_path / f"{name}.json").write_text(text)
        if template is not None:
            graph = tmp_path / "openvino_tokenizer.xml"
            text, times = re.subn('(<chat_template value=")[^"]*', rf"\g<1>{template}", graph.read_text())
            assert times == 1
            graph.write_text(text)
        return openvino.OpenVINOBackend(inspect(tmp_path), small(1, 1_000_000))

    return make


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        '{"do_sample": true, "temperature": -1, "top_p": 0, "top_k": -1, "min_p": 7, "repetition_penalty": 0}',
        '{"do_sample": true, "temperature": null, "top_p": null, "eos_token_id": null}',
    ],
)
def test_a_models_own_way_of_choosing_that_is_none_is_passed_over(copy, prompt, said):
    backend = copy(generation_config=said)
    asked = {"model": "m", "prompt": prompt, "max_tokens": 2, "ignore_eos": True}
    request = read(Endpoint.COMPLETIONS, json.dumps(asked).encode(), backend.tokenizer, backend.card)
    ((ids, _, finish),) = compute(backend, (prompt, request.sampling))
    assert (len(ids), finish) == (2, "length")
    backend.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("{", "cannot be used"),
        ('{"temperature": "hot"}', "must be number"),
        ('{"eos_token_id": 99999}', "99999 ends an answer, .* mend eos_token_id"),
        ('{"eos_token_id": [0, 4096]}', "4096 ends an answer"),
    ],
)
def test_a_generation_config_that_cannot_be_is_told(copy, said, why):
    with pytest.raises(ModelUnusable, match=why):
        copy(generation_config=said)


def test_a_template_that_makes_no_sense_is_told_with_the_model(copy):
    with pytest.raises(ModelUnusable, match="chat template makes no sense"):
        copy(template="{% for")


def test_a_template_that_divides_by_zero_costs_its_caller_the_answer_and_nobody_else(copy, prompt):
    backend = copy(template="{{ 1 / messages[0].content | length }}")
    assert backend.tokenizer.render([{"role": "user", "content": "a"}], answer=True) == "1.0"
    with pytest.raises(CannotTake, match="division by zero"):
        backend.tokenizer.render([{"role": "user", "content": ""}], answer=True)
    backend.close()


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
        openvino.OpenVINOBackend(inspect(tmp_path), small(1, 1_000_000))


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


def test_a_template_is_told_what_the_caller_says():
    tokenizer = openvino.openvino_genai.Tokenizer(str(demo.path()))
    tokenizer.set_chat_template("{% if enable_thinking %}<think>{% endif %}{{ messages[0].content }}")
    told = openvino.OpenVINOTokenizer(tokenizer)
    messages = [{"role": "user", "content": "a"}]
    assert told.render(messages, answer=True) == "a"
    assert told.render(messages, answer=True, more={"enable_thinking": True}) == "<think>a"
    assert told.render(messages, answer=True, more={"enable_thinking": False}) == "a"
