from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from penstock.admin.channel import channel_to_supervisor, channel_to_worker, pack_config, unpack_config
from penstock.admin.channel_messages import Ask, Configure, Drain, Failed, Ready, Reload, Told
from penstock.config.model import Config, KeyConfig, TLSConfig, UpstreamConfig
from penstock.config.secret import Secret

CONFIG = Config(
    control_key=Secret("sesame"),
    tls=TLSConfig(certificate="c", key="k", key_password=Secret("password")),
    upstreams={"one": UpstreamConfig(kind="openai", api_key=Secret("sk-1"), headers={"x": "y"})},
    keys=[KeyConfig(name="n", hash="sha256:" + "0" * 64)],
)


class End:
    """One end of a channel, and what came out of it."""

    def __init__(self, make):
        self.messages = []
        self.news = asyncio.Event()
        self.channel = make(self._on_message, self.news.set)

    def _on_message(self, message):
        self.messages.append(message)
        self.news.set()

    async def wait(self, count):
        async with asyncio.timeout(60):
            while len(self.messages) < count:
                self.news.clear()
                await self.news.wait()
        return self.messages


def test_the_configuration_arrives_with_its_secrets():
    assert unpack_config(pack_config(CONFIG)) == CONFIG
    assert unpack_config(pack_config(CONFIG)).control_key.reveal() == "sesame"


def test_both_ends_understand_each_other():
    async def main():
        one, other = socket.socketpair()
        supervisor, worker = End(channel_to_worker), End(channel_to_supervisor)
        await supervisor.channel.open(one)
        await worker.channel.open(other)
        raw = pack_config(CONFIG)
        said = [Configure(raw, 1), Reload(raw, 2), Ask(3), Drain(1.5)]
        for message in said:
            supervisor.channel.send(message)
        heard = await worker.wait(4)
        assert [type(message) for message in heard] == [type(message) for message in said]
        assert unpack_config(heard[0].config) == CONFIG
        assert heard[2:] == said[2:]
        worker.channel.send(Ready())
        worker.channel.send(Told(3, msgspec.Raw(b'{"a":"\\n"}')))
        worker.channel.send(Failed("no", ("because",)))
        ready, told, failed = await supervisor.wait(3)
        assert ready == Ready()
        assert bytes(told.state) == b'{"a":"\\n"}'
        assert failed.text == "no; because"
        worker.channel.close()
        await asyncio.wait_for(supervisor.channel.lost.wait(), 60)
        supervisor.channel.send(Drain(1.0))  # nobody hears it, nothing happens

    asyncio.run(main())


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
def test_lines_may_come_in_any_pieces(size):
    heard = []
    channel = channel_to_supervisor(heard.append, lambda: None)
    data = b'{"say":"ask","id":1}\n{"say":"drain","seconds":2.5}\n{"say":"ask",'
    for start in range(0, len(data), size):
        channel.data_received(data[start : start + size])
    assert heard == [Ask(1), Drain(2.5)]
    channel.data_received(b'"id":3}\n')
    assert heard[2:] == [Ask(3)]


@pytest.mark.parametrize("line", [b"{", b'{"say":"ready"}', b'{"say":"ask"}', b"\xff"])
def test_a_peer_that_talks_nonsense_is_cut_off(line):
    async def main():
        one, other = socket.socketpair()
        worker = End(channel_to_supervisor)
        await worker.channel.open(one)
        other.sendall(line + b"\n" + b'{"say":"ask","id":1}\n')
        await asyncio.wait_for(worker.channel.lost.wait(), 60)
        assert worker.messages == []
        other.close()

    asyncio.run(main())
