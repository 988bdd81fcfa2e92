"""The benchmark of the client on links that break still runs, over a relay and over packets of its own."""

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.client._calls import ClientCall
from penstock.client._sync_httpx2 import Transport

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks import client_cost  # noqa: E402
from benchmarks.network import __main__ as network  # noqa: E402
from benchmarks.network import broken_answers, sent_again, silence, survival, tunnel  # noqa: E402


def may_tunnel():
    """Root in a container may lack either of the two."""
    if not os.access("/dev/net/tun", os.W_OK) or os.geteuid():
        return False
    name = f"penstock-may-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        return False
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=True)
    return True


def test_systems_are_measured_over_a_relay(monkeypatch):
    monkeypatch.chdir(ROOT)
    options = ["--relay", "--runs", "1", "--calls", "1", "--rtt", "0.01", "--rate", "1e8", "--hazard", "0"]
    tables = network.main([*options, "--workloads", "tiny", "--systems", "sdk-zstd", "penstock"])
    for row in tables["tiny"]:
        assert (row["calls"], row["failed"], row["upstream_calls"]) == (1, 0, 1.0)
        assert row["mb"] > 0.14
        assert row["dollars"] > 0


def test_calls_that_survive_are_counted_with_what_was_computed_for_them(monkeypatch):
    monkeypatch.setattr(survival, "MOST", 200_000)
    found = survival.main(["--calls", "6", "--hazard", "0"])
    assert found["penstock"]["outcomes"] == {"right": 6}
    assert found["penstock"]["upstream_calls"] == found["the SDKs alone"]["upstream_calls"] == 6


@pytest.fixture(scope="module")
def served():
    with survival.serving() as (gateway, simulator):
        yield gateway, simulator


CALLS = 12


def test_calls_survive_where_every_connection_breaks(served):
    """All that the client does is wanted here: see below what becomes of them without one of it."""
    found = survival.every(*served, "penstock", CALLS, 1)
    assert found["outcomes"] == {"right": CALLS}
    assert found["upstream_calls"] == CALLS
    assert found["output_tokens"] == CALLS * survival.TOKENS
    assert found["broken"] >= CALLS


def no_resumption(call, kind, reason, last):
    return None


def one_attempt(call, kind, reason):
    return None


NUMBERS = itertools.count()


@pytest.mark.parametrize(
    ("method", "broken"),
    [("stream_broke", no_resumption), ("broke", one_attempt)],
    ids=["streams do not resume", "nothing is sent again"],
)
def test_what_the_client_has_lost_shows(served, monkeypatch, method, broken):
    monkeypatch.setattr(ClientCall, method, broken)
    found = survival.every(*served, "penstock", CALLS, 1)
    assert found["outcomes"].get("right", 0) < CALLS


def test_a_key_that_changes_shows_in_the_bill(served, monkeypatch):
    exchanged = Transport.exchanged

    def under_another_key(transport, call, request):
        request.headers["Idempotency-Key"] = f"another-{next(NUMBERS)}"
        return exchanged(transport, call, request)

    monkeypatch.setattr(Transport, "exchanged", under_another_key)
    found = survival.every(*served, "penstock", 4, 1)
    assert found["upstream_calls"] > 4


def test_answers_that_break_are_paid_for_once_with_the_client():
    found = broken_answers.main(["--calls", "6", "--shares", "0.3", "--seed", "4"])
    provider, gateway, ours = (found[0.3, system] for system in broken_answers.SYSTEMS)
    for figures in (provider, gateway, ours):
        assert figures["right"] == 6
        assert figures["broken"] > 0
    assert provider["upstream_calls"] > gateway["upstream_calls"] > ours["upstream_calls"] == 6
    assert ours["paid"] == 1.0


def test_what_is_sent_again_with_a_change_is_counted(monkeypatch):
    every = sent_again.cases

    def inserted(size):
        return {name: bodies for name, bodies in every(size).items() if "beginning" in name}

    monkeypatch.setattr(sent_again, "cases", inserted)
    ((first, then),) = sent_again.main(["--megabytes", "5"]).values()
    assert then < first / 4


def test_what_dies_without_a_word_is_noticed_and_paid_for_once_with_the_client(monkeypatch):
    up = "5 MB up, its answer"
    monkeypatch.setattr(silence, "CASES", {each: silence.CASES[each] for each in ("stream", up)})
    found = {row[:3]: row[3:] for row in silence.main(["--quick"])}
    for kind in silence.KINDS:
        for case in ("stream", up):
            seconds, noticed, lost, calls = found[case, kind, "penstock"]
            assert noticed <= seconds
            assert calls == 1
            assert lost <= found[case, kind, "sdk"][2]
        assert found["stream", kind, "sdk"][3] == 2
        assert found[up, kind, "penstock"][2] < 100_000


@pytest.mark.skipif(not may_tunnel(), reason="needs root, TUN devices and network namespaces")
def test_packets_take_their_time_and_the_namespaces_are_gone_afterwards(monkeypatch):
    monkeypatch.chdir(ROOT)
    name = f"penstock-t{os.getpid()}"
    with tunnel.namespaces(name, delay=0.05, rate=1e6) as prefixes:
        listen = "import socket; s = socket.create_server(('', 9)); print(flush=True); s.accept()"
        server = subprocess.Popen(
            [*prefixes["server"], sys.executable, "-c", listen], stdout=subprocess.PIPE, text=True
        )
        server.stdout.readline()
        connect = (
            "import socket, time; began = time.monotonic(); "
            f"socket.create_connection(('{tunnel.ADDRESSES['server']}', 9)); print(time.monotonic() - began)"
        )
        command = [*prefixes["client"], sys.executable, "-c", connect]
        took = float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        server.communicate(timeout=60)
    assert took >= 0.1
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name not in spaces


@pytest.mark.skipif(not may_tunnel(), reason="needs root, TUN devices and network namespaces")
def test_where_large_packets_vanish_a_sender_that_probes_finds_the_size(monkeypatch):
    """As docs/client.md says of MTU black holes; without probing nothing would arrive."""
    monkeypatch.chdir(ROOT)
    name = f"penstock-m{os.getpid()}"
    with tunnel.namespaces(name, delay=0.005, rate=1e7, largest=1_200) as prefixes:
        for prefix in prefixes.values():
            subprocess.run([*prefix, "sysctl", "-qw", "net.ipv4.tcp_mtu_probing=1"], check=True)
        listen = (
            "import socket; s = socket.create_server(('', 9)); print(flush=True); c, _ = s.accept(); n = 0\n"
            "while piece := c.recv(65536): n += len(piece)\n"
            "print(n)"
        )
        server = subprocess.Popen(
            [*prefixes["server"], sys.executable, "-c", listen], stdout=subprocess.PIPE, text=True
        )
        try:
            server.stdout.readline()
            send = f"import socket; socket.create_connection(('{tunnel.ADDRESSES['server']}', 9)).sendall(bytes(100_000))"
            subprocess.run([*prefixes["client"], sys.executable, "-c", send], check=True, timeout=60)
            told, _ = server.communicate(timeout=60)
        finally:
            server.kill()
            server.wait()
    assert told == "100000\n"


def test_as_many_rounds_are_made_as_fit():
    def seeds(seconds, **told):
        clock = itertools.count(0, seconds)
        made = network.rounds(
            argparse.Namespace(**{"runs": None, "minutes": None, **told}), lambda: next(clock)
        )
        return list(itertools.islice(made, 50))

    assert seeds(60) == [1, 2, 3]
    assert seeds(60, runs=2, minutes=15.0) == [1, 2]
    assert seeds(10_000, minutes=15.0) == [1]
    assert 2 <= len(seeds(60, minutes=15.0)) <= 5  # each look at the clock takes a minute


def test_what_the_articles_measure_is_there_with_the_bare_sdk(monkeypatch, tmp_path):
    def measured(server, prefix, system, workload, options, seed):
        asked.append((workload, system))
        figures = dict.fromkeys(("bytes", "upstream_calls", "input_tokens", "output_tokens", "broken"), 1)
        return {"seconds": [1.0], "failures": [], **figures}

    asked = []
    page = tmp_path / "page.md"
    page.write_text(f"before\n{network.BEGIN}old\n{network.END}after\n")
    monkeypatch.setattr(network, "measure", measured)
    monkeypatch.setattr(network, "sides", lambda options: contextlib.nullcontext((None, [])))
    monkeypatch.setattr(network, "rounds", lambda options: [1] if options.minutes == 15 else [])
    tables = network.main(["--articles", "--page", str(page)])
    workloads = {"5 MB up", "20 MB up", "5 MB of text up", "20 MB of text up", "5 MB down", "100 at once"}
    assert set(tables) == workloads
    assert {system for _, system in asked} == {"requests", "sdk", "sdk-zstd", "penstock"}
    assert all(each["dollars"] > 0 for rows in tables.values() for each in rows)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "18% of transfers of 10 MB break" in text
    assert all(f"**{each}**" in text for each in workloads)
    network.write(page, "new")
    assert page.read_text() == f"before\n{network.BEGIN}\nnew\n\n{network.END}after\n"


def test_the_page_of_the_articles_figures_has_its_marks(tmp_path):
    text = Path(network.ARTICLES["page"]).read_text()
    assert text.count(network.BEGIN) == text.count(network.END) == 1
    (tmp_path / "other.md").write_text("no marks\n")
    with pytest.raises(SystemExit, match="lost its marks"):
        network.write(tmp_path / "other.md", "new")


def test_the_mean_lies_in_its_interval():
    mean, low, high = network.interval([1.0, 2.0, 3.0, 10.0])
    assert low <= mean == 4.0 <= high


def test_the_cost_of_the_client_is_measured():
    (plain, alone), (stream, streamed) = client_cost.measure(2, 1)
    assert (plain, stream) == (False, True)
    assert all(value > 0 for value in (*alone.values(), *streamed.values()))


def test_instructions_of_a_call_are_those_that_more_calls_take(monkeypatch):
    def counted(*command):
        *_, system, kind, calls, _ = command
        client_cost.call_as_told(*command[-5:])
        return 1_000 + int(calls) * (20 if kind == "streamed" else 10) + (system == "client") * int(calls)

    monkeypatch.setattr(client_cost, "instructions", counted)
    assert list(client_cost.count(client_cost.CALLERS, 1, 2)) == [
        (caller, kind, alone, alone + 1)
        for caller in client_cost.CALLERS
        for kind, alone in (("plain", 10), ("streamed", 20))
    ]


def test_what_was_set_out_for_is_judged():
    def row(system, mean, dollars):
        return {"system": system, "mean": mean, "dollars": dollars}

    rows = [row("requests", 10.0, 0.3), row("sdk-zstd", 2.0, 0.1), row("penstock", 2.4, 0.1)]
    begin = "| a | -76%, met | 2.0 | 95% | -67%, met | +20%"
    assert f"{begin}, **not met** |" in network.judged({"a": rows}, {"a": 2.0}, clean=True)
    assert f"{begin} |" in network.judged({"a": rows}, {"a": 2.0}, clean=False)
    nothing_to_save = network.judged({"a": rows}, {"a": 11.0}, clean=False)
    assert "| a | -76%, met | 11.0 |  |" in nothing_to_save


def test_at_best_every_byte_crosses_once():
    link = argparse.Namespace(rtt=0.1, rate=1e6)
    rows = [{"mb": 5.0}, {"mb": 4.0}]
    assert network.at_best("5 MB down", rows, link) == pytest.approx(0.1 + 4.0)
    assert network.at_best("5 MB up", rows, link) == pytest.approx(0.1 + 3.76, abs=0.05)
    each = 0.0754  # MB of a body of 100 KB
    assert network.at_best("100 at once", rows, link) == pytest.approx(0.1 + each * 50.5, rel=0.02)
