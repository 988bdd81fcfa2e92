"""Chat templates are code of a model's author: what goes wrong in one is told, and nothing else comes of it."""

from __future__ import annotations

import pytest

from penstock.engine import _chat_template
from penstock.engine._chat_template import ChatTemplate
from penstock.engine.backend import CannotTake

MESSAGES = [{"role": "user", "content": "hello"}]


def rendered(source, messages=MESSAGES, **more):
    template = ChatTemplate(source, {"bos_token": "<s>"})
    return template.render(messages, answer=True, tools=(), more=more)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>hello"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", ""),
        ("{{ {'a': 'ä<'} | tojson }}", '{"a": "ä<"}'),
        ("{{ strftime_now('%%') }}{{ add_generation_prompt }}{{ tools is none }}", "%TrueTrue"),
        ("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}", "ababab10243"),
        ("{% if mood %}{{ mood }}{% endif %}", "calm"),
    ],
)
def test_what_templates_say(source, text):
    assert rendered(source, mood="calm") == text


@pytest.mark.parametrize(
    "source", ["{% for", "{{ a | nofilter }}", "{{ a", "{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}"]
)
def test_one_that_makes_no_sense_is_found_when_the_model_is_loaded(source):
    with pytest.raises(ValueError, match="chat template makes no sense"):
        ChatTemplate(source, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no system') }}",
        "{{ messages[5].content }}",
        "{{ nothing() }}",
        "{{ 1 / 0 }}",
        "{{ 1 % 0 }}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x'.encode('nope') }}",
        "{{ range(3000000) }}",
        "{{ 'x' * 9 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 1000000000 * [0] }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_whatever_goes_wrong_is_told(source):
    with pytest.raises(CannotTake, match=r"does not take these messages: .+"):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ ('{0.__class__.__init__.__globals__}').format(cycler) }}",
        "{{ messages | map(attribute='__class__') | list }}{{ messages[0]['__class__'].__mro__ }}",
    ],
)
def test_there_is_no_way_out(source):
    messages = [dict(message) for message in MESSAGES]
    try:
        text = rendered(source, messages)
    except CannotTake:
        text = ""
    assert "class" not in text
    assert "uid=" not in text
    assert messages == MESSAGES


def test_what_a_template_makes_is_bounded(monkeypatch):
    monkeypatch.setattr(_chat_template, "MAX_LETTERS", 1_000)
    assert len(rendered("{% for i in range(500) %}a{{ '' }}{% endfor %}")) == 500
    with pytest.raises(CannotTake, match="more than 1000 letters"):
        rendered("{% for i in range(1001) %}a{{ '' }}{% endfor %}")
