"""Our engine and ``transformers serve`` over HTTP: the same model in fp32, one thread each, the same calls.

::

    make .venv-optimize/.with-tests
    .venv-optimize/bin/python -m benchmarks.engine.side_by_side MODEL_DIR [--backends openvino onnx transformers]
        [--rounds 3] [--at-once 1 32] [--calls 32] [--alone 8] [--longest 48] [--prompts 60] [--made DIR]

MODEL_DIR is one as transformers has it (``scripts/train_tiny_llama.py`` makes two).  It is converted into ``--made``,
where that has not been done, and each server started with it, on one core.  All are asked in turns, and each figure
is of one turn: tokens per CPU-second of the server and, beside it, how many times those of the rival in the same
round.  The rival is the better one of two: with continuous batching and, for one call at a time, without as well.
Texts are compared with the rival's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
from benchmarks.engine import workload
from benchmarks.engine.served import Served, ask_all

from penstock.engine._json_tokenizer import JSONTokenizer
from penstock.engine.model_dir import inspect

RIVAL = "transformers serve"
BATCHING = f"{RIVAL}, continuous batching"
PAGE = 32  # tokens of keys and values
STEP = "256"  # tokens that a step computes, as with ours; left to itself, the rival takes 20 GB for its masks
START = 300.0  # seconds that a server is given to load the model


def converted(model, runtime, made):
    """The model for one of our backends."""
    if runtime == "transformers":
        return model
    target = made / f"{model.name}-{runtime}"
    if not target.exists():
        command = [sys.executable, "-m", "penstock", "optimize", "export", str(model), str(target)]
        subprocess.run([*command, "--runtime", runtime], check=True, stdout=subprocess.DEVNULL)
    return target


@contextlib.contextmanager
def started(command, name, port, core, home):
    """A server, until it is not needed any more."""
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
    process = subprocess.Popen(
        command,
        env=os.environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.sched_setaffinity(process.pid, {core})  # and with it all threads that it will start
    try:
        end = time.monotonic() + START
        while True:
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"it does not start: {' '.join(command)}")
            time.sleep(0.2)
        yield Served(f"http://127.0.0.1:{port}/v1", process.pid, name)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def rival(model, port, *more):
    program = str(Path(sys.executable).with_name("transformers"))
    return [program, "serve", str(model), "--device", "cpu", "--port", str(port), *more]


def ours(model, backend, port):
    command = [sys.executable, "-m", "penstock", "engine", "serve", str(model), "--backend", backend]
    command += ["--port", str(port), "--name", "m", "--exact", "--threads", "1", "--slots", "32"]
    return [*command, "--no-prefix-cache"]


def pages(options):
    """For the rival's keys and values: what all calls take, and as much again."""
    return str(2 * options.calls * -(-(options.prompts + options.longest + 2 * PAGE) // PAGE))


def measure(servers, options, texts, limits):
    """Rates by how many are asked at once, and by server; and the texts of the last round."""
    found, said = {}, {}
    for served in servers.values():
        ask_all(served, texts[:2], [8, 8], 2)  # what is made at the first use is made
    for _ in range(options.rounds):
        for at_once in options.at_once:
            count = options.alone if at_once == 1 else options.calls
            for name, served in servers.items():
                if name == RIVAL and at_once > 1:
                    continue  # one after the other, on as many threads: slower than one at a time
                told = ask_all(served, texts[:count], limits[:count], at_once)
                found.setdefault((at_once, name), []).append(told.rate)
                said[at_once, name] = told.texts
    return found, said


def alike(text, other):
    """Whether they are the same; of letters that never became whole the rival's streams tell nothing."""
    return text.replace("\N{REPLACEMENT CHARACTER}", "") == other.replace("\N{REPLACEMENT CHARACTER}", "")


def show(found, said):
    for at_once in dict.fromkeys(at_once for at_once, _ in found):
        rounds = zip(
            *(found[at_once, name] for name in (RIVAL, BATCHING) if (at_once, name) in found), strict=True
        )
        best = [max(rates) for rates in rounds]
        print(f"\n{at_once} at once: tokens per CPU-second of the server (least to greatest)")
        for (here, name), rates in found.items():
            if here != at_once:
                continue
            times = [rate / other for rate, other in zip(rates, best, strict=True)]
            same = sum(map(alike, said[at_once, name], said[at_once, BATCHING]))
            print(
                f"  {name:40} {statistics.median(rates):7.0f} ({min(rates):.0f} to {max(rates):.0f})"
                f"  {statistics.median(times):5.1f} times ({min(times):.1f} to {max(times):.1f})"
                f"  texts equal {same} of {len(said[at_once, name])}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(
        prog="benchmarks.engine.side_by_side", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--backends", nargs="+", default=["openvino", "onnx", "transformers"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--calls", type=int, default=32)
    parser.add_argument("--alone", type=int, default=8, help="calls of a round with one at a time")
    parser.add_argument("--longest", type=int, default=48, help="tokens of the longest answer")
    parser.add_argument("--prompts", type=int, default=60, help="tokens of the longest prompt")
    parser.add_argument("--made", type=Path, help="where converted models are kept")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="of the servers")
    options = parser.parse_args()
    model = options.model.resolve()
    tokenizer = JSONTokenizer(model, inspect(model, "safetensors").config["vocab_size"])
    cut = workload.prompts(tokenizer, options.calls, longest=options.prompts)
    texts = [tokenizer.decode(prompt) for prompt in cut]
    limits = [each.max_tokens for each in workload.samplings(options.calls, longest=options.longest)]
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (home / "hub").mkdir()
        made = options.made or home
        commands = {}
        batching = ("--continuous-batching", "--cb-block-size", str(PAGE), "--cb-num-blocks", pages(options))
        batching += ("--cb-max-batch-tokens", STEP)
        commands[BATCHING] = lambda port: (rival(model, port, *batching), str(model))
        if 1 in options.at_once:
            commands[RIVAL] = lambda port: (rival(model, port), str(model))
        for backend in options.backends:
            own = converted(model, backend, made)
            commands[f"penstock engine serve, {backend}"] = lambda port, own=own, backend=backend: (
                ours(own, backend, port),
                "m",
            )
        servers = {}
        for name, of_port in commands.items():
            port = free_port()
            command, called = of_port(port)
            servers[name] = stack.enter_context(started(command, called, port, options.core, home))
        load = " ".join(f"{figure:.1f}" for figure in os.getloadavg())
        print(f"{model}, {os.cpu_count()} cores, load {load}, one thread each, fp32, {options.rounds} rounds")
        show(*measure(servers, options, texts, limits))
    if options.made is None:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    main()
