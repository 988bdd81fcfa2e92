"""The page about the simulator has every option of a script, and each does what it says it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request

import pytest
from doc_pages import PATIENCE, Page, run

from penstock.lab import scenario
from penstock.lab.answer import THINKING_TOKENS
from penstock.lab.scenario import Script
from penstock.lab.text import SPELT
from penstock.lab.transcript import BYTES_PER_TOKEN, IMAGE_TOKENS
from penstock.testing import SimulatorProcess

PAGE = Page("docs/simulator.md")
OPTIONS = [
    option
    for row in re.findall(r"^\| (`.*?) \|", PAGE.section("How it is told to behave"), re.MULTILINE)
    for option in re.findall("`([^`]+)`", row)
]
NAMES = {option.partition("=")[0] for option in OPTIONS}


@pytest.fixture(scope="module")
def simulator():
    with SimulatorProcess() as running:
        yield running


def test_every_option_is_there_and_no_other():
    told = scenario.__doc__.partition("::\n")[2].partition("Failures in mid-stream")[0]
    listed = {line.split()[0].partition("=")[0] for line in told.splitlines() if line.startswith("      ")}
    assert listed == (NAMES - set(scenario._STATUSES)) | {"401"}  # which stands there for all statuses
    assert set(scenario._STATUSES) | scenario._PLAIN_FAILURES | set(scenario._AFTER) <= NAMES


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_understood(option):
    given = re.sub("=(MS|N|S)$", "=7", option).replace("=P", "=0.5")
    assert scenario.parse(given) != Script()


def test_every_model_is_named():
    (sentence,) = re.findall("^Models: .*$", PAGE.text, re.MULTILINE)
    assert set(scenario.MODELS) <= set(re.findall("`([a-z-]+)`", sentence))
    fast, slow = (scenario.of_model(name, Script()) for name in ("sim-fast", "sim-slow"))
    assert (fast.ttft, fast.tps, slow.ttft, slow.tps) == (0.05, 200, 0.5, 20)


def test_headers_are_named():
    for header, _ in scenario._HEADERS:
        assert f"`{header.decode()}`" in PAGE.text


def test_figures_are_those_of_the_source():
    assert (SPELT, BYTES_PER_TOKEN, IMAGE_TOKENS, THINKING_TOKENS) == (4, 4, 256, 16)
    assert Script().tokens == 64


def test_its_paths_answer(simulator):
    paths = re.findall(r"^\| `([A-Z]+) (/\S+)`", PAGE.text, re.MULTILINE)
    assert paths
    for method, path in paths:
        request = urllib.request.Request(simulator.url + path, method=method)
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
            json.load(answer)


def test_the_curl_shows_a_cut_stream(simulator):
    (command,) = [block.text for block in PAGE.blocks if block.text.startswith("curl")]
    words = shlex.split(command.replace("http://127.0.0.1:9000", simulator.url))
    with pytest.raises(AssertionError, match="ended with"):
        run(*words)
    assert simulator.bill()["by_request"][-1]["output_tokens"] == 5


def test_the_greeting_is_the_one_shown():
    (greeting,) = [block.text for block in PAGE.blocks if block.language == "text"]
    command = [sys.executable, "-m", "penstock", "sim", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()
    assert re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9000", line) == greeting
