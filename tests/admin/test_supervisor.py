"""How the processes behave: every test runs a real supervisor with real workers."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import (
    HERE,
    PATIENCE,
    Running,
    Stream,
    alive,
    ask,
    children,
    refused,
    wait_gone,
    wait_until,
    write_config,
)

from penstock.admin import supervisor as module
from penstock.config.model import Config


def ended_supervisor(config):
    """One that ends by itself: its status, and what it said."""
    command = [sys.executable, str(HERE / "standin_supervisor.py"), str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path / "penstock.yaml")


def greeting(running):
    status, body = running.get("/hello")
    assert status == 200
    return body.split()[0].decode()


class TestStart:
    def test_the_first_request_is_answered_as_soon_as_it_says_that_it_is_ready(self, config):
        with Running.standin(config) as running:
            assert running.get("/hello")[0] == 200

    def test_every_worker_answers(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            pids = set()
            wait_until(lambda: pids.add(int(running.get("/hello")[1].split()[1])) or len(pids) == 2)
            assert pids == set(running.workers)

    def test_a_second_supervisor_on_the_port_says_so_in_one_line(self, tmp_path, config):
        with Running.standin(config) as running:
            listen = f"127.0.0.1:{running.port}"
            second = write_config(tmp_path / "second.yaml", listen=listen, log={"level": "info"})
            result = ended_supervisor(second)
            assert result.returncode == 1
            assert f"listen: 127.0.0.1:{running.port} is in use" in result.stderr
            assert len(result.stderr.splitlines()) == 1
            assert running.get("/hello")[0] == 200

    def test_a_second_supervisor_on_the_control_port_says_so(self, tmp_path, config):
        with Running.standin(config) as running:
            second = write_config(tmp_path / "second.yaml", control=f"127.0.0.1:{running.control}")
            result = ended_supervisor(second)
            assert result.returncode == 1
            assert f"control: 127.0.0.1:{running.control} is in use" in result.stderr

    @pytest.mark.parametrize(
        ("model", "words"),
        [("unbuildable", "models: unbuildable"), ("crash", "a worker ended while it was starting (SIGABRT)")],
    )
    def test_a_worker_that_cannot_start_ends_everything_with_its_reason(self, tmp_path, model, words):
        config = write_config(tmp_path / "c.yaml", model=model, workers=2)
        result = ended_supervisor(config)
        assert result.returncode == 1
        assert words in result.stderr
        assert "Traceback" not in result.stderr


class TestDeath:
    def test_a_killed_worker_is_replaced_and_no_connection_is_refused(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            stop, faults, answered = threading.Event(), [], []

            def load():
                while not stop.is_set():
                    try:
                        answered.append(running.get("/hello")[0])
                    except (ConnectionRefusedError, TimeoutError) as error:
                        faults.append(error)
                    except ConnectionError:
                        pass  # was being answered by the worker that was killed

            threads = [threading.Thread(target=load) for _ in range(4)]
            for thread in threads:
                thread.start()
            before = set(running.workers)
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            wait_gone(victim)
            wait_until(lambda: len(set(running.workers) - {victim}) == 2)
            running.wait_all_ready()
            count = len(answered)
            wait_until(lambda: len(answered) > count + 20)
            stop.set()
            for thread in threads:
                thread.join()
            assert not faults
            assert set(answered) == {200}
            assert "SIGKILL" in running.wait_log("died")
            running.wait_metric("penstock_worker_restarts_total", 1)
            running.process.send_signal(signal.SIGTERM)
            assert running.wait_exit() == 0
            assert not any(alive(pid) for pid in running.seen)

    def test_who_connects_while_the_only_worker_is_dead_is_answered_by_its_replacement(self, config):
        with Running.standin(config) as running:
            (victim,) = running.workers
            # Stopped, so that this connection waits in the accept queue when the worker is killed.
            os.kill(victim, signal.SIGSTOP)
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as early:
                early.sendall(b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n")
                os.kill(victim, signal.SIGKILL)
                answer = early.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert str(victim).encode() not in answer

    def test_deaths_in_a_row_are_answered_ever_more_slowly(self, config):
        with Running.standin(config) as running:
            for delay in (0, 1):
                (victim,) = wait_until(lambda: running.workers)
                running.wait_all_ready()
                os.kill(victim, signal.SIGKILL)
                assert f"another starts in {delay} s" in running.wait_log("died", count=delay + 1)

    def test_the_others_answer_in_the_place_of_one_that_is_not_there(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            survivor, victim = running.workers
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: set(running.workers) - {survivor, victim})
            running.wait_all_ready()
            (victim,) = set(running.workers) - {survivor}
            os.kill(victim, signal.SIGKILL)
            running.wait_log("another starts in 1 s")
            answers = []
            while not set(running.workers) - {survivor}:  # nobody has been started yet
                answers.append(int(running.get("/hello")[1].split()[1]))
                assert running.ask_control("/readyz")[0] == 200  # nobody need be sent elsewhere
            running.wait_all_ready()
            (fresh,) = set(running.workers) - {survivor}
            if answers[-1:] == [fresh]:  # a slow machine may take long for this one
                answers.pop()
            assert set(answers) <= {survivor}
            wait_until(lambda: int(running.get("/hello")[1].split()[1]) == fresh)

    def test_a_worker_that_is_told_to_end_by_itself_finishes_and_is_replaced(self, config, tmp_path):
        with Running.standin(config) as running:
            (worker,) = running.workers
            stream = Stream(running.port, tmp_path)
            os.kill(worker, signal.SIGTERM)
            wait_until(lambda: "draining" in str(running.ask_control("/readyz")))
            assert stream.through(b"still here")
            assert stream.end() == b""
            wait_gone(worker)
            wait_until(lambda: running.workers not in ([], [worker]))
            assert running.get("/hello")[0] == 200

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_worker_that_hangs_is_killed_and_replaced(self, tmp_path, workers):
        # Long enough that no other one hangs because the machine is busy.
        config = write_config(tmp_path / "c.yaml", workers=workers, worker_timeout=4.0)
        with Running.standin(config) as running:
            others = running.workers
            victim = others.pop()
            os.kill(victim, signal.SIGSTOP)
            running.wait_log(f"(pid {victim}) has given no sign of life for 4 s and is killed")
            wait_gone(victim)
            wait_until(lambda: victim not in running.workers and set(others) < set(running.workers))
            running.wait_all_ready()
            assert running.get("/hello")[0] == 200
            assert set(others) < set(running.workers)
            running.wait_metric("penstock_worker_restarts_total", 1)

    def test_nothing_is_left_when_the_supervisor_is_killed(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            workers = running.workers
            stream = Stream(running.port, tmp_path)
            running.process.kill()
            running.process.wait()
            wait_until(lambda: refused(running.port))
            assert stream.through(b"still here")  # even now what is in flight is finished
            assert stream.end() == b""
            for pid in workers:
                wait_gone(pid)


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_port_closes_first_and_a_stream_in_flight_ends_by_itself(self, config, tmp_path, number):
        with Running.standin(config) as running:
            stream = Stream(running.port, tmp_path)
            running.process.send_signal(number)
            wait_until(lambda: refused(running.port))
            status, body = running.ask_control("/readyz")
            assert status == 503
            assert body["reasons"][0] == "the gateway is draining"
            assert running.ask_control("/healthz")[0] == 200
            assert stream.through(b"still here")
            assert stream.end() == b""
            assert running.wait_exit() == 0

    def test_the_port_stays_open_for_the_delay_while_the_gateway_says_that_it_is_not_ready(self, tmp_path):
        config = write_config(tmp_path / "c.yaml", drain_delay=PATIENCE, drain_timeout=PATIENCE)
        with Running.standin(config) as running:
            stream = Stream(running.port, tmp_path)
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "worker 0 is draining" in str(running.ask_control("/readyz")))
            assert running.ask_control("/readyz")[0] == 503
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
                    caller.sendall(b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n")
                    answer = b"".join(iter(lambda caller=caller: caller.recv(1000), b""))
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" in answer
            assert stream.through(b"still here")
            running.process.send_signal(signal.SIGINT)  # the second signal: no patience any more
            assert stream.cut()
            assert running.wait_exit() == 130

    def test_the_port_closes_after_the_delay_and_what_is_in_flight_has_its_whole_time_then(self, tmp_path):
        config = write_config(tmp_path / "c.yaml", drain_delay=1.0, drain_timeout=PATIENCE)
        with Running.standin(config) as running:
            stream = Stream(running.port, tmp_path)
            running.process.send_signal(signal.SIGTERM)
            running.wait_log("not ready any more; the port closes in 1 s")
            wait_until(lambda: refused(running.port))
            assert stream.through(b"still here")
            assert stream.end() == b""
            assert running.wait_exit() == 0

    def test_a_worker_that_dies_in_the_delay_is_replaced_and_who_dies_again_is_stood_in_for(self, tmp_path):
        config = write_config(tmp_path / "c.yaml", workers=2, drain_delay=PATIENCE, drain_timeout=PATIENCE)

        def answered():
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as caller:
                caller.sendall(b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n")
                answer = b"".join(iter(lambda: caller.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.1 200 ")
            return answer.split()[-1]

        with Running.standin(config) as running:
            first, other = running.workers
            running.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "worker 1 is draining" in str(running.ask_control("/readyz")))
            os.kill(first, signal.SIGKILL)
            running.wait_log(f"(pid {first}) died: SIGKILL; another starts in 0 s")
            wait_until(lambda: len(running.workers) == 2)
            (second,) = set(running.workers) - {other}
            wait_until(lambda: answered() == b"%d" % second)  # it takes its share
            os.kill(second, signal.SIGKILL)
            running.wait_log(f"(pid {second}) died again: SIGKILL; the others end without it")
            assert {answered() for _ in range(20)} == {b"%d" % other}
            running.process.send_signal(signal.SIGINT)
            assert running.wait_exit() == 130

    def test_what_waits_in_the_accept_queue_is_answered(self, config):
        with Running.standin(config) as running:
            (worker,) = running.workers
            os.kill(worker, signal.SIGSTOP)
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as early:
                early.sendall(b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n")
                running.process.send_signal(signal.SIGTERM)
                running.wait_log("draining")
                os.kill(worker, signal.SIGCONT)
                answer = early.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert running.wait_exit() == 0

    def test_a_stream_that_does_not_end_is_cut_at_the_deadline(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", drain_timeout=0.3)) as running:
            stream = Stream(running.port, tmp_path)
            running.process.send_signal(signal.SIGTERM)
            assert stream.cut()
            assert running.wait_exit() == 0
            running.wait_log("1 calls were cut at the deadline")

    def test_a_second_interrupt_ends_at_once(self, config, tmp_path):
        with Running.standin(config) as running:
            stream = Stream(running.port, tmp_path)
            running.process.send_signal(signal.SIGINT)
            wait_until(lambda: refused(running.port))
            running.process.send_signal(signal.SIGINT)
            assert stream.cut()
            assert running.wait_exit() == 130

    def test_a_worker_that_hangs_is_killed_after_a_second_interrupt(self, config):
        with Running.standin(config) as running:
            (worker,) = running.workers
            os.kill(worker, signal.SIGSTOP)
            running.process.send_signal(signal.SIGINT)
            running.wait_log("draining")
            running.process.send_signal(signal.SIGINT)
            assert running.wait_exit() == 130
            running.wait_log("killed")


class TestReload:
    def test_connections_and_streams_go_on_while_the_configuration_is_swapped(self, config, tmp_path):
        with Running.standin(config) as running:
            keep_alive = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
            keep_alive.request("GET", "/hello")
            assert keep_alive.getresponse().read().startswith(b"first ")
            same = keep_alive.sock
            stream = Stream(running.port, tmp_path)
            write_config(config, model="second")
            running.process.send_signal(signal.SIGHUP)
            running.wait_log("configuration 2 is in use")
            keep_alive.request("GET", "/hello")
            assert keep_alive.getresponse().read().startswith(b"second ")
            assert keep_alive.sock is same
            keep_alive.close()
            assert stream.through(b"still here")
            assert stream.end() == b""
            running.wait_metric('penstock_config_reloads_total{result="done"}', 1)

    def test_a_file_that_is_replaced_is_noticed(self, config):
        with Running.standin(config) as running:
            write_config(config, model="second")  # writes beside it and renames
            running.wait_log("configuration 2 is in use")
            assert greeting(running) == "second"

    def test_a_file_that_is_written_in_place_is_noticed(self, config):
        with Running.standin(config) as running:
            config.write_text(config.read_text().replace("first", "third"))
            running.wait_log("configuration 2 is in use")
            assert greeting(running) == "third"

    def test_a_symlink_that_is_swapped_as_kubernetes_does_is_noticed(self, tmp_path):
        for version, model in (("v1", "first"), ("v2", "second")):
            (tmp_path / version).mkdir()
            write_config(tmp_path / version / "penstock.yaml", model=model)
        (tmp_path / "..data").symlink_to("v1")
        (tmp_path / "penstock.yaml").symlink_to("..data/penstock.yaml")
        with Running.standin(tmp_path / "penstock.yaml") as running:
            (tmp_path / "..fresh").symlink_to("v2")
            (tmp_path / "..fresh").replace(tmp_path / "..data")
            running.wait_log("configuration 2 is in use")
            assert greeting(running) == "second"

    def test_a_keys_file_that_vanishes_is_told_and_what_changes_meanwhile_is_taken_when_it_is_back(
        self, tmp_path
    ):
        keys = tmp_path / "keys.jsonl"
        keys.touch()
        config = write_config(tmp_path / "penstock.yaml", keys_file=str(keys))
        with Running.standin(config) as running:
            keys.rename(tmp_path / "elsewhere")
            running.wait_log(f"the old configuration stays: {keys}: is not there")
            running.wait_log(f"{keys} cannot be read")
            assert running.metric("penstock_config_files_missing") == 1
            write_config(config, model="second", keys_file=str(keys))
            running.wait_log("config reload failed", count=2)
            assert greeting(running) == "first"
            (tmp_path / "elsewhere").rename(keys)
            running.wait_log("configuration 2 is in use")
            assert greeting(running) == "second"
            assert running.metric("penstock_config_files_missing") == 0

    def test_every_mistake_of_a_bad_file_is_logged_and_the_old_one_stays(self, config):
        with Running.standin(config) as running:
            config.write_text("listne: 1\nworkers: many\n")
            running.process.send_signal(signal.SIGHUP)
            running.wait_log("config reload failed", count=2)
            assert "listne" in running.log
            assert "workers" in running.log
            assert greeting(running) == "first"
            assert running.metric('penstock_config_reloads_total{result="failed"}') >= 1
            status, body = running.ask_control("/v1/reload", "POST")
            assert status == 422
            assert len(body["mistakes"]) == 2

    def test_a_configuration_that_a_worker_refuses_is_in_use_nowhere(self, tmp_path):
        config = write_config(tmp_path / "c.yaml", workers=2)
        with Running.standin(config) as running:
            write_config(config, model="unbuildable")
            running.wait_log("config reload failed, the old configuration stays: models: unbuildable")
            assert greeting(running) == "first"
            os.kill(running.workers[0], signal.SIGKILL)
            wait_until(lambda: running.metric("penstock_worker_restarts_total") == 1)
            running.wait_all_ready()
            for _ in range(8):
                assert greeting(running) == "first"

    def test_a_worker_that_took_too_long_ends_up_with_the_configuration_that_stays(self, tmp_path):
        config = write_config(tmp_path / "c.yaml", workers=2)
        with Running.standin(config, "own", "0.2") as running:
            running.wait_metric("penstock_processes", 3)
            victim = running.workers[1]
            os.kill(victim, signal.SIGSTOP)
            write_config(config, model="second")
            running.wait_log("does not answer")
            os.kill(victim, signal.SIGCONT)
            # It tells its figures after it has done what it was told before.
            running.wait_metric("penstock_processes", 3)
            greetings = {running.get("/hello")[1] for _ in range(64)}
            assert greetings == {f"first {pid}".encode() for pid in running.workers}

    def test_a_replacement_starts_with_the_configuration_of_the_day(self, config):
        with Running.standin(config) as running:
            write_config(config, model="second")
            # The file is watched too, and may have been found changed before.
            assert running.ask_control("/v1/reload", "POST")[1]["version"] >= 2
            (worker,) = running.workers
            os.kill(worker, signal.SIGKILL)
            wait_gone(worker)
            assert greeting(running) == "second"

    def test_what_cannot_change_is_named_and_the_rest_is_taken(self, config):
        with Running.standin(config) as running:
            write_config(config, model="second", workers=2)
            status, body = running.ask_control("/v1/reload", "POST")
            assert (status, body["needs_restart"], body["mistakes"]) == (200, ["workers"], [])
            running.wait_log("workers has changed, which needs a restart")
            assert greeting(running) == "second"
            assert len(running.workers) == 1


class TestControl:
    def test_what_is_in_flight_is_shown_over_all_workers(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            streams = [Stream(running.port, tmp_path) for _ in range(6)]
            pids = {stream.greeting.split()[1] for stream in streams}
            body = running.wait_told("/v1/generations")
            assert len(body["generations"]) == 6
            assert len({generation["worker"] for generation in body["generations"]}) == len(pids)
            for stream in streams:
                stream.end()
            assert running.wait_told("/v1/generations")["generations"] == []

    def test_a_worker_that_does_not_answer_is_left_out_within_a_second(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", workers=2)) as running:
            victim = running.workers[0]
            running.wait_metric("penstock_processes", 3)
            os.kill(victim, signal.SIGSTOP)
            running.wait_metric("penstock_processes", 2)
            wait_until(lambda: len(running.ask_control("/v1/generations")[1]["silent"]) == 1)
            os.kill(victim, signal.SIGCONT)
            running.wait_metric("penstock_processes", 3)
            assert running.metric("penstock_worker_silent_total") >= 2

    def test_counters_never_go_back_when_a_worker_dies(self, config):
        with Running.standin(config) as running:
            for _ in range(5):
                running.get("/hello")
            running.wait_metric("penstock_connections_total", 5)
            (victim,) = running.workers
            os.kill(victim, signal.SIGKILL)
            wait_gone(victim)
            running.get("/hello")
            running.wait_metric("penstock_connections_total", 6)

    def test_the_key_protects_what_tells_something(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", control_key="sesame")) as running:
            for path in ("/v1/config", "/v1/generations", "/v1/workers"):
                assert running.ask_control(path)[0] == 401
                assert running.ask_control(path, authorization="Bearer wrong")[0] == 401
                assert running.ask_control(path, authorization="Bearer sesame")[0] == 200
            assert running.ask_control("/v1/reload", "POST")[0] == 401
            for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
                assert running.ask_control(path)[0] == 200

    def test_secrets_are_not_shown(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", control_key="sesame")) as running:
            _, body = running.ask_control("/v1/config", authorization="Bearer sesame")
            assert "sesame" not in str(body)
            assert body["config"]["control_key"] == "…"
            assert body["version"] == 1
            assert "sesame" not in running.log
            command_lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in running.workers]
            environments = [Path(f"/proc/{pid}/environ").read_text() for pid in running.workers]
            assert "sesame" not in "".join(command_lines + environments)

    def test_an_open_control_port_without_a_key_is_warned_of(self, tmp_path):
        with Running.standin(write_config(tmp_path / "c.yaml", control="0.0.0.0:0")) as running:
            running.wait_log("open to other machines and has no control_key")

    def test_workers_tell_how_they_are(self, config):
        with Running.standin(config) as running:
            (worker,) = wait_until(
                lambda: "process" in (told := running.ask_control("/v1/workers")[1])[0] and told
            )
            assert worker["state"] == "ready"
            assert worker["pid"] in running.workers
            assert worker["process"]["resident_bytes"] > 1_000_000
            assert worker["listener"]["open"] == 0

    def test_a_worker_never_carries_the_control_api(self, config):
        with Running.standin(config) as running:
            (worker,) = running.workers
            maps = Path(f"/proc/{worker}/maps").read_text()
            assert "uvloop" in maps  # the look is a good one
            assert "pydantic" not in maps


def test_children_and_ask_see_what_they_should(config):
    with Running.standin(config) as running:
        assert children(running.process.pid) == running.workers
        assert ask(running.port, "GET", "/nothing")[0] == 404


def test_who_takes_the_control_port_for_the_gateway_is_told_where_that_is(config):
    with Running.standin(config) as running:
        status, told = running.ask_control("/v1/chat/completions")
        assert status == 404
        assert told["error"]["message"] == told["detail"]
        assert f"calls go to 127.0.0.1:{running.port}" in told["detail"]


def test_a_start_is_put_off_only_as_long_as_another_worker_answers(monkeypatch):
    monkeypatch.setattr(module, "ALONE", 0.001)

    async def main():
        supervisor = module.Supervisor(Config())
        slots = supervisor.slots = [module.Slot(0, None), module.Slot(1, None)]
        await supervisor._back_off(3600.0)  # nobody is there
        slots[1].process = SimpleNamespace(state="ready")
        waiting = asyncio.create_task(supervisor._back_off(3600.0))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        slots[1].process.state = "gone"
        await waiting

    asyncio.run(main())
