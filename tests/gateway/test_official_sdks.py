"""The manual says of every method of the official SDKs what becomes of it, and it is so.

A method of which nothing is said fails here.  Where the SDK is newer than the one that was walked, that is expected, and
its methods are named: walk it, say what becomes of them, and set its version here.
"""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import anthropic
import openai
import pytest
from continuing import simulated
from sdk_methods import methods_of
from serving import call, on_uvloop

from penstock.config.model import FilesConfig
from penstock.gateway.elsewhere import ANTHROPICS_FILES, ELSEWHERE
from penstock.messages import Endpoint

PAGE = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## The official SDKs\n")[2].partition("\n## ")[0]
TABLES = [
    [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    for table in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE)
]
QUOTED = re.compile(r"`(?:client\.)?([^`]*)`")
SDKS = {"openai": TABLES[0][2:], "anthropic": TABLES[1][2:]}
METHODS = {sdk: methods_of(sdk) for sdk in SDKS}
WALKED = {"openai": (3, 54), "anthropic": (2, 12)}
KINDS = ("openai", "anthropic", "sim")
VERSION = "anthropic-version: 2023-06-01"

SAID = [{"role": "user", "content": "hi"}]
BODIES = {
    Endpoint.CHAT: {"messages": SAID},
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.EMBEDDINGS: {"input": "hi"},
    Endpoint.RESPONSES: {"input": "hi"},
    Endpoint.INPUT_TOKENS: {"input": "hi"},
    Endpoint.COMPACT: {"input": "hi"},
    Endpoint.MESSAGES: {"messages": SAID, "max_tokens": 9},
    Endpoint.COUNT_TOKENS: {"messages": SAID},
    Endpoint.MODERATIONS: {"input": "hi"},
    Endpoint.IMAGES_GENERATIONS: {"prompt": "a cat"},
    Endpoint.SPEECH: {"input": "hi", "voice": "alloy"},
}


def row_of(sdk, name):
    """What is said of a method; None: nothing."""
    found = [
        row for row in SDKS[sdk] if any(fnmatch.fnmatchcase(name, told) for told in QUOTED.findall(row[0]))
    ]
    assert len(found) <= 1, name
    return found[0] if found else None


def elsewhere(sdk, path):
    if sdk == "anthropic" and re.match("/v1/files(/|$)", path):
        return ANTHROPICS_FILES
    return next((why for each, why in ELSEWHERE.items() if re.match(f"{each}(/|$)", path)), None)


def settle(sdk, wrong):
    """Nothing may be wrong with an SDK that was walked."""
    version = {"openai": openai, "anthropic": anthropic}[sdk].__version__
    if wrong and tuple(map(int, version.split(".")[:2])) > WALKED[sdk]:
        pytest.xfail(f"{sdk} {version} is newer than what was walked: {wrong}")
    assert wrong == []


def requests(sdk):
    return [method for method in METHODS[sdk] if method.path]


@pytest.mark.parametrize("sdk", SDKS)
def test_something_is_said_of_every_method_and_of_no_others(sdk):
    told = {name for row in SDKS[sdk] for name in QUOTED.findall(row[0])}
    found = [name for method in METHODS[sdk] if row_of(sdk, name := method.name) is not None]
    assert len(requests(sdk)) > 200
    settle(sdk, [name for name in told if not fnmatch.filter(found, name)])
    untold = [
        method
        for method in requests(sdk)
        if row_of(sdk, method.name) is None
        and elsewhere(sdk, method.path) is None
        and method.name != "models.delete"
    ]
    settle(sdk, untold)


@pytest.mark.parametrize("sdk", SDKS)
def test_what_makes_no_request_by_itself_belongs_to_something_that_is_told(sdk):
    rooms = {method.name.split(".")[0] for method in requests(sdk) if elsewhere(sdk, method.path)}
    untold = [
        method.name
        for method in METHODS[sdk]
        if not method.path and row_of(sdk, method.name) is None and method.name.split(".")[0] not in rooms
    ]
    settle(sdk, [name for name in untold if name != "responses.connect"])


def test_what_is_elsewhere_is_said_as_the_gateway_says_it():
    told = {path: row[1] for row in TABLES[2][2:] for path in QUOTED.findall(row[0]) if path.startswith("/")}
    assert told == {**ELSEWHERE, "/v1/files": ANTHROPICS_FILES}
    asked = [method.path for sdk in SDKS for method in requests(sdk)]
    assert [path for path in ELSEWHERE if not any(each.startswith(path) for each in asked)] == []


def test_every_method_is_answered_as_it_is_said(tmp_path):
    async def main():
        wrong = []
        async with simulated("tokens=4", files=FilesConfig(directory=str(tmp_path))) as (_, port, _):
            for sdk in SDKS:
                headers = ["content-type: application/json", *([VERSION] if sdk == "anthropic" else [])]
                for method in requests(sdk):
                    path = method.path.replace("{}", "x")
                    answer = await call(port, b"{}", path, method.verb, headers)
                    message = json.loads(answer.body).get("error", {}).get("message", "")
                    here = row_of(sdk, method.name) is not None
                    away = elsewhere(sdk, method.path)
                    if here:
                        right = "there is no /" not in message and answer.status in {200, 400, 404, 415}
                    elif away is not None:
                        listed = method.path == Endpoint.CHAT.path
                        right = answer.status == (405 if listed else 404) and message.endswith(away)
                    else:
                        right = answer.status == 405 or method.name != "models.delete"
                    if not right:
                        wrong.append((method, answer.status, message))
        return wrong

    assert on_uvloop(main) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_upstream_is_asked_as_it_is_said(kind):
    async def main():
        async with simulated("tokens=4", kinds=[kind]) as (_, port, (simulator,)):
            found = {}
            for endpoint, body in BODIES.items():
                before = len(simulator._seen)
                answer = await call(port, {"model": "m", **body}, endpoint.path)
                asked = [path for path, *_ in list(simulator._seen)[before:]]
                found[endpoint] = (answer.status, asked, "penstock-estimated" in answer.headers)
            return found

    found = on_uvloop(main)
    for endpoint, (status, asked, estimated) in found.items():
        sdk = endpoint.dialect.value
        row = next(
            row_of(sdk, method.name)
            for method in METHODS[sdk]
            if (method.verb, method.path) == ("POST", endpoint.path) and row_of(sdk, method.name)
        )
        told = row[1 + KINDS.index(kind)].partition(";")[0]
        became = (
            "refused"
            if status == 400 and not asked
            else "estimated"
            if estimated and not asked
            else "goes through"
            if asked == [endpoint.path]
            else "translated"
        )
        assert (endpoint, became) == (endpoint, told)
        assert status == (400 if told == "refused" else 200)


def test_who_asks_for_a_websocket_is_told_to_stream():
    async def main():
        async with simulated("tokens=4") as (_, port, _):
            headers = ["connection: upgrade", "upgrade: websocket"]
            return await call(port, b"", Endpoint.RESPONSES.path, "GET", headers)

    answer = on_uvloop(main)
    assert answer.status == 405
    assert "no WebSockets" in answer.json()["error"]["message"]


def test_what_is_refused_raises_the_sdks_own_errors(tmp_path):
    async def main():
        async with simulated("tokens=4", files=FilesConfig(directory=str(tmp_path))) as (_, port, _):
            url = f"http://127.0.0.1:{port}"
            async with (
                openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client,
                anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as claude,
            ):
                with pytest.raises(openai.NotFoundError, match="ask that one itself"):
                    await client.vector_stores.create()
                with pytest.raises(openai.NotFoundError, match="stored"):
                    await client.chat.completions.retrieve("chatcmpl-1")
                with pytest.raises(openai.APIStatusError, match="stored") as listed:
                    await client.chat.completions.list()
                with pytest.raises(anthropic.NotFoundError, match="with the message"):
                    await claude.beta.files.upload(file=("a.txt", b"a"))
                return listed.value.status_code

    assert on_uvloop(main) == 405
