"""The gateway behind ASGI servers that others maintain, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time

import httpx2
import msgspec
import pytest
import uvicorn
import yaml
from fastapi import FastAPI

from penstock.admin.guest import GuestServer
from penstock.asgi import create_app
from penstock.config.load import parse
from penstock.errors import ConfigError
from penstock.testing._ports import free_port
from penstock.testing.simulator import SimulatorProcess
from waiting import until

PATIENCE = 60.0
QUESTION = {"model": "sim", "messages": [{"role": "user", "content": "What is a penstock?"}]}


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as running:
        yield running


@pytest.fixture
def contents(simulator):
    """A configuration as a dict."""
    return {
        "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
        "models": {"*": {"candidates": [{"upstream": "sim"}]}},
        "log": {"requests": False},
    }


class Served:
    """An ASGI app on uvicorn, in the running loop; ``client`` is for its address."""

    def __init__(self, app, lifespan="on"):
        self._server = GuestServer(
            uvicorn.Config(app, lifespan=lifespan, log_config=None, ws="none", timeout_graceful_shutdown=2)
        )

    async def __aenter__(self):
        sock = socket.create_server(("127.0.0.1", 0))
        self._task = await self._server.start(sock)
        self.address = sock.getsockname()
        host, port = self.address
        self.client = httpx2.AsyncClient(base_url=f"http://{host}:{port}", timeout=PATIENCE)
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()
        self._server.should_exit = True
        await self._task


def in_flight(app):
    return app._running.gateway.state()["generations"]


class TestOnUvicorn:
    def test_plain_calls_and_streams_are_answered(self, contents):
        async def main():
            async with Served(create_app(contents)) as served:
                plain = await served.client.post("/v1/chat/completions", json=QUESTION)
                assert plain.status_code == 200
                said = plain.json()["choices"][0]["message"]["content"]
                pieces, events = [], 0
                body = {**QUESTION, "stream": True}
                async with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            events += 1
                            choices = json.loads(line[6:])["choices"]
                            pieces += [choice["delta"].get("content") or "" for choice in choices]
                assert "".join(pieces) == said
                assert events > 10
                assert line == ""

        asyncio.run(main())

    def test_sound_and_forms_go_through_and_broken_sound_is_cut(self, contents):
        async def main():
            async with Served(create_app(contents)) as served:
                speech = {"model": "sim", "voice": "v", "input": "four words of speech"}
                spoken = await served.client.post("/v1/audio/speech", json=speech)
                assert spoken.headers["content-type"] == "audio/wav"
                form = {"files": {"file": ("said.wav", spoken.content)}, "data": {"model": "sim"}}
                heard = await served.client.post("/v1/audio/transcriptions", **form)
                assert heard.json()["usage"]["output_tokens"] == 12
                with pytest.raises(httpx2.RemoteProtocolError):
                    await served.client.post("/v1/audio/speech", json={**speech, "model": "sim:cut-after=1"})

        asyncio.run(main())

    def test_a_large_file_goes_through_in_pieces(self, contents, tmp_path):
        contents["files"] = {"directory": str(tmp_path / "kept")}
        contents["listener"] = {"max_body_bytes": 100_000}
        content = os.urandom(5_000_000)

        async def main():
            async with Served(create_app(contents)) as served:
                form = {"files": {"file": ("f.bin", content)}, "data": {"purpose": "user_data"}}
                file = (await served.client.post("/v1/files", **form)).json()
                assert file["bytes"] == len(content)
                back = await served.client.get(f"/v1/files/{file['id']}/content")
                assert back.content == content
                gone = await served.client.delete(f"/v1/files/{file['id']}")
                assert gone.json()["deleted"]

        asyncio.run(main())

    def test_a_stream_comes_as_it_is_made(self, contents):
        async def main():
            async with Served(create_app(contents)) as served:
                body = {**QUESTION, "model": "sim:stall-after=3", "stream": True}
                async with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    lines = answer.aiter_lines()
                    seen = 0
                    while seen < 3:  # the upstream says no more than these, and does not end
                        seen += '"content"' in await anext(lines)

        asyncio.run(main())

    def test_a_client_that_leaves_cancels_the_upstream(self, contents, simulator):
        async def main():
            app = create_app(contents)
            async with Served(app) as served:
                body = json.dumps({**QUESTION, "model": "sim:stall-after=3", "stream": True}).encode()
                reader, writer = await asyncio.open_connection(*served.address)
                head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n"
                writer.write(head % len(body) + body)
                await reader.readuntil(b"data: ")
                assert len(in_flight(app)) == 1
                before = simulator.bill()["cancelled"]
                writer.close()
                await until(lambda: not in_flight(app))
                await until(lambda: simulator.bill()["cancelled"] == before + 1)

        asyncio.run(main())

    def test_errors_have_the_dialects_form(self, contents):
        async def main():
            async with Served(create_app(contents)) as served:
                answer = await served.client.post("/v1/chat/completions", content=b"{")
                assert answer.status_code == 400
                assert answer.json()["error"]["type"] == "invalid_request_error"
                answer = await served.client.post("/v1/messages", content=b"{")
                assert answer.json()["type"] == "error"

        asyncio.run(main())

    def test_the_gateway_begins_and_ends_with_the_server(self, contents):
        async def main():
            app = create_app(contents)
            async with Served(app):
                assert app._running is not None
            assert app._running is None

        asyncio.run(main())

    def test_a_start_that_fails_is_told_to_the_server(self, contents):
        config = msgspec.structs.replace(create_app(contents).config, prices="/no/such/file")

        async def main():
            server = GuestServer(uvicorn.Config(create_app(config), lifespan="on", log_config=None))
            with pytest.raises(SystemExit), socket.create_server(("127.0.0.1", 0)) as sock:
                await server.serve(sockets=[sock])

        asyncio.run(main())


class TestMounted:
    def test_it_answers_inside_a_fastapi_app_and_starts_with_the_first_request(self, contents):
        async def main():
            outer = FastAPI()
            inner = create_app(contents)
            outer.mount("/llm", inner)

            @outer.get("/own")
            async def own():
                return {"own": True}

            async with Served(outer) as served:
                assert inner._running is None
                assert (await served.client.get("/own")).json() == {"own": True}
                answer = await served.client.post("/llm/v1/chat/completions", json=QUESTION)
                assert answer.status_code == 200
                assert answer.json()["choices"][0]["message"]["content"]
                assert (await served.client.get("/llm/v1/models")).status_code == 200
                assert (await served.client.get("/v1/models")).status_code == 404
                await inner.close()

        asyncio.run(main())

    def test_many_first_requests_share_one_start(self, contents):
        async def main():
            app = create_app(contents)
            async with Served(app, lifespan="off") as served:
                answers = await asyncio.gather(*(served.client.get("/v1/models") for _ in range(10)))
                assert {answer.status_code for answer in answers} == {200}
                first = app._running
                await served.client.get("/v1/models")
                assert app._running is first
                await app.close()
                assert (await served.client.get("/v1/models")).status_code == 200  # and begins anew
                await app.close()

        asyncio.run(main())

    def test_it_serves_in_one_event_loop_after_another(self, contents):
        app = create_app(contents)

        async def main():
            async with Served(app, lifespan="off") as served:
                assert (await served.client.post("/v1/chat/completions", json=QUESTION)).status_code == 200
            await app.close()

        asyncio.run(main())
        asyncio.run(main())


class TestConfiguration:
    def test_it_is_a_config_a_path_or_a_dict(self, contents, tmp_path):
        path = tmp_path / "some.yaml"
        path.write_text(yaml.safe_dump(contents))
        config = parse(yaml.safe_dump(contents))
        for given in (config, path, str(path), contents):
            assert create_app(given).config == config

    def test_without_one_the_file_in_the_working_directory_counts(self, contents, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "penstock.yaml").write_text(yaml.safe_dump(contents))
        assert create_app().config == parse(yaml.safe_dump(contents))

    def test_without_any_the_environment_counts(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("penstock.config.discover.LOCAL_SERVERS", ())
        monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": "sk-none"})
        assert create_app().config.upstreams["openai"].kind == "openai"

    def test_mistakes_are_all_named(self):
        with pytest.raises(ConfigError) as raised:
            create_app({"listne": "x", "workers": "many"})
        assert len(raised.value.mistakes) == 2

    def test_a_simulator_without_an_address_is_started_and_ended(self):
        async def main():
            app = create_app(
                {
                    "upstreams": {"sim": {"kind": "sim"}},
                    "models": {"*": {"candidates": [{"upstream": "sim"}]}},
                    "log": {"requests": False},
                }
            )
            async with Served(app) as served:
                assert (await served.client.post("/v1/chat/completions", json=QUESTION)).status_code == 200
                pid = app._running.simulator._process.pid
                os.kill(pid, 0)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

        asyncio.run(main())


class TestProtocol:
    def test_a_websocket_is_closed(self, contents):
        async def main():
            sent = []

            async def receive():
                return {"type": "websocket.connect"}

            async def send(message):
                sent.append(message)

            await create_app(contents)({"type": "websocket", "path": "/"}, receive, send)
            assert [message["type"] for message in sent] == ["websocket.close"]

        asyncio.run(main())

    def test_an_unknown_scope_is_refused(self, contents):
        with pytest.raises(ValueError, match="telepathy"):
            asyncio.run(create_app(contents)({"type": "telepathy"}, None, None))


def command_for(server, port):
    return {
        "uvicorn": ["uvicorn", "--factory", "penstock.asgi:create_app", "--port", str(port)],
        "hypercorn": ["hypercorn", "penstock.asgi:create_app()", "--bind", f"127.0.0.1:{port}"],
        "granian": [
            "granian",
            "--interface",
            "asgi",
            "--factory",
            "penstock.asgi:create_app",
            f"--port={port}",
        ],
    }[server]


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
def test_every_server_runs_it_from_its_own_command_line(server, contents, tmp_path):
    pytest.importorskip(server)
    (tmp_path / "penstock.yaml").write_text(yaml.safe_dump(contents))
    port = free_port()
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", *command_for(server, port)], cwd=tmp_path, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = httpx2.post(
                    f"http://127.0.0.1:{port}/v1/chat/completions", json=QUESTION, timeout=PATIENCE
                )
                break
            except httpx2.TransportError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert answer.status_code == 200, answer.text
        body = {**QUESTION, "stream": True}
        with httpx2.stream(
            "POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=PATIENCE
        ) as streamed:
            assert streamed.read().endswith(b"data: [DONE]\n\n")
    finally:
        process.terminate()
        process.wait(PATIENCE)
        log.close()
    assert "Traceback" not in (tmp_path / "log").read_text()
