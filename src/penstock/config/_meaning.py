"""What the types cannot say: names that must exist, files that must be readable, addresses that collide.

Works on the plain values that the reader left, in which wrong ones are missing: every check takes what is
there and is silent about what is not, so that one mistake is reported once.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Collection
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path as File

from penstock.config._bodies import check_extra_body, check_parameters
from penstock.config._files import check_parent, check_readable
from penstock.config._reading import Path, Plain, Reader, did_you_mean
from penstock.config._upstream_meaning import CLOUDS, check_upstream, header_fault
from penstock.config.address import check_base_url, overlap, split_address
from penstock.config.expiry import ends_at
from penstock.config.keys import HASH
from penstock.config.patterns import CONTROL, resolve
from penstock.config.providers import DEFAULT_BASE_URLS
from penstock.config.redis_address import Address
from penstock.config.secret import Secret
from penstock.config.webhook_secret import key_of

_CONTROLLED = "a name has no line ends or other control characters in it"
_FALLBACKS = ("fallbacks", "context_length_fallbacks", "content_filter_fallbacks")


def check(plain: Plain, reader: Reader) -> None:
    """Notes every mistake of meaning in the reader."""
    for section in ("upstreams", "models", "tiers"):
        _check_names(plain.get(section, {}), section, reader)
    _check_addresses(plain, reader)
    _check_proxies(plain.get("listener", {}), reader)
    _check_tls(plain.get("tls"), reader)
    upstreams = plain.get("upstreams", {})
    for name, upstream in upstreams.items():
        check_upstream(upstream, ("upstreams", name), reader)
        _check_shared(upstream, ("upstreams", name), plain.get("limits", {}), reader)
    models = plain.get("models", {})
    for name, model in models.items():
        _check_model(name, model, upstreams, reader)
    _check_fallbacks(models, reader)
    _check_cascades(models, reader)
    _check_degradation(models, plain.get("tiers", {}), reader)
    _check_keys(plain.get("keys", []), reader)
    _check_tiers(plain.get("tiers", {}), plain.get("keys", []), reader)
    is_closed = not plain.get("keys_file")  # then all keys are known here
    _check_limits(plain.get("limits", {}), plain.get("keys", []), upstreams, reader, is_closed=is_closed)
    _check_retry(plain.get("retry", {}), reader)
    _check_cache(plain.get("cache", {}), reader)
    if prices := plain.get("prices"):
        check_readable(prices, ("prices",), reader)
    if ledger := plain.get("ledger", {}).get("path"):
        check_parent(ledger, ("ledger", "path"), reader)
        if File(ledger).is_dir():
            reader.mistake(("ledger", "path"), f"{ledger} is a directory; name a file in it")
    if departures := plain.get("departures"):
        check_parent(departures, ("departures",), reader)
    _check_durability(plain, reader)
    _check_versions(plain, reader)
    if directory := plain.get("files", {}).get("directory"):
        check_parent(directory, ("files", "directory"), reader)
    if directory := plain.get("transcripts", {}).get("directory"):
        check_parent(directory, ("transcripts", "directory"), reader)
    _check_webhooks(plain.get("webhooks", {}), plain.get("files", {}), reader)
    _check_uploads(plain.get("uploads", {}), plain.get("files", {}), reader)
    _check_traces(plain.get("traces", {}), reader)


def _check_names(names: Plain, section: str, reader: Reader) -> None:
    """They come into header fields, metrics and terminals."""
    for name in names:
        if CONTROL.search(name):
            reader.mistake((section, name), _CONTROLLED)


def _check_durability(plain: Plain, reader: Reader) -> None:
    generations = plain.get("generations", {})
    wanted: dict[Path, str | None] = {("generations", "durability"): generations.get("durability", "memory")}
    for name, model in plain.get("models", {}).items():
        wanted["models", name, "durability"] = model.get("durability")
    for where, durability in wanted.items():
        if durability == "shared" and not generations.get("redis"):
            reader.mistake(where, "shared needs a server to share: set generations.redis")
    if "disk" in wanted.values():
        check_parent(generations.get("path", "penstock-generations.sqlite"), ("generations", "path"), reader)
    _check_redis(generations, "generations", reader)


def _check_versions(plain: Plain, reader: Reader) -> None:
    if plain.get("versions", {}).get("shared") == "machines" and not plain.get("limits", {}).get("redis"):
        where = ("versions", "shared")
        reader.mistake(where, "machines have a server in which they share: set limits.redis")
    if not any(model.get("canary") for model in plain.get("models", {}).values()):
        return
    path = plain.get("versions", {}).get("path", "penstock-versions.sqlite")
    if path:
        check_parent(path, ("versions", "path"), reader)
    elif plain.get("workers", 1) > 1:
        reader.mistake(("versions", "path"), "several workers need a file to decide together")


def _check_redis(section: Plain, name: str, reader: Reader, *, clusters: bool = False) -> None:
    redis = section.get("redis")
    if isinstance(redis, Secret):
        try:
            Address.parse(redis.reveal(), clusters=clusters)
        except ValueError as error:
            reader.mistake((name, "redis"), str(error))


def _check_uploads(uploads: Plain, files: Plain, reader: Reader) -> None:
    _check_redis(uploads, "uploads", reader)
    for name in ("redis", "s3"):
        if uploads.get(name) is not None and not files.get("directory"):
            reader.mistake(("uploads", name), "needs files.directory, where chunks are written first")
    if files.get("shared") and not (files.get("directory") and uploads.get("redis") is not None):
        reader.mistake(
            ("files", "shared"), "needs files.directory, where files are written first, and uploads.redis"
        )
    s3 = uploads.get("s3") or {}
    endpoint = s3.get("endpoint", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        reader.mistake(("uploads", "s3", "endpoint"), "must begin with http:// or https://")
    if bool(s3.get("access_key")) != (s3.get("secret_key") is not None):
        reader.mistake(("uploads", "s3", "access_key"), "access_key and secret_key belong together")


def fill_in(plain: Plain) -> None:
    """Defaults that depend on other keys, and the one spelling of a base URL."""
    for upstream in plain.get("upstreams", {}).values():
        url = upstream.get("base_url") or DEFAULT_BASE_URLS[upstream["kind"]]
        upstream["base_url"] = url.rstrip("/")
        source = CLOUDS.get(upstream["kind"])
        names = {name.lower() for name in upstream.get("headers", {})}
        if source and not (
            upstream.get("api_key") or upstream.get("credentials") or "authorization" in names
        ):
            upstream["credentials"] = {"source": source}


def _check_addresses(plain: Plain, reader: Reader) -> None:
    addresses = {"listen": "127.0.0.1:8080", "control": "127.0.0.1:8081"} | {
        key: plain[key] for key in ("listen", "control") if key in plain
    }
    right = True
    for key, address in addresses.items():
        try:
            split_address(address)
        except ValueError as error:
            reader.mistake((key,), str(error))
            right = False
    if right and overlap(addresses["listen"], addresses["control"]):
        at = "control" if "control" in plain else "listen"
        reader.mistake((at,), f"listen and control are both at {addresses[at]}; give each its own port")


def _check_proxies(listener: Plain, reader: Reader) -> None:
    for index, network in enumerate(listener.get("trusted_proxies", [])):
        try:
            ip_network(network)
        except ValueError as error:
            reader.mistake(("listener", "trusted_proxies", index), f"is no address or network: {error}")


def _check_tls(tls: Plain | None, reader: Reader) -> None:
    if not tls:
        return
    readable = [
        check_readable(tls[key], ("tls", key), reader) for key in ("certificate", "key") if key in tls
    ]
    if readable != [True, True]:
        return
    password = tls.get("key_password")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # With a function, a missing password is an error; without, OpenSSL would ask at the terminal.
        context.load_cert_chain(
            tls["certificate"], tls["key"], lambda: password.reveal() if isinstance(password, Secret) else ""
        )
    except (ssl.SSLError, ValueError) as error:
        no_pem = [key for key in ("certificate", "key") if b"-----BEGIN " not in File(tls[key]).read_bytes()]
        for key in no_pem:
            reader.mistake(
                ("tls", key), f"{tls[key]} is not in PEM: it has no line that begins with -----BEGIN"
            )
        if no_pem:
            return
        reason = getattr(error, "reason", None) or "not PEM"
        reader.mistake(("tls",), f"certificate and key cannot be used: {reason.replace('_', ' ').lower()}")


def _check_cache(cache: Plain, reader: Reader) -> None:
    if disk := cache.get("disk"):
        parent = File(disk).parent
        if not parent.is_dir():
            reader.mistake(("cache", "disk"), f"there is no directory {parent}")
    redis = cache.get("redis")
    if redis is None:
        return
    if cache.get("seal_key") is None:
        reader.mistake(("cache", "redis"), "others can write there, so cache.seal_key must be set, too")
    _check_redis(cache, "cache", reader, clusters=True)


def _check_webhooks(webhooks: Plain, files: Plain, reader: Reader) -> None:
    path = webhooks.get("path")
    endpoints = webhooks.get("endpoints", [])
    if path:
        check_parent(path, ("webhooks", "path"), reader)
    elif endpoints and not files.get("directory"):
        reader.mistake(("webhooks", "path"), "is missing, and there is no files.directory instead")
    seen: set[tuple[str, str]] = set()
    for i, endpoint in enumerate(endpoints):
        if not endpoint:
            continue
        at: Path = ("webhooks", "endpoints", i)
        if url := endpoint.get("url"):
            try:
                check_base_url(url)
            except ValueError as error:
                reader.mistake((*at, "url"), str(error))
            whose = (url, endpoint.get("tenant", "default"))
            if whose in seen:
                reader.mistake((*at, "url"), "stands there twice for one tenant; put the events together")
            seen.add(whose)
        secret = endpoint.get("secret")
        if isinstance(secret, Secret):
            try:
                key_of(secret.reveal())
            except ValueError as error:
                reader.mistake((*at, "secret"), str(error))


def _check_traces(traces: Plain, reader: Reader) -> None:
    if endpoint := traces.get("endpoint"):
        try:
            check_base_url(endpoint)
        except ValueError as error:
            reader.mistake(("traces", "endpoint"), str(error))
    for name, value in traces.get("headers", {}).items():
        if fault := header_fault(name, value.reveal() if isinstance(value, Secret) else ""):
            reader.mistake(("traces", "headers", name), fault)


def _check_model(name: str, model: Plain, upstreams: Plain, reader: Reader) -> None:
    at: Path = ("models", name)
    if name.count("*") > 1:
        reader.mistake(at, "a pattern holds one * at most")
    check_parameters(model, at, reader)
    candidates = model.get("candidates")
    if candidates is None:
        return
    if not candidates:
        reader.mistake((*at, "candidates"), "is empty: nobody would answer")
    for i, candidate in enumerate(candidates):
        if not candidate:
            continue
        here = (*at, "candidates", i)
        upstream = candidate.get("upstream")
        if upstream is not None and upstream not in upstreams:
            hint = did_you_mean(upstream, upstreams)
            reader.mistake((*here, "upstream"), f"there is no upstream {upstream}{hint}")
        stars = candidate.get("model", "").count("*")
        if stars and "*" not in name:
            reader.mistake((*here, "model"), "the * has nothing to stand for: the model's name has none")
        elif stars > 1:
            reader.mistake((*here, "model"), "holds one * at most")
        _check_sunset(candidate, here, reader)
        check_extra_body(candidate, upstreams, here, reader)
    if candidates and all(c and c.get("weight") == 0 for c in candidates):
        reader.mistake((*at, "candidates"), "every weight is 0: nobody would answer")
    _check_canary(model, at, reader)
    wanted = (model.get("shadow") or {}).get("version")
    versions = {candidate.get("version", "") for candidate in candidates if candidate}
    if wanted is not None and (wanted not in versions or len(versions) < 2):
        reader.mistake((*at, "shadow", "version"), "must be the version of some candidates, but not of all")


def _check_sunset(candidate: Plain, at: Path, reader: Reader) -> None:
    days: dict[str, dt.date] = {}
    for key in ("deprecated", "sunset"):
        if text := candidate.get(key, ""):
            try:
                days[key] = dt.date.fromisoformat(text)
            except ValueError:
                reader.mistake((*at, key), f"expected a day, such as 2026-12-31, not {text}")
    if len(days) == 2 and days["sunset"] < days["deprecated"]:
        reader.mistake(
            (*at, "sunset"), "comes before deprecated (RFC 8594 and RFC 9745 have it the other way)"
        )


def _check_canary(model: Plain, at: Path, reader: Reader) -> None:
    """There must be a version that is tried, and another one that gets calls."""
    canary = model.get("canary") or {}
    here = (*at, "canary")
    version = canary.get("version")
    candidates = [candidate for candidate in model.get("candidates", []) if candidate]
    versions = {candidate.get("version", "") for candidate in candidates}
    if version is not None and version not in versions:
        reader.mistake(
            (*here, "version"), f"no candidate has the version {version}{did_you_mean(version, versions)}"
        )
    elif version is not None and not any(
        candidate.get("version", "") != version and candidate.get("weight") != 0 for candidate in candidates
    ):
        reader.mistake((*here, "version"), "there is no other version with a weight to compare it with")
    if any(later <= earlier for earlier, later in pairwise(canary.get("steps", []))):
        reader.mistake((*here, "steps"), "must be shares that grow")
    if canary.get("least_calls", 100) > canary.get("most_calls", 2_000):
        at_key = "least_calls" if "least_calls" in canary else "most_calls"
        reader.mistake((*here, at_key), "least_calls is more than most_calls")


def _check_fallbacks(models: Plain, reader: Reader) -> None:
    """Each fallback must be there.  Circles are fine (a falls back on b, b on a): a call tries each model once."""
    named = [(name, model, key) for name, model in models.items() for key in _FALLBACKS]
    for name, model, key in named:
        for i, fallback in enumerate(model.get(key, [])):
            if not isinstance(fallback, str):
                continue
            here: Path = ("models", name, key, i)
            if "*" in fallback:
                reader.mistake(here, "is a pattern; a fallback is the name of one model")
                continue
            target = resolve(models, fallback)
            if target is None:
                hint = did_you_mean(fallback, models)
                reader.mistake(here, f"there is no model {fallback}{hint}")
            elif target == name:
                reader.mistake(here, f"{name} falls back on itself")


def _check_cascades(models: Plain, reader: Reader) -> None:
    for name, model in models.items():
        cascade = model.get("cascade") or {}
        for key in ("model", "judge"):
            other = cascade.get(key, "")
            here: Path = ("models", name, "cascade", key)
            if not other:
                continue
            target = None if "*" in other else resolve(models, other)
            if target is None:
                reader.mistake(here, f"there is no model {other}{did_you_mean(other, models)}")
            elif key == "model" and target == name:
                reader.mistake(here, f"{name} is no smaller than itself")


def _check_degradation(models: Plain, tiers: Plain, reader: Reader) -> None:
    for name, model in models.items():
        smaller = model.get("smaller", "")
        if smaller and ("*" in smaller or resolve(models, smaller) is None):
            hint = did_you_mean(smaller, models)
            reader.mistake(("models", name, "smaller"), f"there is no model {smaller}{hint}")
        elif smaller and resolve(models, smaller) == name:
            reader.mistake(("models", name, "smaller"), f"{name} is no smaller than itself")
    for name, tier in tiers.items():
        ladder = tier.get("degradation") or {}
        steps = [step for step in ("stale", "smaller", "shorter", "refuse") if ladder.get(step) is not None]
        for lower, higher in pairwise(steps):
            if ladder[lower] > ladder[higher]:
                reader.mistake(
                    ("tiers", name, "degradation", higher),
                    f"{higher} ({ladder[higher]:g}) comes after {lower} ({ladder[lower]:g}), and must not be less",
                )


def _check_keys(keys: list[Plain | None], reader: Reader) -> None:
    seen: dict[tuple[str, str], int] = {}
    for i, key in enumerate(keys):
        if not key:
            continue
        at: Path = ("keys", i)
        # The hash is never shown: somebody may have put the key itself there.
        value = key.get("hash")
        if value is not None and not HASH.match(value):
            reader.mistake(
                (*at, "hash"),
                'expected "sha256:" and 64 hexadecimal digits in lower case, as `penstock key` prints it'
                + ("; this looks like the key itself" if value.startswith(("pk-", "sk-")) else ""),
            )
        try:
            ends_at(key.get("expires", ""))
        except ValueError as error:
            reader.mistake((*at, "expires"), str(error))
        for member in ("name", "tenant", "tier"):
            if CONTROL.search(key.get(member) or ""):
                reader.mistake((*at, member), _CONTROLLED)
        for member in ("name", "hash"):
            text = key.get(member)
            if text == "":
                reader.mistake((*at, member), "is empty")
            elif text is not None:
                first = seen.setdefault((member, text), i)
                if first != i:
                    reader.mistake((*at, member), f"is the same as that of keys[{first}]")


def _check_tiers(tiers: Plain, keys: list[Plain | None], reader: Reader) -> None:
    """Where there are tiers, every key must be of one of them."""
    for i, key in enumerate(keys):
        tier = (key or {}).get("tier", "standard")
        if key and tiers and tier not in tiers:
            reader.mistake(("keys", i, "tier"), f"there is no tier {tier}{did_you_mean(tier, tiers)}")


def _check_limits(
    limits: Plain, keys: list[Plain | None], upstreams: Collection[str], reader: Reader, *, is_closed: bool
) -> None:
    """Whoever is limited must be somebody; without keys, every caller is anonymous."""
    members = {"keys": ("name", "anonymous"), "tenants": ("tenant", "default"), "tiers": ("tier", "standard")}
    for section, (member, default) in members.items():
        known = {key.get(member, default) for key in keys if key} if keys else {default}
        for name in limits.get(section, {}):
            if name != "*" and name not in known and is_closed:
                noun = {"keys": "key", "tenants": "key of the tenant", "tiers": "key of the tier"}[section]
                hint = did_you_mean(name, known)
                reader.mistake(("limits", section, name), f"there is no {noun} {name}{hint}")
    for name in limits.get("upstreams", {}):
        if name != "*" and name not in upstreams:
            hint = did_you_mean(name, upstreams)
            reader.mistake(("limits", "upstreams", name), f"there is no upstream {name}{hint}")
    for i, key in enumerate(keys):
        if key and key.get("limits") is not None and key.get("name") in limits.get("keys", {}):
            reader.mistake(("keys", i, "limits"), "stands in limits.keys as well")
    _check_redis(limits, "limits", reader)
    for name in limits.get("models", {}):
        if name.count("*") > 1:
            reader.mistake(("limits", "models", name), "a pattern holds one * at most")


def _check_shared(upstream: Plain | None, path: Path, limits: Plain, reader: Reader) -> None:
    concurrency = (upstream or {}).get("concurrency") or {}
    departure = (upstream or {}).get("departure") or {}
    for name, section in (("concurrency", concurrency), ("departure", departure)):
        if section.get("shared") == "machines" and not limits.get("redis"):
            where = (*path, name, "shared")
            reader.mistake(where, "machines have a server in which they share: set limits.redis")


def _check_retry(retry: Plain, reader: Reader) -> None:
    first, longest = retry.get("first_delay", 0.5), retry.get("max_delay", 10.0)
    if first > longest:
        at = "first_delay" if "first_delay" in retry else "max_delay"
        reader.mistake(("retry", at), f"first_delay ({first:g} s) is longer than max_delay ({longest:g} s)")
