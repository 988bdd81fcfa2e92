"""A configuration without a file: what the environment and this machine offer.

Hosted providers are known by their variables (``OPENAI_API_KEY`` and so on), servers on this machine by
their usual ports, which are asked for their models.  Where there is neither, the small model of the package
answers, if the library that computes it is installed, and beside it the simulator; so ``penstock serve`` always
serves something, and says what.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

import msgspec

from penstock.config.address import check_base_url, split_address
from penstock.config.model import CandidateConfig, Config, ModelConfig, UpstreamConfig
from penstock.config.providers import PROVIDERS, Provider
from penstock.config.secret import Secret
from penstock.installing import install_command

PROBE_TIMEOUT = 0.3  # seconds for each step; a server on this machine needs a few milliseconds
PROBE_DEADLINE = 1.0  # seconds for all of it, however slowly somebody answers
LISTED = 8  # models named in a finding
MAX_PROBE_BYTES = 4_194_304
DEMO = "demo"
"""What the model that comes with the package is called, where nothing is configured."""


class LocalServer(msgspec.Struct, frozen=True):
    """A kind of server that people run on their own machine, at its usual port."""

    name: str
    port: int


LOCAL_SERVERS = (
    LocalServer("ollama", 11434),
    LocalServer("vllm", 8000),
    LocalServer("sglang", 30000),
    LocalServer("llamacpp", 8080),
    LocalServer("lmstudio", 1234),
)

# Who it really is, by the `owned_by` of its models: the port says nothing certain.
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama"}
_RUNNING_USAGE = frozenset({"vllm", "sglang"})  # take stream_options.continuous_usage_stats


class Served(msgspec.Struct, frozen=True):
    """What a local server says that it has."""

    models: tuple[str, ...]
    owner: str = ""


Probe = Callable[[str], Served | None]
"""Asks the server at a base URL for its models; None: nobody there, or somebody else."""


class Discovery(msgspec.Struct, frozen=True):
    """The configuration, and one sentence for each thing that was found."""

    config: Config
    findings: tuple[str, ...]


def discover(
    environ: Mapping[str, str],
    *,
    base: Config | None = None,
    ask: Probe | None = None,
    servers: tuple[LocalServer, ...] = LOCAL_SERVERS,
    engine: bool | None = None,
) -> Discovery:
    """What can be served without a configuration file.

    :param base: all the rest of the configuration; nobody is looked for at its own addresses
    :param ask: how a local server is asked; :func:`probe` by default
    :param servers: who is looked for
    :param engine: whether local models can be computed; None: if the extra ``engine`` is installed
    """
    found = _Found(base or Config())
    for provider in PROVIDERS:
        found.look_at_provider(provider, environ)
    urls = found.local_urls(environ, servers)
    for (server, url), served in zip(urls, _ask_all([url for _, url in urls], ask or probe), strict=True):
        # Only Ollama runs without a model; from anybody else an empty list says nothing about who it is.
        if served is not None and (served.models or server.name == "ollama"):
            found.add_local(server, url, served)
    return found.conclude(has_engine() if engine is None else engine)


def has_engine() -> bool:
    """Whether the library that computes local models is installed; it is not imported."""
    return importlib.util.find_spec("openvino_genai") is not None


def probe(base_url: str) -> Served | None:
    """Ask ``GET {base_url}/models``."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", parts.path + "/models", headers={"accept": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            return None
        return _served(json.loads(response.read(MAX_PROBE_BYTES)))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()


def _served(answer: Any) -> Served | None:
    """The list of models in OpenAI's form; None: it is something else."""
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        return None
    models = [m for m in answer["data"] if isinstance(m, dict) and isinstance(m.get("id"), str) and m["id"]]
    if any(m.get("owned_by") == "penstock" for m in models):
        return None  # another gateway of this kind; it may have found us just as well, and so in a circle
    owner = next((m["owned_by"] for m in models if isinstance(m.get("owned_by"), str)), "")
    return Served(tuple(m["id"] for m in models if "*" not in m["id"]), owner)


def _ask_all(urls: list[str], ask: Probe) -> list[Served | None]:
    """All at once; who has not answered by the deadline does not count."""
    if not urls:
        return []
    threads = ThreadPoolExecutor(len(urls))
    futures = [threads.submit(ask, url) for url in urls]
    wait(futures, timeout=PROBE_DEADLINE)
    threads.shutdown(wait=False, cancel_futures=True)
    return [future.result() if future.done() else None for future in futures]


class _Found:
    """What was found so far."""

    def __init__(self, base: Config) -> None:
        self._base = base
        self._own = {split_address(address)[1] for address in (base.listen, base.control)} - {0}
        self._upstreams: dict[str, UpstreamConfig] = {}
        self._models: dict[str, ModelConfig] = {}
        self._findings: list[str] = []

    def look_at_provider(self, provider: Provider, environ: Mapping[str, str]) -> None:
        variable = next((v for v in provider.key_variables if environ.get(v, "").strip()), None)
        url_variable = next((v for v in provider.url_variables if environ.get(v, "").strip()), None)
        if variable is None and url_variable is None:
            return
        url = provider.base_url
        if url_variable is not None:
            given = self._base_url(url_variable, environ[url_variable].strip(), provider)
            if given is None and variable is None:
                return
            if given is None:
                url_variable = None
            url = given or url
        if variable is not None and not environ[variable].strip().isprintable():
            self._findings.append(f"{variable} is set, but holds characters that no key has: not used")
            return
        self._upstreams[provider.name] = UpstreamConfig(
            kind=provider.kind,
            base_url=url,
            api_key=Secret(environ[variable].strip()) if variable else None,
            headers={h: environ[v] for v, h in provider.header_variables if environ.get(v, "").strip()},
            responses=provider.responses and url == provider.base_url,
        )
        for pattern in provider.models:
            self._add(pattern, CandidateConfig(upstream=provider.name))
        self._add(f"{provider.name}/*", CandidateConfig(upstream=provider.name, model="*"))
        names = ", ".join((*provider.models, f"{provider.name}/*"))
        said_by = " and ".join(v for v in (variable, url_variable) if v)
        self._findings.append(f"{said_by}: {provider.name} at {url} answers {names}")

    def _base_url(self, variable: str, url: str, provider: Provider) -> str | None:
        """The variable's URL; without a path it gets the one that the provider's own has."""
        try:
            check_base_url(url)
        except ValueError as error:
            self._findings.append(f"{variable} is not used: {error}")
            return None
        parts = urlsplit(url)
        if _is_loopback(parts.hostname or "") and parts.port in self._own:
            # Whoever points SDKs at the gateway often has this variable set where the gateway starts, too.
            self._findings.append(f"{variable} is not used: it leads to this gateway itself")
            return None
        if parts.path in ("", "/"):
            url = url.rstrip("/") + urlsplit(provider.base_url).path
        return url.rstrip("/")

    def local_urls(
        self, environ: Mapping[str, str], servers: tuple[LocalServer, ...]
    ) -> list[tuple[LocalServer, str]]:
        """Whom to ask, and where."""
        urls = []
        for server in servers:
            host, port = "127.0.0.1", server.port
            if server.name == "ollama" and environ.get("OLLAMA_HOST", "").strip():
                host, port = _ollama_host(environ["OLLAMA_HOST"].strip(), port)
            if not (_is_loopback(host) and port in self._own):
                urls.append((server, f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"))
        return urls

    def add_local(self, server: LocalServer, url: str, served: Served) -> None:
        name = kind = _OWNERS.get(served.owner, server.name)
        count = 1
        while name in self._upstreams:
            count += 1
            name = f"{kind}-{count}"
        self._upstreams[name] = UpstreamConfig(
            kind="openai", base_url=url, running_usage=kind in _RUNNING_USAGE
        )
        for model in served.models:
            self._add(model, CandidateConfig(upstream=name))
        self._add(f"{name}/*", CandidateConfig(upstream=name, model="*"))
        listed = ", ".join(served.models[:LISTED])
        more = f" and {len(served.models) - LISTED} more" if len(served.models) > LISTED else ""
        has = f"answers {listed}{more}" if served.models else "has no models yet"
        self._findings.append(f"{name} at {url} {has}")

    def conclude(self, engine: bool) -> Discovery:
        if not self._upstreams and engine:
            self._upstreams[DEMO] = UpstreamConfig(kind="local")
            self._upstreams["sim"] = UpstreamConfig(kind="sim")
            self._add(DEMO, CandidateConfig(upstream=DEMO))
            for name in ("sim", "sim:*"):
                self._add(name, CandidateConfig(upstream="sim"))
            self._add("*", CandidateConfig(upstream=DEMO))
            self._findings.append(
                "no provider's key in the environment and no server on this machine: "
                "a tiny model, which this machine computes and which babbles, answers every model's name but sim, "
                "and the simulator that one"
            )
        elif not self._upstreams:
            self._upstreams["sim"] = UpstreamConfig(kind="sim")
            self._add("sim", CandidateConfig(upstream="sim"))  # a name that can be listed
            self._findings.append(
                "no provider's key in the environment and no server on this machine: "
                "the simulator answers every model, without keys and without network "
                f"(with the extra, {install_command('engine')}, a tiny model does)"
            )
        if len(self._upstreams) == 1:
            (only,) = self._upstreams
            self._add("*", CandidateConfig(upstream=only))
            if only != "sim":
                self._findings.append(f"{only} is the only one and gets every other model's name, too")
        config = msgspec.structs.replace(self._base, upstreams=self._upstreams, models=self._models)
        return Discovery(config, tuple(self._findings))

    def _add(self, model: str, candidate: CandidateConfig) -> None:
        before = self._models[model].candidates if model in self._models else []
        self._models[model] = ModelConfig(candidates=[*before, candidate])

    def __repr__(self) -> str:
        return f"<_Found {', '.join(self._upstreams) or 'nothing'}>"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _ollama_host(text: str, port: int) -> tuple[str, int]:
    """``OLLAMA_HOST`` is an address to listen at or one to call, with or without scheme and port."""
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        host, port = parts.hostname or "127.0.0.1", parts.port or port
    except ValueError:
        return "127.0.0.1", port
    return ("127.0.0.1" if host in ("0.0.0.0", "::") else host), port  # noqa: S104 - recognised, not bound
