"""The benchmark of the gateway still runs, and still sees what is wrong."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.gateway import load, report, systems  # noqa: E402
from benchmarks.gateway.load import Target  # noqa: E402
from benchmarks.gateway.measure import Bench, Plan  # noqa: E402
from benchmarks.gateway.processes import Tree  # noqa: E402
from benchmarks.gateway.results import Results, versus  # noqa: E402
from benchmarks.gateway.upstream import ANSWER  # noqa: E402

TINY = Plan(
    rounds=1,
    seconds=0.05,
    connections=2,
    large_size=20_000,
    burst_chunks=10,
    paced_streams=3,
    paced_chunks=4,
    paced_interval=5,
    same_rate=200.0,
    ttft_seconds=0.3,
    ttft_rate_limit=50,
    open_streams=5,
    patience=10.0,
    settle=0.05,
    hold=0.1,
)
MEASURES = (
    "cpu_us_per_request",
    "cpu_us_per_request_at_rate",
    "cpu_us_per_large_request",
    "cpu_us_per_chunk",
    "cpu_us_per_chunk_at_once",
    "cpu_us_per_paced_chunk",
    "rss_mib",
    "rss_tree_mib",
    "open_streams_mib",
    "added_ttft_ms_p50",
)


class Broken(systems.System):
    name = "broken"
    does = "nothing"

    def command(self):
        return [sys.executable, "-c", "raise SystemExit('cannot start')"]

    def version(self):
        return "1"


class Dying(systems.System):
    """Answers well until it is asked for many things at once."""

    name = "dying"
    does = "nothing"
    code = """
import asyncio, os, sys
from benchmarks.gateway import upstream

class Mortal(upstream.Upstream):
    def answer(self, connection, body):
        if self.calls == 5:
            os.write(2, b"tired")
            os._exit(1)  # without the last words of a loop that is torn down, which would come after these
        super().answer(connection, body)

upstream.Upstream = Mortal
asyncio.run(upstream.serve(int(sys.argv[1])))
"""

    def command(self):
        return [sys.executable, "-c", self.code, str(self.port)]

    def cwd(self):
        return ROOT

    def version(self):
        return "1"


@pytest.fixture(scope="module")
def run():
    """A whole run in small: what is here anyway, and one system that does not start."""
    kinds = [systems.Penstock, systems.PenstockDisk, systems.PenstockUvicorn, Broken, Dying]
    if shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        kinds.insert(0, systems.Nginx)
    before = os.sched_getaffinity(0)
    with Bench(kinds, TINY) as bench:
        trees = [system.tree for system in bench.systems.values()]
        bench.run()
    assert os.sched_getaffinity(0) == before
    assert not any(tree.alive for tree in trees)
    return bench.results


@pytest.mark.parametrize("measure", MEASURES)
def test_everything_is_measured_of_the_gateway(run, measure):
    for name in ("penstock", "penstock-disk", "penstock-asgi"):
        assert not run[name].failure
        assert not run[name].errors
        assert run[name].rounds[measure]
        if measure.startswith(("cpu", "rss")):
            assert run[name].median(measure) > 0


def test_a_system_that_does_not_start_is_listed_with_the_reason(run):
    assert "cannot start" in run["broken"].failure
    assert not run["broken"].rounds


def test_a_system_that_dies_is_told_and_costs_the_others_nothing(run):
    assert not run["dying"].failure
    assert any("died" in note and "tired" in note for note in run["dying"].notes)
    assert run["dying"].median("rss_mib") > 0
    assert run["dying"].median("cpu_us_per_chunk") is None


def test_the_quick_form_is_one_json_object_of_figures_by_system(run):
    told = json.loads(json.dumps(report.quick(run, report.machine())))
    for measure in ("cpu_us_per_request", "cpu_us_per_chunk", "rss_mib"):
        assert told[measure]["penstock"] > 0
    if "nginx" in run:
        assert told["ratios"]["penstock/nginx"]["cpu_us_per_request"] > 0
    assert "cannot start" in told["problems"]["broken"][0]


def test_the_page_gets_its_tables_and_keeps_its_text(run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    page = tmp_path / "benchmarks.md"
    page.write_text(f"Before.\n\n{report.BEGIN}old\n{report.END}\nAfter.\n")
    for _ in range(2):
        file = report.write(run, TINY, report.machine(), page)
        text = page.read_text()
        assert text.startswith("Before.\n")
        assert text.endswith("\nAfter.\n")
        assert "old" not in text
        assert "| **penstock** | " in text
        assert "| broken | not measured |" in text
    written = json.loads(file.read_text())
    assert written["machine"]["date"]
    assert written["load"]["paced_streams"] == 3
    assert written["systems"]["penstock"]["medians"]["cpu_us_per_request"] > 0


def test_the_real_page_has_its_marks():
    text = report.PAGE.read_text()
    assert text.count(report.BEGIN) == 1
    assert text.count(report.END) == 1


def test_the_rivals_are_those_that_the_page_names():
    text = report.PAGE.read_text()
    for kind in systems.ALL:
        assert kind.name in text


def test_ratios_need_both_figures():
    results = {name: Results(name) for name in ("a", "b")}
    results["a"].add("m", 6.0)
    assert versus(results, "a", "b", ["m"]) == {}
    results["b"].add("m", 2.0)
    assert versus(results, "a", "b", ["m"]) == {"m": 3.0}


class Transport:
    def __init__(self, caller):
        caller.connection_made(self)

    def write(self, data):
        pass

    def abort(self):
        pass


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'20\r\ndata: {"content":" penstock"}\n\n\r\n'
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "good"),
    [
        ([HEAD + EVENT * 3 + DONE], True),
        ([HEAD, EVENT, EVENT[:20], EVENT[20:], EVENT, DONE[:-2], DONE[-2:]], True),
        ([HEAD + EVENT * 2 + DONE], False),  # a chunk is missing
        ([HEAD + EVENT * 3 + b"0\r\n\r\n"], False),  # no [DONE]
        ([HEAD.replace(b"200", b"500") + EVENT * 3 + DONE], False),
        ([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"], False),
    ],
)
def test_streams_that_are_not_whole_count_as_wrong(pieces, good):
    # One that says 200 and breaks off ends with the connection.
    tally = load.Tally()
    caller = load.Caller(load.Requests(Target(1), "burst:3:1", 500), tally, lambda caller: None)
    Transport(caller)
    caller.send()
    for piece in pieces:
        caller.data_received(piece)
    caller.connection_lost(None)
    assert (tally.good, tally.failed) == (int(good), int(not good))


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER), True),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER) - 1, ANSWER[:-1]),
            False,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER[:-1]), False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + b" " * 600, False),
        (b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER), False),
    ],
)
def test_answers_that_are_not_the_right_ones_count_as_wrong(answer, good):
    tally = load.Tally()
    caller = load.Caller(load.Requests(Target(1), "plain", 500), tally, lambda caller: None)
    Transport(caller)
    caller.send()
    for byte in range(0, len(answer), 50):
        caller.data_received(answer[byte : byte + 50])
    caller.connection_lost(None)
    assert (tally.good, tally.failed) == (int(good), int(not good))


def test_requests_have_the_size_that_they_should_and_are_never_the_same():
    for size in (1_000, 100_000):
        requests = load.Requests(Target(80), "plain", size)
        one, other = requests.make(), requests.make()
        assert one != other
        head, _, body = one.partition(b"\r\n\r\n")
        assert len(body) == size
        assert b"Content-Length: %d" % size in head
        assert b"mock:plain;" in json.loads(body)["messages"][0]["content"].encode()


def test_the_cpu_of_a_tree_counts_threads_and_children_also_dead_ones(tmp_path):
    burn = "import time\nend = time.thread_time() + 0.5\nwhile time.thread_time() < end: pass"
    waiting = "\nprint('burnt', flush=True)\n__import__('signal').pause()"
    code = f"""
import signal, subprocess, sys, threading
subprocess.run([sys.executable, "-c", {burn!r}])
thread = threading.Thread(target=exec, args=({burn!r}, {{}}))
thread.start()
thread.join()
subprocess.Popen([sys.executable, "-c", {burn + waiting!r}])
signal.pause()
"""
    tree = Tree([sys.executable, "-c", code], core=min(os.sched_getaffinity(0)), log=tmp_path / "log")
    try:
        while tree.alive and "burnt" not in tree.tail():
            time.sleep(0.01)
        assert len(tree.pids()) == 2
        assert 1.5 <= tree.cpu() < 3.0
        assert len(tree.rss()) == 2
        assert min(tree.rss().values()) > 1
    finally:
        tree.end()
    assert not tree.alive
