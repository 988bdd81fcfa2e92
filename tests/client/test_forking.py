"""A client that was used before its process forked, as under a server that loads the application first."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading

import httpx2
import pytest
from client_gateway import through

import penstock
from penstock.client import CacheOptions
from penstock.client._kept import Kept
from penstock.testing import expected_text

PARENT = """
import json, os, sys
import penstock
from penstock.client import CacheOptions

url, library, path = sys.argv[1:]
http = penstock.http_client(library=library, trust_env=False, gateways=[url], cache=CacheOptions(path=path))
held = [http._transport.calls.lock, http._calls.counters._lock, http._transport._kept._lock]

def ask(who):
    messages = [{"role": "user", "content": who}]
    body = {"model": "sim", "messages": messages, "max_tokens": 8, "temperature": 0}
    answer = http.post(url + "/v1/chat/completions", json=body).json()
    return answer["choices"][0]["message"]["content"]

first = ask("before")
told, tell = os.pipe()
for lock in held:  # as by threads of the parent's
    lock.acquire()
children = []
for number in range(2):
    child = os.fork()
    if not child:
        try:
            said = [ask(f"child {number}"), ask("before")]
            os.write(tell, (json.dumps([number, said]) + "\\n").encode())
        finally:
            os._exit(0)
    children.append(child)
for lock in held:
    lock.release()
mine = [ask("parent"), ask("before")]
for child in children:
    os.waitpid(child, 0)
os.close(tell)
with os.fdopen(told) as lines:
    theirs = dict(json.loads(line) for line in lines)
print(json.dumps([first, mine, theirs, http.statistics().cached]))
"""


def answer_to(who):
    body = {"model": "sim", "messages": [{"role": "user", "content": who}], "temperature": 0}
    return expected_text(body, "/v1/chat/completions", 8)


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
def test_children_have_connections_locks_and_files_of_their_own(gateway, tmp_path, library):
    with through(gateway) as link:
        done = subprocess.run(
            [sys.executable, "-c", PARENT, link.url, library, str(tmp_path / "kept.db")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert link.figures.connections == 3
    first, mine, theirs, cached = json.loads(done.stdout)
    before = answer_to("before")
    assert first == before
    assert mine == [answer_to("parent"), before]
    assert theirs == {f"{number}": [answer_to(f"child {number}"), before] for number in range(2)}
    assert cached == 1


def test_an_asynchronous_client_goes_on_in_another_process_too(gateway, monkeypatch):
    """The process is what it is told to be: a loop that runs cannot be forked."""

    async def main():
        async with penstock.async_http_client(trust_env=False, gateways=[link.url]) as http:
            parents = http._transport._unused
            for who in ("one", "two"):
                body = {"model": "sim", "messages": [{"role": "user", "content": who}], "max_tokens": 8}
                answer = await http.post(link.url + "/v1/chat/completions", json=body)
                assert answer.json()["choices"][0]["message"]["content"] == answer_to(who)
                monkeypatch.setattr("os.getpid", lambda: -1)
            await parents.aclose()

    with through(gateway) as link:
        asyncio.run(main())
        assert link.figures.connections == 2


def test_each_event_loop_has_connections_of_its_own(gateway):
    """As ``asyncio.run`` makes them, tests and notebooks, or threads that each have one at the same time."""

    async def ask(who, met=None):
        body = {"model": "sim", "messages": [{"role": "user", "content": who}], "max_tokens": 8}
        for _ in range(2):
            answer = await http.post(link.url + "/v1/chat/completions", json=body)
            assert answer.json()["choices"][0]["message"]["content"] == answer_to(who)
            if met is not None:
                await asyncio.to_thread(met.wait, 30)
        await http._transport.aclose()

    with through(gateway) as link:
        http = penstock.async_http_client(trust_env=False, gateways=[link.url])
        asyncio.run(ask("first"))
        asyncio.run(ask("second"))
        assert link.figures.connections == 2
        met = threading.Barrier(2)
        threads = [threading.Thread(target=asyncio.run, args=[ask(str(number), met)]) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert link.figures.connections == 4


def test_connections_of_a_loop_that_has_ended_are_let_go_of():
    answers = httpx2.MockTransport(lambda _: httpx2.Response(200))
    http = penstock.async_http_client(transport=answers)
    for _ in range(3):
        asyncio.run(http.get("http://anywhere/"))
        assert len(http._transport._inner) == 1


def test_who_borrows_what_is_kept_has_the_same_lock_in_a_child():
    kept = Kept(CacheOptions())
    borrowed = kept.borrowed()
    before = kept._lock
    kept.forked()
    borrowed.forked()
    assert kept._lock is borrowed._lock is not before
