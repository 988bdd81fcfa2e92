import itertools
import json
import random

import msgspec
import pytest

from penstock.config.model import PromptCacheConfig
from penstock.ledger.prices import CacheTerms
from penstock.messages import Call, Endpoint, Tenant
from penstock.testing import FakeClock
from penstock.upstream.prompt_cache import LIFETIME, LONG_LIFETIME, MAX_BEGINNINGS, PromptCare, takes_key

LONG = "You are a careful assistant. " * 200  # 1,450 tokens
numbers = itertools.count()


def a_call(endpoint, tenant="t"):
    return Call(f"gen_{next(numbers)}", endpoint, "m", False, {}, b"", {}, 0.0, Tenant(name=tenant))


class Care:
    def __init__(self, terms=CacheTerms(), **config):  # noqa: B008 - it cannot be changed
        self.clock = FakeClock()
        self.care = PromptCare(PromptCacheConfig(**config), lambda *_: terms, self.clock.now)

    def ask(self, *texts, system=LONG, endpoint=Endpoint.MESSAGES, tenant="t", keyed=True, **more):
        """``more`` are members of the body; ``messages`` instead of those that are made of the texts."""
        roles = itertools.cycle(("user", "assistant"))
        body = {"messages": [{"role": next(roles), "content": text} for text in texts], **more}
        if system:
            if endpoint is Endpoint.CHAT:
                body["messages"].insert(0, {"role": "system", "content": system})
            else:
                body["system"] = system
        fields = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in body.items()}
        self.call = a_call(endpoint, tenant)
        changes = self.care.changes(self.call, endpoint, fields, "up", "m", keyed=keyed)
        return {name: json.loads(value) for name, value in changes.items()}

    @property
    def repeated(self):
        return self.care.repeated(self.call.id, 10_000)


def test_a_beginning_is_marked_when_it_comes_again():
    care = Care()
    assert care.ask("one") == {}
    assert set(care.ask("two")) == {"system"}
    assert 9_900 < care.repeated < 10_000


def test_what_is_too_short_to_be_kept_is_not_counted():
    care = Care()
    care.ask("one")
    care.ask("two")
    whole = care.care.repeated(care.call.id, 1_100)
    assert 1_080 < whole < 1_100  # nearly all of it is the system prompt
    assert care.care.repeated(care.call.id, 1_024) == 0
    assert Care(min_tokens=2_000).care.repeated("gen_unknown", 9_999) == 0


def test_a_beginning_that_comes_too_late_is_not():
    care = Care()
    care.ask("one")
    care.clock.advance(LIFETIME + 1)
    assert care.ask("two") == {}
    assert care.repeated == 0


def test_a_conversation_is_marked_at_its_end():
    care = Care()
    care.ask("one " + LONG)
    assert "messages" in care.ask("one " + LONG, "two", "three")
    assert "messages" in care.ask("one " + LONG, "two", "three", "four", "five")
    assert 9_700 < care.repeated < 10_000


def test_a_short_beginning_is_left_alone():
    care = Care(min_tokens=5_000)
    for _ in range(50):
        assert care.ask("one") == {}


def test_other_tenants_know_nothing_of_it():
    care = Care()
    care.ask("one")
    assert care.ask("two", tenant="other") == {}
    assert care.repeated == 0


@pytest.mark.parametrize(
    "more", [{"cache_control": {"type": "ephemeral"}}, {"tools": [{"cache_control": {}}]}]
)
def test_a_prompt_with_marks_of_its_own_is_left_as_it_is(more):
    care = Care()
    for _ in range(3):
        assert care.ask("one", **more) == {}


def test_where_experience_says_so_even_a_new_beginning_is_marked():
    care = Care()
    for number in range(30):
        for _ in range(3):
            care.ask("x", system=f"{number} {LONG}")
    assert set(care.ask("x", system="new " + LONG)) == {"system", "messages"}


def test_where_no_beginning_comes_again_none_is_marked():
    care = Care()
    for number in range(200):
        assert care.ask("x", system=f"{number} {LONG}") == {}


def test_the_tools_are_marked_where_what_follows_differs():
    care = Care()
    tools = [{"name": "f", "description": LONG}]
    care.ask("x", system="one", tools=tools)
    assert set(care.ask("x", system="two", tools=tools)) == {"tools"}


def test_a_second_attempt_is_no_second_prompt():
    care = Care()
    call, body = a_call(Endpoint.MESSAGES), {"system": LONG, "messages": [{"role": "user", "content": "x"}]}
    fields = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in body.items()}
    for _ in range(3):
        assert care.care.changes(call, Endpoint.MESSAGES, fields, "up", "m", keyed=False) == {}


def test_openai_gets_a_key_that_is_the_beginnings_and_the_tenants():
    care = Care()
    ask = lambda *texts, **more: care.ask(*texts, endpoint=Endpoint.CHAT, **more).get("prompt_cache_key")  # noqa: E731
    key = ask("one", "two", "three")
    assert key
    assert ask("other", "words") == key
    assert ask("one", "two", tenant="other") != key
    assert ask("one", "two", system="another " + LONG) != key
    assert ask("one", "two", prompt_cache_key="own") is None
    assert ask("one", "two", keyed=False) is None
    assert ask("one", "two", system="short") is None


def test_what_is_remembered_is_bounded():
    care = Care()
    for number in range(MAX_BEGINNINGS // 2 + 100):
        care.ask(f"{number}", system=f"s{number}")
    assert len(care.care._seen) <= MAX_BEGINNINGS


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_marks_save_money_where_beginnings_return_and_cost_next_to_nothing_where_not(share):
    """Billed as Anthropic does: what is marked and not there is written at 1.25, what is there is read at 0.1."""
    care, rand, kept = Care(), random.Random(3), {}
    usual = paid = 0.0
    systems = [f"{number} {LONG}" for number in range(10_000)]
    recent = [0]
    for number in range(1_500):
        care.clock.advance(5.0)
        which = rand.choice(recent[-20:]) if rand.random() < share else number
        recent.append(which)
        changes = care.ask("x", system=systems[which])
        now = care.clock.now()
        usual += 1
        if "system" in changes or "messages" in changes:
            there = kept.get(which, -1e9) > now - LIFETIME
            paid += 0.1 if there else 1.25
            kept[which] = now
        else:
            paid += 1
    assert paid < (usual * 1.02 if share < 0.217 else usual * 0.85)


@pytest.mark.parametrize(("gap", "hour"), [(20.0, False), (600.0, True), (4_000.0, False)])
def test_what_returns_within_the_hour_and_not_within_minutes_is_kept_for_the_hour(gap, hour):
    """Billed as Anthropic does, with marks for an hour at twice the price."""
    care, kept = Care(CacheTerms(write_1h=2.0)), {}
    paid, marks = 0.0, []
    for _ in range(400):
        care.clock.advance(gap)
        changes = care.ask("x")
        mark = changes["system"][-1]["cache_control"] if "system" in changes else None
        marks.append(mark)
        now = care.clock.now()
        if mark is None:
            paid += 1
            continue
        long = mark.get("ttl") == "1h"
        paid += 0.1 if kept.get("until", -1.0) >= now else 2.0 if long else 1.25
        kept["until"] = now + (LONG_LIFETIME if long else LIFETIME)
    assert ({"type": "ephemeral", "ttl": "1h"} in marks) == hour
    if gap > LONG_LIFETIME:
        assert marks == [None] * 400
    else:
        assert paid < 400 * 0.2


def test_a_mark_for_the_hour_has_none_for_minutes_before_it():
    care = Care(CacheTerms(write_1h=2.0))
    talk = ["one " + LONG, "two", "three"]
    for number in range(200):  # conversations that go on after ten minutes, and a system prompt that all have
        care.clock.advance(200.0)
        care.ask(f"{number} {LONG}")
        care.clock.advance(200.0)
        care.ask(*talk)
        talk += ["more", "words"]
    care.clock.advance(200.0)
    care.ask(f"201 {LONG}")
    care.clock.advance(200.0)
    changes = care.ask(*talk)
    lives = {part: json.dumps(value).count('"ttl": "1h"') for part, value in changes.items()}
    assert lives.get("messages", 0) <= lives.get("system", 1)


def test_the_shortest_beginning_is_the_models_own():
    care = Care(CacheTerms(minimum=4_096))
    care.ask("one")
    assert care.ask("two") == {}
    care = Care(CacheTerms(minimum=4_096), min_tokens=1_000)
    care.ask("one")
    assert set(care.ask("two")) == {"system"}


def test_what_stays_of_a_system_prompt_is_marked_before_what_changes():
    care = Care()
    for minute in range(3):
        changes = care.ask(
            f"question {minute}",
            system=[{"type": "text", "text": LONG}, {"type": "text", "text": f"It is 12:0{minute}."}],
        )
    assert ["cache_control" in block for block in changes["system"]] == [True, False]
    assert set(changes) == {"system"}


def test_tools_that_come_in_another_order_are_other_tools():
    care = Care()
    tools = [{"name": name, "description": LONG} for name in "abc"]
    for turn in range(30):
        changes = care.ask(
            "one", tools=[*tools[turn % 3 :], *tools[: turn % 3]][: 2 + turn % 2], system=f"{turn}"
        )
        care.clock.advance(LIFETIME)
    assert changes == {}


def an_agents_turn(number, calls):
    """What an agent did, and what came of it: one call of each tool."""
    return [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": f"{number} {one}", "name": "a", "input": {}}
                for one in range(calls)
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": f"{number} {one}", "content": "x"}
                for one in range(calls)
            ],
        },
    ]


@pytest.mark.parametrize(("calls", "marked"), [(1, [2]), (9, [2]), (10, [0, 2]), (30, [0, 2])])
def test_where_a_turn_has_many_blocks_the_end_of_the_prompt_before_is_marked_too(calls, marked):
    care = Care()
    talk = [{"role": "user", "content": LONG}]
    care.ask(messages=talk)
    changes = care.ask(messages=[*talk, *an_agents_turn(1, calls)])
    assert [at for at, turn in enumerate(changes["messages"]) if "cache_control" in str(turn)] == marked


def test_there_are_never_more_than_four_marks():
    care = Care(CacheTerms(write_1h=2.0))
    rand = random.Random(5)
    talk = [{"role": "user", "content": [{"type": "text", "text": LONG}]}]
    for number in range(200):
        care.clock.advance(rand.choice([1.0, 400.0]))
        system = [
            {"type": "text", "text": LONG},
            {"type": "text", "text": f"{number // 3}"},
            {"type": "text", "text": "end"},
        ]
        tools = [{"name": f"{name}", "description": LONG} for name in range(3)]
        changes = care.ask(messages=talk, system=system, tools=tools)
        marks = json.dumps(changes).count('"cache_control"')
        assert marks <= 3
        ordered = json.dumps([changes.get(part) for part in ("tools", "system", "messages")])
        hours = ['"1h"' in mark[:50] for mark in ordered.split('"cache_control"')[1:]]
        assert hours == sorted(hours, reverse=True)  # one for minutes may not stand before one for the hour
        talk = [*talk, *an_agents_turn(number, rand.randrange(1, 30))] if len(talk) < 30 else talk[:1]


def test_a_chats_key_is_its_system_prompts_too_where_there_are_tools():
    care = Care()
    tools = [{"type": "function", "function": {"name": "a", "description": LONG}}]
    keys = {
        care.ask(text, endpoint=Endpoint.CHAT, system=system, tools=tools)["prompt_cache_key"]
        for system in ("You cook.", "You sew.")
        for text in ("one", "two")
    }
    assert len(keys) == 2


def test_who_refuses_what_he_does_not_know_gets_no_key():
    hosts = ("api.openai.com", "localhost", "api.mistral.ai", "mistral.ai", "notmistral.ai", "api.groq.com")
    assert [takes_key(host) for host in hosts] == [True, True, False, False, True, False]


def converse(care, messages, model="anthropic.claude-sonnet-4-v1:0", **more):
    body = {"messages": messages, **more}
    fields = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in body.items()}
    call = a_call(Endpoint.MESSAGES)
    changes = care.care.points(call, fields, "up", model)
    return {name: json.loads(value) for name, value in changes.items()}


POINT = {"cachePoint": {"type": "default"}}
TOOLS = {"tools": [{"toolSpec": {"name": "a", "description": LONG}}], "toolChoice": {"auto": {}}}


def test_converse_gets_its_own_marks():
    care = Care()
    talk = [{"role": "user", "content": [{"text": LONG}]}]
    system = [{"text": LONG}, {"text": "S"}]
    assert converse(care, talk, system=system, toolConfig=TOOLS) == {}
    talk += [
        {"role": "assistant", "content": [{"text": "yes"}]},
        {"role": "user", "content": [{"text": "and?"}]},
    ]
    assert converse(care, talk, system=system, toolConfig=TOOLS) == {
        "system": [*system, POINT],
        "messages": [*talk[:-1], {"role": "user", "content": [{"text": "and?"}, POINT]}],
    }
    assert converse(care, talk[:1], system=[{"text": "other"}], toolConfig=TOOLS)["toolConfig"] == {
        "tools": [*TOOLS["tools"], POINT],
        "toolChoice": {"auto": {}},
    }


def test_nova_takes_no_mark_after_its_tools():
    care = Care()
    for number in range(3):
        talk = [{"role": "user", "content": [{"text": f"{number}"}]}]
        changes = converse(
            care, talk, "us.amazon.nova-pro-v1:0", system=[{"text": f"{number}"}], toolConfig=TOOLS
        )
    assert changes == {}


@pytest.mark.parametrize(
    "more",
    [
        {"system": [{"text": LONG}, POINT]},
        {"toolConfig": {"tools": [*TOOLS["tools"], POINT]}},
        {"messages": [{"role": "user", "content": [{"text": LONG}, POINT]}]},
    ],
)
def test_a_request_to_converse_with_marks_of_its_own_is_left_as_it_is(more):
    care = Care()
    body = {"messages": [{"role": "user", "content": [{"text": LONG}]}], "system": [{"text": LONG}], **more}
    assert [converse(care, **body) for _ in range(2)] == [{}, {}]


def test_what_converse_does_not_keep_takes_no_mark():
    care = Care()
    talk = [
        {"role": "user", "content": [{"text": LONG}]},
        {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "x"}}}]},
    ]
    assert [converse(care, talk) for _ in range(2)] == [{}, {}]
    assert converse(care, 3) == {}
