"""A disk that hangs, is locked, or spoils its file while answers are being made: they go on, and nothing is called durable."""

import asyncio
import contextlib
import re
import sqlite3
import threading

import pytest
from durably import keeper_of, stored
from serving import (
    COMPLETION,
    DONE,
    PROMPT,
    STREAM_END,
    STREAM_HEAD,
    call,
    config,
    delta,
    on_uvloop,
    plain,
    serving,
    until,
)

from penstock.config.model import CandidateConfig, GenerationsConfig, ModelConfig
from penstock.generation.stores import sqlite as store_module
from penstock.testing import ScriptedUpstream, Step

STREAM = {**PROMPT, "stream": True}
KEY = ["idempotency-key: asked in between"]
UNKNOWN = "gen_" + "0" * 32


@contextlib.contextmanager
def hanging(path, monkeypatch):
    """Whoever wants to use the file waits, in whatever thread."""
    over, opened = threading.Event(), store_module._Side._opened

    def open_later(side):
        over.wait()
        return opened(side)

    monkeypatch.setattr(store_module._Side, "_opened", open_later)
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def locked(path, monkeypatch):
    """Somebody else holds it, and does not let go."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def spoiled(path, monkeypatch):
    """Every page of it, and of its write-ahead log, is noise."""
    for name in (path, path.with_name(path.name + "-wal")):
        with name.open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(0)
            file.write(b"\xa5" * size)
    yield


UNKNOWN_STATUS = {
    hanging: {503},  # nobody can say now that it was never there
    locked: {404},
    spoiled: {404, 503},
}


def state_of(port, generation):
    return call(port, b"", f"/v1/generations/{generation}", "GET")


def made_while(trouble, path, monkeypatch):
    """A stream of which the first half is stored as usual, and a plain call in between.

    :returns: both; what is told of the stream's durability before, meanwhile and afterwards; metrics meanwhile; what is
        said then of an unknown answer; and the stream as another gateway finds it that begins with this file
    """

    async def main():
        half, go_on = asyncio.Event(), asyncio.Event()
        rest = [delta("b"), delta("c"), go_on, delta("d", "stop") + DONE + STREAM_END]
        scripts = [[Step.REQUEST, STREAM_HEAD, delta("a"), half, *rest], [Step.REQUEST, plain(COMPLETION)]]
        async with ScriptedUpstream(scripts) as upstream:
            generations = GenerationsConfig(durability="disk", path=str(path))
            models = {"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])}
            settings = config(upstream.url, generations=generations, models=models)
            async with serving(settings, troubled=True) as (gateway, port):
                told = []

                async def look(generation):
                    told.append((await state_of(port, generation)).json()["durable"])

                reading = asyncio.create_task(call(port, STREAM))
                await until(lambda: any(one.readable == 1 for one in gateway.pipeline.registry))
                (generation,) = gateway.pipeline.registry
                await look(generation.id)
                with trouble(path, monkeypatch):
                    half.set()
                    await until(lambda: generation.readable == 3)
                    await look(generation.id)
                    between = await call(port, PROMPT, headers=KEY)
                    await look(between.headers["penstock-generation"])
                    unknown = await state_of(port, UNKNOWN)
                    if trouble is not spoiled:
                        journal = keeper_of(gateway).journal
                        await until(lambda: journal.statistics().trouble)
                    shown = gateway.metrics.collect()
                    go_on.set()
                    whole = await reading
                    if trouble is not spoiled:
                        await look(generation.id)
                await stored(gateway)
                await look(generation.id)
            async with serving(settings, troubled=True) as (_, port):
                found = await call(port, b"", f"/v1/generations/{generation.id}/events", "GET")
                again = await call(port, PROMPT, headers=KEY)
        return whole, between, told, shown, unknown, found, again

    return on_uvloop(main)


def told_of(shown, name):
    """A metric of the store on disk."""
    (family,) = [one for one in shown if one.name == name]
    (sample,) = [one for one in family.samples if one.labels == ("disk",)]
    return sample.value


@pytest.mark.parametrize("trouble", [hanging, locked, spoiled])
def test_an_answer_goes_on_and_is_durable_once_its_disk_works_again(trouble, tmp_path, monkeypatch, caplog):
    path = tmp_path / "generations.sqlite"
    whole, between, told, shown, unknown, found, again = made_while(trouble, path, monkeypatch)
    assert whole.body.count(b"\nid: ") == 4
    assert whole.body.rstrip().endswith(b"[DONE]")
    assert (between.status, between.headers["penstock-status"]) == (200, "created")
    assert found.body == whole.body, "it was stored, all of it"
    assert unknown.status in UNKNOWN_STATUS[trouble]
    if trouble is spoiled:  # which nobody can know before it is read once more; what ends until then is lost
        assert told[-1]
        assert "is corrupt: it was set aside" in caplog.text
        # Whoever comes to it first, to write or to read, says so.
        assert re.search("answers are not durable now|stored answers cannot be read now", caplog.text)
        assert list(tmp_path.glob("*.corrupt-*"))
    else:
        assert again.headers["penstock-status"] == "replayed"
        assert again.body == between.body
        assert told == [True, False, False, False, True]
        assert "readers do not wait for it" in caplog.text
        assert told_of(shown, "penstock_generations_behind") == 2
        assert told_of(shown, "penstock_generations_store_well") == 0
    assert "defect" not in caplog.text
