"""Dictionaries that callers refer to: one worker's, and those of several."""

import hashlib
import json
import logging
import os
import socket

from penstock.gateway.dictionaries import Dictionaries
from penstock.testing import GatewayProcess, SimulatorProcess
from penstock.wire import codings

WORKERS = 4
TURNS = 16


def test_dictionaries_are_bounded():
    kept = Dictionaries(100)
    names = [kept.keep("a", bytes([65 + number]) * 25) for number in range(5)]
    assert kept.get("a", names[0]) is None
    assert kept.get("a", names[1]) == b"B" * 25
    assert kept.get("b", names[1]) is None
    kept.keep("a", b"F" * 25)
    assert kept.get("a", names[1]) is not None
    assert kept.get("a", names[2]) is None
    assert kept.keep("a", b"x" * 26) is None
    assert kept.keep("a", b"") is None
    assert repr(kept) == "<Dictionaries 4, 100 of 100 bytes>"


def test_what_one_worker_was_sent_another_finds(tmp_path):
    one, other = (Dictionaries(1_000, tmp_path / "kept") for _ in range(2))
    name = one.keep("a", b"body")
    assert other.get("a", name) == b"body"
    assert other.get("b", name) is None
    assert other.get("a", hashlib.sha256(b"else").digest()) is None
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    (file,) = (tmp_path / "kept").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.unlink()
    assert other.get("a", name) == b"body"  # in its memory by now


def test_a_file_that_is_not_what_it_was_is_no_dictionary(tmp_path):
    name = Dictionaries(1_000, tmp_path).keep("a", b"body")
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"bod")
    assert Dictionaries(1_000, tmp_path).get("a", name) is None


def test_what_is_shared_is_bounded_and_the_oldest_go_first(tmp_path):
    workers = [Dictionaries(1_000, tmp_path) for _ in range(3)]
    for number in range(60):
        content = bytes([number]) * 100
        name = workers[number % 3].keep("a", content)
        for file in tmp_path.iterdir():  # clocks of file systems are coarse
            if file.read_bytes() == content:
                os.utime(file, (number, number))
        assert Dictionaries(1_000, tmp_path).get("a", name) == content
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1_000 + 3 * 1_000 // 8
    left = sorted(file.read_bytes()[0] for file in tmp_path.iterdir())
    assert left[-1] == 59


def test_a_directory_that_cannot_be_used_is_told_of_once_and_costs_nobody_a_call(tmp_path, caplog):
    (tmp_path / "kept").write_bytes(b"a file")
    kept = Dictionaries(1_000, tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        names = [kept.keep("a", content) for content in (b"1", b"2")]
        assert kept.get("a", names[0]) == b"1"
        assert kept.get("a", hashlib.sha256(b"3").digest()) is None
    assert len(caplog.records) == 1


def ask(url, body, *fields):
    """One request over a connection of its own."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            f"host: {host}",
            "content-type: application/json",
            "connection: close",
            "penstock-dictionary: keep",
            f"content-length: {len(body)}",
            *fields,
        ]
        sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    return int(answer.split()[1])


def test_a_client_finds_its_dictionary_whichever_worker_takes_its_connection(tmp_path):
    with SimulatorProcess() as simulator:
        config = {
            "workers": WORKERS,
            "upstreams": {"up": {"kind": "openai", "base_url": simulator.base_url, "api_key": "k"}},
            "models": {"m": {"candidates": [{"upstream": "up", "model": "m"}]}},
            "files": {"directory": str(tmp_path / "files")},
        }
        with GatewayProcess(config, tmp_path) as gateway:
            history = [{"role": "user", "content": "a long beginning " * 500}]
            earlier, found = None, []
            for turn in range(TURNS):
                history.append({"role": "user", "content": f"turn {turn}"})
                body = json.dumps({"model": "m", "max_tokens": 1, "messages": history}).encode()
                if earlier is not None:
                    encoded = codings.with_dictionary(body, earlier)
                    found.append(ask(gateway.url, encoded, "content-encoding: dcz"))
                if earlier is None or found[-1] != 200:
                    assert ask(gateway.url, body) == 200
                earlier = body
    assert found == [200] * (TURNS - 1)
