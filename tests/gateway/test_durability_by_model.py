"""``durability`` of a model: of one gateway's answers, some outlive it and some do not."""

import contextlib

import pytest
from serving import PROMPT, config, on_uvloop, serving, until
from serving import call as call_at

from needing import needs_redis
from penstock.config.model import CandidateConfig, GenerationsConfig, ModelConfig
from penstock.config.secret import Secret
from penstock.lab.serve import Service, bind
from penstock.lab.simulator import Simulator
from penstock.testing import RedisServer

pytestmark = needs_redis
KINDS = ["memory", "disk", "shared", None]  # None: as for all
OUTLIVES = {"disk", "shared"}


@pytest.mark.parametrize("usual", ["memory", "disk", "shared"])
def test_each_models_answers_are_where_it_says_and_all_others_where_all_are(usual, tmp_path):
    async def main():
        service = Service(Simulator())
        sock = bind("127.0.0.1", 0)
        await service.start(sock)
        with RedisServer() as redis:
            settings = config(
                f"http://127.0.0.1:{sock.getsockname()[1]}",
                kind="sim",
                generations=GenerationsConfig(
                    durability=usual, path=str(tmp_path / "g.sqlite"), redis=Secret(redis.url)
                ),
                models={
                    str(kind): ModelConfig(
                        candidates=[CandidateConfig(upstream="up0", model="sim")], durability=kind
                    )
                    for kind in KINDS
                },
            )
            async with contextlib.AsyncExitStack() as stack:
                (here, port), (_, there) = [
                    await stack.enter_async_context(serving(settings)) for _ in range(2)
                ]
                found = {}
                for kind in KINDS:
                    body = {**PROMPT, "model": str(kind), "stream": True, "max_tokens": 4}
                    answer = await call_at(port, body)
                    generation = answer.headers["penstock-generation"]
                    for keeper in here._durable.keepers.values():
                        await until(lambda keeper=keeper: not keeper.journal.statistics().open)
                    state = await call_at(port, b"", f"/v1/generations/{generation}", "GET")
                    again = await call_at(there, b"", f"/v1/generations/{generation}/events", "GET")
                    assert again.status == 404 or again.body == answer.body
                    found[kind] = state.json()["durable"], again.status == 200
        await service.close()
        return found

    found = on_uvloop(main)
    outlives = {kind: (kind or usual) in OUTLIVES for kind in KINDS}
    assert found == {kind: (answer, answer) for kind, answer in outlives.items()}
