"""What can be served without a configuration file."""

import http.server
import json
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import msgspec
import pytest

from penstock.config import discover as discovery
from penstock.config.discover import LocalServer, Served, discover, probe
from penstock.config.model import CandidateConfig, Config, UpstreamConfig
from penstock.config.patterns import resolve
from penstock.config.providers import PROVIDERS
from penstock.config.secret import Secret


def look(environ=None, servers=None, **options):
    """Discover with scripted local servers: base URL → what it serves."""
    asked = []

    def ask(url):
        asked.append(url)
        return (servers or {}).get(url)

    return discover(environ or {}, ask=ask, **{"engine": False, **options}), asked


def test_with_nothing_at_all_the_simulator_answers_every_name():
    found, asked = look()
    assert found.config.upstreams == {"sim": UpstreamConfig(kind="sim")}
    assert found.config.models["*"].candidates == [CandidateConfig(upstream="sim")]
    assert "the simulator" in found.findings[0]
    assert len(asked) == 4  # not at 8080, where we listen ourselves


def test_with_the_engine_installed_the_packages_own_model_answers_and_the_simulator_keeps_its_name():
    found, _ = look(engine=True)
    assert found.config.upstreams == {"demo": UpstreamConfig(kind="local"), "sim": UpstreamConfig(kind="sim")}
    upstreams = {name: model.candidates[0].upstream for name, model in found.config.models.items()}
    assert upstreams == {"demo": "demo", "sim": "sim", "sim:*": "sim", "*": "demo"}
    assert "babbles" in found.findings[0]


def test_the_engine_is_not_used_where_there_is_anybody_else():
    found, _ = look({"OPENAI_API_KEY": "k"}, engine=True)
    assert list(found.config.upstreams) == ["openai"]


def test_whether_the_engine_is_installed_is_found_out_without_loading_it():
    words = "import sys; from penstock.config.discover import has_engine; has_engine(); "
    words += "assert 'openvino_genai' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True, timeout=60)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_a_provider_is_known_by_each_of_its_variables(provider):
    for variable in provider.key_variables:
        found, _ = look({variable: " key "})
        upstream = found.config.upstreams[provider.name]
        assert (upstream.kind, upstream.base_url, upstream.api_key) == (
            provider.kind,
            provider.base_url,
            Secret("key"),
        )
        assert variable in found.findings[0]
        assert Secret("key").reveal() not in "".join(found.findings).replace(variable, "")


def test_names_lead_to_the_provider_that_would_mean_them():
    found, _ = look(
        {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "MISTRAL_API_KEY": "c", "GROQ_API_KEY": "d"}
    )
    models = found.config.models

    def leads(name):
        entry = resolve(models, name)
        return models[entry].candidates[0].upstream if entry else None

    assert (
        leads("gpt-5")
        == leads("o3-mini")
        == leads("text-embedding-3-small")
        == leads("openai/anything")
        == "openai"
    )
    assert leads("claude-opus-4-1") == "anthropic"
    assert leads("codestral-latest") == "mistral"
    assert leads("groq/llama-3.3-70b") == "groq"
    assert leads("nobody-s") is None
    assert models["groq/*"].candidates == [CandidateConfig(upstream="groq", model="*")]


def test_the_only_upstream_gets_every_other_name_too():
    found, _ = look({"OPENAI_API_KEY": "a"})
    assert found.config.models["*"].candidates[0].upstream == "openai"
    found, _ = look({"OPENAI_API_KEY": "a", "GROQ_API_KEY": "b"})
    assert "*" not in found.config.models


def test_a_base_url_variable_goes_before_the_provider_s_own_and_gets_its_path():
    found, _ = look({"OPENAI_API_KEY": "a", "OPENAI_BASE_URL": "http://proxy:1/x/"})
    assert found.config.upstreams["openai"].base_url == "http://proxy:1/x"
    assert not found.config.upstreams["openai"].responses
    found, _ = look({"GROQ_BASE_URL": "https://api.groq.com"})
    assert found.config.upstreams["groq"].base_url == "https://api.groq.com/openai/v1"
    assert found.config.upstreams["groq"].api_key is None


@pytest.mark.parametrize("url", ["nonsense", "http://localhost:8080/v1", "http://127.0.0.1:8081"])
def test_a_base_url_that_is_wrong_or_leads_to_ourselves_is_not_used(url):
    found, _ = look({"OPENAI_BASE_URL": url})
    assert "openai" not in found.config.upstreams
    assert "OPENAI_BASE_URL is not used" in found.findings[0]
    found, _ = look({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"})
    assert found.config.upstreams["openai"].base_url == "https://api.openai.com/v1"
    assert found.findings[1].startswith("OPENAI_API_KEY: openai at")


def test_organization_and_project_are_sent_as_headers():
    found, _ = look({"OPENAI_API_KEY": "a", "OPENAI_ORG_ID": "o", "OPENAI_PROJECT_ID": "p"})
    assert found.config.upstreams["openai"].headers == {"OpenAI-Organization": "o", "OpenAI-Project": "p"}


def test_an_empty_variable_counts_as_not_set_and_a_broken_key_is_not_used():
    found, _ = look({"OPENAI_API_KEY": " ", "GROQ_API_KEY": "a\nb"})
    assert list(found.config.upstreams) == ["sim"]
    assert "GROQ_API_KEY is set, but" in found.findings[0]


def test_a_local_server_answers_the_models_that_it_lists():
    found, _ = look(servers={"http://127.0.0.1:11434/v1": Served(("llama3:8b", "org/m"), "library")})
    assert found.config.upstreams["ollama"] == UpstreamConfig(
        kind="openai", base_url="http://127.0.0.1:11434/v1"
    )
    assert found.config.models["llama3:8b"].candidates == [CandidateConfig(upstream="ollama")]
    assert found.config.models["ollama/*"].candidates == [CandidateConfig(upstream="ollama", model="*")]
    assert found.findings[0] == "ollama at http://127.0.0.1:11434/v1 answers llama3:8b, org/m"


def test_who_a_local_server_is_its_models_say_not_its_port():
    found, _ = look(
        servers={
            "http://127.0.0.1:8000/v1": Served(("m",), "sglang"),
            "http://127.0.0.1:30000/v1": Served(("m",), "sglang"),
        }
    )
    assert list(found.config.upstreams) == ["sglang", "sglang-2"]
    assert found.config.upstreams["sglang"].running_usage
    assert [c.upstream for c in found.config.models["m"].candidates] == ["sglang", "sglang-2"]


def test_a_server_without_models_is_found_and_a_long_list_is_cut():
    many = tuple(f"m{i}" for i in range(20))
    found, _ = look(
        servers={"http://127.0.0.1:11434/v1": Served(()), "http://127.0.0.1:1234/v1": Served(many)},
    )
    assert found.findings[0].endswith("has no models yet")
    assert found.findings[1].endswith("m6, m7 and 12 more")


def test_an_empty_list_from_anybody_but_ollama_says_nothing():
    found, _ = look(servers={"http://127.0.0.1:8000/v1": Served(())})
    assert list(found.config.upstreams) == ["sim"]


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("box:1", "http://box:1/v1"),
        ("http://box", "http://box:11434/v1"),
        ("[::1]:5", "http://[::1]:5/v1"),
        ("a:b", "http://127.0.0.1:11434/v1"),
    ],
)
def test_ollama_host_says_where_ollama_is(value, url):
    _, asked = look({"OLLAMA_HOST": value})
    assert url in asked


def test_nobody_is_looked_for_at_our_own_ports_and_the_rest_of_the_configuration_stays():
    base = Config(listen="127.0.0.1:8000", control="127.0.0.1:11434", workers=3)
    found, asked = look(base=base)
    assert set(asked) == {"http://127.0.0.1:30000/v1", "http://127.0.0.1:8080/v1", "http://127.0.0.1:1234/v1"}
    assert msgspec.structs.replace(found.config, upstreams={}, models={}) == base


# ---- the probe, over real sockets --------------------------------------------------------------------------


@contextmanager
def serving(status, body):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.path = self.path
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def url(server):
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def test_the_probe_reads_the_list_of_models():
    body = json.dumps({"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b*"}, {"no": "id"}, 3]}).encode()
    with serving(200, body) as server:
        assert probe(url(server)) == Served(("a",), "vllm")
        assert server.path == "/v1/models"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"data": 3}'),
        (200, b"\xff"),
        (200, b"[" * 100_000),
    ],
)
def test_somebody_else_is_nobody(status, body):
    with serving(status, body) as server:
        assert probe(url(server)) is None


def test_nobody_is_nobody():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        assert probe(f"http://127.0.0.1:{taken.getsockname()[1]}/v1") is None


def test_a_server_that_says_nothing_does_not_hold_us_up(monkeypatch):
    monkeypatch.setattr(discovery, "PROBE_TIMEOUT", 0.02)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = discover({}, servers=(LocalServer("vllm", silent.getsockname()[1]),), engine=False)
    assert list(found.config.upstreams) == ["sim"]


def test_who_has_not_answered_by_the_deadline_does_not_count(monkeypatch):
    monkeypatch.setattr(discovery, "PROBE_DEADLINE", 0.02)
    released = threading.Event()

    def ask(url):
        released.wait(60)
        return Served(("late",))

    found = discover({}, ask=ask, engine=False)
    released.set()
    assert list(found.config.upstreams) == ["sim"]
