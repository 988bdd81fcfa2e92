"""``penstock check``: is this configuration right, and what does it say?"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from penstock.config.load import load
from penstock.config.model import Config, UpstreamConfig
from penstock.config.proxy import ENVIRONMENT, parse, proxy_to
from penstock.config.remarks import remarks
from penstock.config.reminder import endings
from penstock.errors import ConfigError
from penstock.net.origin import Origin


def check(
    file: Path = typer.Argument(Path("penstock.yaml"), help="The configuration file."),
    show: bool = typer.Option(
        False, "--show", help="Print the whole configuration, defaults included, secrets redacted."
    ),
) -> None:
    """Check a configuration file, and name every mistake in it with file, line, column and key.

    Ends with status 1 if there is one.  References such as ${NAME} are looked up as `penstock serve` would.
    """
    config = load(file)
    if config.prices:
        from penstock.ledger.prices import PriceTable  # noqa: PLC0415

        PriceTable.load(config.prices)  # raises what `penstock serve` would
    if show:
        from penstock.config.dump import dump_yaml  # noqa: PLC0415

        print(dump_yaml(config), end="")
        return
    told = summary(config)
    print(f"{file}: OK")
    print(told)
    for remark in [*remarks(config), *endings(config, time.time())]:
        print(f"{file}: note: {remark}", file=sys.stderr)


def summary(config: Config) -> str:
    """What the configuration comes to, in a few lines; no secret among them.

    :raises ConfigError: the environment's proxy, where it is asked for, is none
    """
    lines = [f"  listens at {config.listen}, control at {config.control}, workers {config.workers}"]
    lines.append(_counted(len(config.upstreams), "upstream"))
    for name, upstream in config.upstreams.items():
        where = upstream.base_url or "a process of its own"
        if upstream.kind == "local" and not upstream.base_url:
            where = f"{upstream.local.model or 'the demo model'}, in a process of its own"
        secret = "with a key" if upstream.api_key else "without a key"
        if upstream.credentials is not None:
            secret = f"with credentials from {upstream.credentials.source}"
        lines.append(f"    {name}: {upstream.kind}, {where}, {secret}{_way(name, upstream)}")
        if upstream.batches == "provider":
            lines.append("      runs lines of batches in batches of its own: at their price, within a day")
    lines.append(_counted(len(config.models), "model"))
    for name, model in config.models.items():
        ways = ", ".join(
            candidate.upstream
            + (f"/{candidate.model}" if candidate.model else "")
            + (f" ×{candidate.weight:.15g}" if candidate.weight != 1 else "")
            for candidate in model.candidates
        )
        stands_in = (
            ("else", model.fallbacks),
            ("too long:", model.context_length_fallbacks),
            ("filtered:", model.content_filter_fallbacks),
        )
        fallbacks = "".join(f"; {when} {', '.join(others)}" for when, others in stands_in if others)
        lines.append(f"    {name} → {ways}{fallbacks}")
    lines.append(_counted(len(config.keys), "key"))
    for key in config.keys:
        permitted = ", ".join(key.models) or "every model"
        end = f", until {key.expires}" if key.expires else ""
        lines.append(f"    {key.name}: tenant {key.tenant}, tier {key.tier}, {permitted}{end}")
    return "\n".join(lines)


def _way(name: str, upstream: UpstreamConfig) -> str:
    """Through which proxy it is reached, without user and password."""
    if upstream.proxy is None:
        return ""
    wanted = upstream.proxy.reveal()
    if wanted != ENVIRONMENT:
        return f", through {parse(wanted)}"
    if not upstream.base_url:
        return ", by the environment's proxies"
    origin, _ = Origin.parse(upstream.base_url)
    try:
        proxy = proxy_to(upstream.proxy, origin.scheme, origin.host, origin.port)
    except ValueError as error:
        raise ConfigError(f"upstreams.{name}.proxy: {error}") from None
    return f", {'directly' if proxy is None else f'through {proxy}'}, as this environment has it"


def _counted(count: int, noun: str) -> str:
    return f"  {count} {noun}{'' if count == 1 else 's'}"
