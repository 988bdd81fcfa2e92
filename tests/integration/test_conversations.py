"""Conversations, as OpenAI's SDK uses them, before upstreams of every API."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import openai
import pytest
from gateway_books import settled_bill, wait_until

from penstock.config.keys import hash_key, new_key
from penstock.testing import GatewayProcess, RedisServer, SimulatorProcess

MODEL = "sim:tokens=8"


def configured(simulator, folder, kind="openai", **sections):
    own = {"base_url": simulator.url if kind == "anthropic" else simulator.base_url}
    return {
        "upstreams": {"own": {"kind": kind, "api_key": "k", "cancel_grace": 10, **own}},
        "models": {"*": {"candidates": [{"upstream": "own"}]}},
        "ledger": {"path": str(folder / "ledger.sqlite")},
        **sections,
    }


def durable(folder):
    return {"durability": "disk", "path": str(folder / "generations.sqlite")}


def said(simulator):
    """What the model was shown at last: roles and texts, whichever API it was asked by."""
    body = json.loads(simulator.requests()[-1]["body"])
    told = []
    for message in body.get("messages") or body["input"]:
        content = message["content"]
        told.append(
            (
                message["role"],
                content if isinstance(content, str) else "".join(part["text"] for part in content),
            )
        )
    return told


def items_of(client, conversation, **query):
    return [
        (item.role, item.content[0].text) for item in client.conversations.items.list(conversation, **query)
    ]


def wait_added(client, conversation, count):
    wait_until(lambda: len(items_of(client, conversation)) == count, what="what was said")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["openai", "anthropic", "sim"])
def test_a_response_goes_on_with_its_conversation_and_adds_to_it(kind, stream, tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path, kind), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        first = [{"role": "developer", "content": "Be brief."}]
        conversation = client.conversations.create(items=first, metadata={"topic": "demo"})
        assert (conversation.object, conversation.metadata) == ("conversation", {"topic": "demo"})
        texts = []
        for number in range(3):
            asked = {"model": MODEL, "input": f"question {number}", "conversation": conversation.id}
            if stream:
                with client.responses.stream(**asked) as events:
                    texts.append(events.get_final_response().output_text)
            else:
                texts.append(client.responses.create(**asked).output_text)
        expected = [("developer", "Be brief.")]
        for number, text in enumerate(texts):
            expected += [("user", f"question {number}"), ("assistant", text)]
        assert items_of(client, conversation.id, order="asc", limit=2) == expected  # page by page
        assert items_of(client, conversation.id) == expected[::-1]
        system = [] if kind == "anthropic" else [("system" if kind == "openai" else "developer", "Be brief.")]
        shown = [(role, text) for role, text in said(simulator) if role not in {"system", "developer"}]
        assert shown == expected[1:-1]
        assert [each for each in said(simulator) if each not in shown] in (
            system,
            [("developer", "Be brief.")],
        )
        count = client.responses.input_tokens.count(model=MODEL, conversation=conversation.id, input="and?")
        assert (
            count.input_tokens > client.responses.input_tokens.count(model=MODEL, input="and?").input_tokens
        )
        assert len(items_of(client, conversation.id)) == 7


def test_items_are_added_found_and_removed(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        conversation = client.conversations.create()
        items = client.conversations.items
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        output = {"type": "function_call_output", "call_id": "c", "output": "42"}
        added = items.create(conversation.id, items=[{"role": "user", "content": "hi"}, call, output]).data
        assert [item.type for item in added] == ["message", "function_call", "function_call_output"]
        assert len({item.id for item in added}) == 3
        assert items.retrieve(added[1].id, conversation_id=conversation.id) == added[1]
        again = items.create(conversation.id, items=[added[1].to_dict()]).data[0]
        assert again.id != added[1].id  # each item has an id of its own
        left = items.delete(again.id, conversation_id=conversation.id)
        assert left.id == conversation.id
        assert [item.id for item in items.list(conversation.id, order="asc")] == [item.id for item in added]
        assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
        assert client.conversations.retrieve(conversation.id).metadata == {"a": "b"}
        for odd in ("a%2Fb", "..%2f..", again.id, "x" * 2_000):
            with pytest.raises(openai.NotFoundError):
                items.retrieve(odd, conversation_id=conversation.id)
        for wrong in ([], [{}], [{"type": 1}], [1], [{"role": "user", "content": "x"}] * 21):
            with pytest.raises(openai.BadRequestError):
                items.create(conversation.id, items=wrong)
        assert client.conversations.delete(conversation.id).deleted
        for gone in (client.conversations.retrieve, client.conversations.delete, items.list):
            with pytest.raises(openai.NotFoundError):
                gone(conversation.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model=MODEL, input="hi", conversation=conversation.id)


def test_what_names_no_conversation_of_the_gateway_is_the_upstreams(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path, "openai"), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        foreign = "conv_" + "0" * 50
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model=MODEL, input="hi", conversation=foreign)
        assert (refused.value.code, refused.value.param) == ("untranslatable", "conversation")
        own = client.conversations.create().id
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model=MODEL, input="hi", conversation=own, previous_response_id="resp_1")
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model=MODEL, input="hi", conversation=1)
        assert settled_bill(simulator)["requests"] == 0


def test_what_failed_adds_nothing_and_a_retry_adds_and_costs_nothing_twice(tmp_path, client_of):
    with (
        SimulatorProcess() as simulator,
        GatewayProcess(configured(simulator, tmp_path), tmp_path) as gateway,
    ):
        client = client_of(gateway)
        conversation = client.conversations.create().id
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="sim:400", input="hi", conversation=conversation)
        assert items_of(client, conversation) == []
        key = {"Idempotency-Key": "once"}
        answers = {
            client.responses.create(
                model=MODEL, input="hi", conversation=conversation, extra_headers=key
            ).output_text
            for _ in range(3)
        }
        assert len(answers) == 1
        assert len(items_of(client, conversation)) == 2
        # An SDK that lost its patience asks again, and reads the answer that it was about to get.
        hasty = client_of(gateway, retries=2, timeout=1.5)
        hasty.responses.create(model="sim:tokens=4,ttft=2000", input="slow", conversation=conversation)
        wait_until(lambda: len(items_of(client, conversation)) == 4, what="the slow answer")
        assert settled_bill(simulator)["requests"] == 3
        # Gone on from, it is shown with what its conversation held then, and adds nothing to that.
        made = client.responses.create(model=MODEL, input="more", conversation=conversation)
        wait_added(client, conversation, 6)
        client.responses.create(model=MODEL, input="and", previous_response_id=made.id)
        assert [text for _, text in said(simulator)] == [
            *(text for _, text in items_of(client, conversation, order="asc")),
            "and",
        ]
        assert len(items_of(client, conversation)) == 6


def test_nobody_sees_another_tenants_conversations(tmp_path, client_of):
    keys = {name: new_key() for name in ("alice", "bob")}
    listed = [{"name": name, "hash": hash_key(key), "tenant": name} for name, key in keys.items()]
    with SimulatorProcess() as simulator:
        with GatewayProcess(configured(simulator, tmp_path, keys=listed), tmp_path) as gateway:
            alice, bob = (client_of(gateway, key) for key in keys.values())
            own = alice.conversations.create(items=[{"role": "user", "content": "secret"}]).id
            item = alice.conversations.items.list(own).data[0].id
            for attempt in (
                lambda: bob.conversations.retrieve(own),
                lambda: bob.conversations.update(own, metadata={}),
                lambda: bob.conversations.delete(own),
                lambda: bob.conversations.items.list(own),
                lambda: bob.conversations.items.create(own, items=[{"role": "user", "content": "x"}]),
                lambda: bob.conversations.items.retrieve(item, conversation_id=own),
                lambda: bob.conversations.items.delete(item, conversation_id=own),
                lambda: bob.responses.create(model=MODEL, input="hi", conversation=own),
            ):
                with pytest.raises(openai.NotFoundError):
                    attempt()
            assert items_of(alice, own) == [("user", "secret")]
            assert settled_bill(simulator)["requests"] == 0


def test_conversations_outlive_their_processes_where_answers_do(tmp_path, client_of):
    with SimulatorProcess() as simulator:
        config = configured(simulator, tmp_path, workers=2, generations=durable(tmp_path))
        gateway = GatewayProcess(config, tmp_path).start()
        client = client_of(gateway)
        conversation = client.conversations.create(items=[{"role": "user", "content": "hello"}]).id
        text = client.responses.create(model=MODEL, input="hi", conversation=conversation).output_text
        expected = [("user", "hello"), ("user", "hi"), ("assistant", text)]
        wait_until(lambda: len(items_of(client, conversation)) == 3, what="what was said")
        for pid in (gateway.pid, *gateway.worker_pids()):
            os.kill(pid, signal.SIGKILL)
        gateway.stop()
        with GatewayProcess(config, tmp_path) as again:
            for _ in range(4):  # whichever worker takes the connection
                assert items_of(client_of(again), conversation, order="asc") == expected


@pytest.fixture
def replicas(tmp_path):
    """Two gateways that share nothing but a Redis server: the server, the gateways, and the simulator behind them."""
    if not RedisServer.available():
        pytest.skip("there is no redis-server on this machine")
    keys = {name: new_key() for name in ("alice", "bob")}
    listed = [{"name": name, "hash": hash_key(key), "tenant": name} for name, key in keys.items()]
    with contextlib.ExitStack() as stack:
        redis, simulator = stack.enter_context(RedisServer()), stack.enter_context(SimulatorProcess())
        gateways = []
        for folder in (tmp_path / "here", tmp_path / "there"):
            folder.mkdir()
            shared = {"durability": "shared", "redis": redis.url}
            config = configured(simulator, folder, keys=listed, generations=shared)
            gateways.append(stack.enter_context(GatewayProcess(config, folder)))
        stack.callback(redis.thaw)  # it is what gateways that end talk to
        yield redis, gateways, simulator, keys


def test_a_conversation_goes_on_at_another_machine(replicas, client_of):
    _, gateways, _, keys = replicas
    here, there = (client_of(gateway, keys["alice"]) for gateway in gateways)
    conversation = here.conversations.create(items=[{"role": "user", "content": "hello"}]).id
    expected = [("user", "hello")]
    for number, client in enumerate((there, here, there)):
        asked = {"model": MODEL, "input": f"question {number}", "conversation": conversation}
        text = client.responses.create(**asked).output_text
        expected += [("user", f"question {number}"), ("assistant", text)]
        wait_added(here, conversation, len(expected))
    assert items_of(here, conversation, order="asc") == items_of(there, conversation, order="asc") == expected
    for gateway in gateways:
        bob = client_of(gateway, keys["bob"])
        for attempt in (
            lambda bob=bob: bob.conversations.retrieve(conversation),
            lambda bob=bob: bob.responses.create(model=MODEL, input="hi", conversation=conversation),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()
    there.conversations.delete(conversation)
    with pytest.raises(openai.NotFoundError):
        here.conversations.retrieve(conversation)


def test_an_answer_comes_into_its_conversation_though_redis_was_away_when_it_ended(replicas, client_of):
    redis, gateways, simulator, keys = replicas
    here, there = (client_of(gateway, keys["alice"]) for gateway in gateways)
    conversation = here.conversations.create().id
    asked = {"model": "sim:tokens=4,ttft=1500", "input": "slow", "conversation": conversation}
    with here.responses.stream(**asked) as events:
        wait_until(simulator.requests, what="the question")
        redis.freeze()
        text = events.get_final_response().output_text
    for attempt in (
        lambda: there.conversations.retrieve(conversation),
        lambda: there.conversations.items.create(conversation, items=[{"role": "user", "content": "x"}]),
        lambda: there.responses.create(model=MODEL, input="more", conversation=conversation),
    ):
        with pytest.raises(openai.InternalServerError) as refused:
            attempt()
        assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
        assert "retry-after" in refused.value.response.headers
    redis.thaw()

    def found():
        with contextlib.suppress(openai.InternalServerError):
            return items_of(there, conversation, order="asc")

    slow = [("user", "slow"), ("assistant", text)]
    wait_until(lambda: (told := found()) and all(item in told for item in slow), what="what was said")
    assert gateways[0].stop() == 0  # which waits for what it has still to say
    told = [item for item in found() if item != ("user", "x")]  # that one was not answered, and may have come
    assert told == slow
    with pytest.raises(openai.NotFoundError):
        there.conversations.retrieve("conv_" + "0" * 32)
