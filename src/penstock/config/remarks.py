"""What is not wrong in a configuration, but probably not meant."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from penstock.config.address import split_address
from penstock.config.extras import missing_extras
from penstock.config.model import Config, LocalConfig, UpstreamConfig
from penstock.config.patterns import match
from penstock.config.providers import DEFAULT_BASE_URLS, PROVIDERS
from penstock.installing import install_command

_LONGEST_MONTH = 31  # days
_SQLITE = b"SQLite format 3\0"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_OPERATIONS = ("/completions", "/embeddings", "/messages", "/models", "/rerank", "/responses")
_WITHOUT_VERSION = frozenset(provider.base_url for provider in PROVIDERS)


def remarks(config: Config) -> list[str]:
    """One sentence for each thing that its author should know."""
    found = []
    if not config.models:
        found.append("models is empty: every call will be answered with 404")
    used = {candidate.upstream for model in config.models.values() for candidate in model.candidates}
    found += [
        f"upstreams.{name} is used by no model"
        for name in config.upstreams
        if config.models and name not in used
    ]
    for name, upstream in config.upstreams.items():
        if upstream.api_key is None and upstream.base_url == DEFAULT_BASE_URLS[upstream.kind] != "":
            found.append(f"upstreams.{name} has no api_key: {upstream.base_url} will refuse its calls")
        directory = upstream.local.model
        if upstream.kind == "local" and not upstream.base_url and directory and not Path(directory).is_dir():
            found.append(
                f"upstreams.{name}.local.model: there is no directory {directory}; its calls get 503"
            )
        if upstream.local != LocalConfig() and (upstream.kind != "local" or upstream.base_url):
            found.append(f"upstreams.{name}.local is not used: it is for kind local without a base_url")
        if not upstream.verify:
            found.append(
                f"upstreams.{name}.verify is false: anybody on the way can read and change its traffic"
            )
        has_key = upstream.api_key is not None or upstream.credentials is not None
        if has_key and upstream.base_url.startswith("http://") and not _is_local(upstream.base_url):
            found.append(f"upstreams.{name} sends its key over http, unencrypted")
        if upstream.batches == "provider" and not config.files.directory:
            found.append(
                f"upstreams.{name}.batches is not used: without files.directory there are no batches"
            )
        if said := _of_base_url(upstream):
            found.append(f"upstreams.{name}.base_url {said}")
    found += [
        f"{key} needs the extra {extra}, which is not installed here: {install_command(extra)}"
        for key, extra in missing_extras(config)
    ]
    if not config.keys and not config.keys_file and split_address(config.listen)[0] not in _LOOPBACK:
        found.append(
            f"keys is empty and listen is {config.listen}: whoever reaches the port can spend your money"
        )
    if config.control_key is None and split_address(config.control)[0] not in _LOOPBACK:
        found.append(
            f"control_key is missing and control is {config.control}: anybody can read what is going on"
        )
    if config.ledger.path and not _is_writable(config.ledger.path):
        found.append(f"ledger.path: {config.ledger.path} cannot be written: what is recorded will be lost")
    elif config.ledger.path and _is_something_else(config.ledger.path):
        found.append(
            f"ledger.path: {config.ledger.path} is no SQLite file: nothing can be recorded; name another"
        )
    answers = config.generations.path
    if "disk" in _durabilities(config) and not _is_writable(answers):
        found.append(f"generations.path: {answers} cannot be written: answers will not outlive their process")
    if config.cache.disk and not _is_writable(config.cache.disk):
        found.append(f"cache.disk: {config.cache.disk} cannot be written: nothing will be kept there")
    if config.workers > 1 and config.generations.kept_for and not _outlive_their_process(config):
        found.append(
            f"workers is {config.workers} and generations.durability is memory: only the worker that made an answer can "
            "resume it, or go on from it by previous_response_id, and chance decides which one is asked"
        )
    found += _of_limits(config)
    found += _of_transcripts(config)
    found += _of_webhooks(config)
    for i, key in enumerate(config.keys):
        found += [
            f"keys[{i}].models: nothing in models is called {permitted}"
            for permitted in key.models
            if not any(_meet(permitted, name) for name in config.models)
        ]
    return found


def _durabilities(config: Config) -> set[str | None]:
    """What answers outlive, by model; None: what they do where nothing is said."""
    return {config.generations.durability, *(model.durability for model in config.models.values())}


def _outlive_their_process(config: Config) -> bool:
    """Whether any answers do; who has chosen for some models knows."""
    return not {"disk", "shared"}.isdisjoint(_durabilities(config))


def _of_base_url(upstream: UpstreamConfig) -> str:
    """What is odd about an address, if anything is."""
    path = urlsplit(upstream.base_url).path.rstrip("/")
    if path.endswith(_OPERATIONS):
        return f"ends in {path.rpartition('/')[2]}: what a call asks for comes behind it, and is added"
    if upstream.kind == "openai" and upstream.base_url and not path:
        url = upstream.base_url.rstrip("/")
        if url not in _WITHOUT_VERSION:
            return f"has no path: calls go to {url}/chat/completions, and most servers want a /v1 before that"
    return ""


def _of_transcripts(config: Config) -> list[str]:
    wanted = config.transcripts
    if wanted.tenants and not wanted.directory:
        return ["transcripts.tenants: nothing is written down, because transcripts.directory is empty"]
    if wanted.directory and not wanted.tenants:
        return ["transcripts.directory: nothing is written down, because transcripts.tenants is empty"]
    return [f"transcripts.tenants: no key is {name}'s" for name in wanted.tenants if _is_nobody(name, config)]


def _of_webhooks(config: Config) -> list[str]:
    return [
        f"webhooks.endpoints[{i}].tenant: no key is {endpoint.tenant}'s, so {endpoint.url} will be told nothing"
        for i, endpoint in enumerate(config.webhooks.endpoints)
        if _is_nobody(endpoint.tenant, config)
    ]


def _is_nobody(tenant: str, config: Config) -> bool:
    """Whether no caller can be this tenant's."""
    if config.keys_file:  # whose keys come and go
        return False
    return tenant not in ({key.tenant for key in config.keys} or {"default"})


def _of_limits(config: Config) -> list[str]:
    found = []
    wanted = config.limits
    tables = [wanted.keys, wanted.tenants, wanted.tiers, wanted.models, wanted.upstreams]
    limits = [limit for table in tables for limit in table.values()]
    if not config.ledger.path and any(limit.usd_per_day or limit.usd_per_month for limit in limits):
        found.append("limits has budgets, but there is no ledger.path: they begin anew with each restart")
    keep_days = config.ledger.keep_days
    if 0 < keep_days < _LONGEST_MONTH and any(limit.usd_per_month for limit in limits):
        found.append(f"ledger.keep_days is {keep_days:g}: what was spent earlier in a month is forgotten")
    names = {*config.models} | {
        candidate.model for model in config.models.values() for candidate in model.candidates
    }
    found += [
        f'limits.models."{name}": nothing in models is called so'
        for name in config.limits.models
        if not any(_meet(name, model) for model in names)
    ]
    return found


def _meet(one: str, other: str) -> bool:
    """Whether some name may fit both, each of which may be a pattern."""
    if match(one, other) is not None or match(other, one) is not None:
        return True
    if "*" not in one or "*" not in other:
        return False
    (head, _, tail), (other_head, _, other_tail) = one.partition("*"), other.partition("*")
    heads = head.startswith(other_head) or other_head.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _is_something_else(file: str) -> bool:
    """Whether there is a file that holds something, and is none of SQLite's."""
    try:
        with Path(file).open("rb") as opened:
            return opened.read(len(_SQLITE)) not in (b"", _SQLITE)
    except OSError:
        return False


def _is_writable(file: str) -> bool:
    """Whether the file can be, and others beside it: SQLite's log, say, and the locks of its writers."""
    path = Path(file).absolute()
    return os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK))


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.", "http://localhost", "http://[::1]"))
