"""Whose an answer is, in the process that makes it and in another one that has it from their store."""

import asyncio

import pytest
from durably import stored, two
from serving import COMPLETION, DONE, STREAM_END, STREAM_HEAD, call, delta, on_uvloop, plain, rows, until

from penstock.config.keys import hash_key
from penstock.config.model import KeyConfig
from penstock.messages import Outcome
from penstock.testing import Step

pytestmark = pytest.mark.usefixtures("nothing_comes_back")
KEYS = [KeyConfig(name=name, hash=hash_key(name), tenant=name) for name in "ab"]
OWNER, FOREIGN = ["authorization: Bearer a"], ["authorization: Bearer b"]
ASKED = {"model": "m", "input": "hello"}
BACKGROUND = {**ASKED, "background": True}
BEGUN = [Step.REQUEST, STREAM_HEAD + delta("a"), delta("b")]
REST = delta("c", "stop") + DONE + STREAM_END
UNKNOWN = "0" * 32
# Everything that an answer's id is good for.
WAYS = [
    ("GET", "/v1/responses/resp_{}"),
    ("GET", "/v1/responses/resp_{}?stream=true"),
    ("GET", "/v1/responses/resp_{}/input_items"),
    ("POST", "/v1/responses/resp_{}/cancel"),
    ("DELETE", "/v1/responses/resp_{}"),
    ("GET", "/v1/generations/gen_{}"),
    ("GET", "/v1/generations/gen_{}/events"),
    ("POST", "/v1/generations/gen_{}/cancel"),
    ("POST", "/v1/generations/gen_{}/cancel?unread=true"),
]


async def tried(ports, name, headers):
    """What each of :data:`WAYS` comes to in each process, the name left out."""
    answers = await asyncio.gather(
        *(call(port, b"", path.format(name), method, headers) for port in ports for method, path in WAYS)
    )
    return [(one.status, one.body.replace(name.encode(), b"")) for one in answers]


def name_of(response):
    return response["id"].removeprefix("resp_")


def test_another_tenant_s_answer_that_runs_is_to_him_as_one_that_never_was(durable):
    async def main():
        go_on = asyncio.Event()
        script = [*BEGUN, go_on, REST]
        async with two([script], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            made = (await call(here, BACKGROUND, "/v1/responses", headers=OWNER)).json()
            path = f"/v1/responses/{made['id']}"
            await until(lambda: any(one.readable >= 2 for one in gateway.pipeline.registry))
            foreign = await tried((here, there), name_of(made), FOREIGN)
            unknown = await tried((here, there), UNKNOWN, FOREIGN)
            runs = [(await call(port, b"", path, "GET", OWNER)).json()["status"] for port in (here, there)]
            go_on.set()
            await stored(gateway)
            return foreign, unknown, runs, (await call(there, b"", path, "GET", OWNER)).json()

    foreign, unknown, runs, found = on_uvloop(main)
    assert {status for status, _ in foreign} == {404}
    assert foreign == unknown
    assert runs == ["in_progress"] * 2
    assert found["status"] == "completed"
    assert found["output"][0]["content"][0]["text"] == "abc"


def test_so_is_one_that_has_ended(durable):
    async def main():
        script = [Step.REQUEST, plain(COMPLETION)]
        async with two([script], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            made = (await call(here, ASKED, "/v1/responses", headers=OWNER)).json()
            await stored(gateway)
            foreign = await tried((here, there), name_of(made), FOREIGN)
            unknown = await tried((here, there), UNKNOWN, FOREIGN)
            path = f"/v1/responses/{made['id']}"
            found = [
                (await call(port, b"", path + more, "GET", OWNER)).status
                for port in (here, there)
                for more in ("", "/input_items")
            ]
            return foreign, unknown, found

    foreign, unknown, found = on_uvloop(main)
    assert {status for status, _ in foreign} == {404}
    assert foreign == unknown
    assert found == [200] * 4


@pytest.mark.parametrize("apart", [False, True], ids=["in its process", "in another process"])
def test_its_own_tenant_cancels_a_response_that_runs_in_the_background(durable, apart):
    async def main():
        go_on, never = asyncio.Event(), asyncio.Event()
        script = [*BEGUN, go_on, delta("c"), never]
        async with two([script], durable, keys=KEYS) as ((gateway, here), (other, there), _):
            made = (await call(here, BACKGROUND, "/v1/responses", headers=OWNER)).json()
            path = f"/v1/responses/{made['id']}"
            await until(lambda: any(one.readable >= 2 for one in gateway.pipeline.registry))
            port = there if apart else here
            told = (await call(port, b"", f"{path}/cancel", "POST", OWNER)).json()["status"]
            await until(lambda: not other.pipeline.waiting)  # the store knows
            go_on.set()
            await until(lambda: not gateway.pipeline.productions)
            await stored(gateway)
            return told, [row.outcome for row in rows(gateway)]

    assert on_uvloop(main) == ("cancelled", [Outcome.CANCELLED])


def test_what_was_cancelled_is_said_to_be_cancelled_in_another_process(durable):
    async def main():
        async with two([[*BEGUN, asyncio.Event()]], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            made = (await call(here, BACKGROUND, "/v1/responses", headers=OWNER)).json()
            path = f"/v1/responses/{made['id']}"
            await until(lambda: any(one.readable >= 2 for one in gateway.pipeline.registry))
            await call(here, b"", f"{path}/cancel", "POST", OWNER)
            await stored(gateway)
            found = (await call(there, b"", path, "GET", OWNER)).json()
            return (
                found["status"],
                found["error"],
                (await call(here, b"", path, "GET", OWNER)).json()["status"],
            )

    assert on_uvloop(main) == ("cancelled", None, "cancelled")


def test_what_was_cancelled_in_another_process_is_kept_as_cancelled(durable):
    """As OpenAI does it; and the process that made it tells the same."""

    async def main():
        go_on, never = asyncio.Event(), asyncio.Event()
        script = [*BEGUN, go_on, delta("c"), never]
        async with two([script], durable, keys=KEYS) as ((gateway, here), (other, there), _):
            made = (await call(here, BACKGROUND, "/v1/responses", headers=OWNER)).json()
            path = f"/v1/responses/{made['id']}"
            await until(lambda: any(one.readable >= 2 for one in gateway.pipeline.registry))
            await call(there, b"", f"{path}/cancel", "POST", OWNER)
            await until(lambda: not other.pipeline.waiting)  # the store knows
            go_on.set()
            await until(lambda: not (gateway.pipeline.productions or gateway.pipeline.waiting))
            other.pipeline.registry.drop("gen_" + name_of(made))
            found = [(await call(port, b"", path, "GET", OWNER)).json() for port in (here, there)]
            foreign = await tried((here, there), name_of(made), FOREIGN)
            return [(one["status"], one["error"]) for one in found], {status for status, _ in foreign}

    assert on_uvloop(main) == ([("cancelled", None)] * 2, {404})


def test_a_response_that_another_process_has_deleted_answers_no_repeated_call(durable):
    async def main():
        answers = [Step.REQUEST, plain(COMPLETION)] * 2
        headers = [*OWNER, "idempotency-key: one"]
        async with two([answers], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            first = await call(here, ASKED, "/v1/responses", headers=headers)
            await stored(gateway)
            again = await call(here, ASKED, "/v1/responses", headers=headers)
            await call(there, b"", f"/v1/responses/{first.json()['id']}", "DELETE", OWNER)
            anew = await call(here, ASKED, "/v1/responses", headers=headers)
            statuses = [one.headers["penstock-status"] for one in (first, again, anew)]
            made = [row.outcome for row in rows(gateway)].count(Outcome.COMPLETED)
            return statuses, first.json()["id"] != anew.json()["id"], made

    statuses, other, made = on_uvloop(main)
    assert statuses == ["created", "replayed", "created"]
    assert other
    assert made == 2


def test_nobody_goes_on_from_another_tenant_s_response(durable):
    async def main():
        answer = [Step.REQUEST, plain(COMPLETION)]
        async with two([answer * 4], durable, keys=KEYS) as ((gateway, here), (_, there), upstream):
            made = (await call(here, ASKED, "/v1/responses", headers=OWNER)).json()
            await stored(gateway)
            found = []
            for name in (name_of(made), UNKNOWN):
                more = {**ASKED, "previous_response_id": f"resp_{name}"}
                for port in (here, there):
                    one = await call(port, more, "/v1/responses", headers=FOREIGN)
                    refusal = one.json()["error"]
                    found.append((one.status, refusal["code"], refusal["message"].replace(name, "")))
            return found, sum(one.count(b"POST ") for one in upstream.received)

    found, asked = on_uvloop(main)
    assert len(set(found)) == 1
    assert found[0][0] == 400
    assert asked == 1


def test_two_tenants_with_one_key_have_an_answer_each(durable):
    async def main():
        script = [Step.REQUEST, plain(COMPLETION)]
        async with two([script, script], durable, keys=KEYS) as ((gateway, here), (_, there), _):
            key = "idempotency-key: k"
            first = await call(here, ASKED, "/v1/responses", headers=[key, *OWNER])
            await stored(gateway)
            return [
                (first.status, first.headers["penstock-status"]),
                *[
                    (one.status, one.headers["penstock-status"])
                    for one in [
                        await call(there, ASKED, "/v1/responses", headers=[key, *whose])
                        for whose in (OWNER, FOREIGN)
                    ]
                ],
            ]

    assert on_uvloop(main) == [(200, "created"), (200, "replayed"), (200, "created")]
