"""Credentials that do not last: tokens of clouds, and requests that are signed.

Where a key is a line of the configuration, it is a part of every request's head from the beginning.  A token has to
be fetched anew every hour, and a signature belongs to one request.  :class:`Credentials` says, for a request that is
about to be sent, which header lines make it good; if they have to be fetched first, it says that, too.

Fetching is done by the clouds' own libraries (extras ``aws``, ``google``, ``entra``), by a command, or from a file;
all of that may wait for a network or a disk, so it happens in a thread.  It happens before the old ones have run out,
so that no call waits but the first.  Who fetches is one; whoever needs the result meanwhile waits for the same.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from penstock.config.model import CredentialsConfig, UpstreamConfig
from penstock.errors import ConfigError, UpstreamFailed
from penstock.installing import install_command
from penstock.net import tasks
from penstock.net.origin import Origin

log = logging.getLogger("penstock.upstream")

PATIENCE = 30.0  # seconds that fetching may take
PAUSE = 1.0  # seconds after a failure, in which nobody tries again
_EARLY = 300.0  # seconds before its end from which on a token is fetched anew; at most a fifth of its life
_AWS_LIFE = 60.0  # seconds after which botocore is asked again; when keys end is its own business
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"
_MAX_TOKEN = 65_536  # bytes

_T = TypeVar("_T")


class Credentials(Protocol):
    """Makes requests good."""

    def lines(self, method: str, target: bytes, body: bytes) -> bytes | None:
        """The header lines for this request, each with its end; None: they have to be renewed first."""

    async def renew(self) -> None:
        """Fetch.

        :raises penstock.errors.UpstreamFailed: there are none to be had; whoever tells the caller says no more
        """

    def refused(self) -> None:
        """The upstream did not accept them: the next request shall have new ones."""


class Fetched(msgspec.Struct, Generic[_T], frozen=True):
    """What a source gave, and for how many seconds it is good."""

    value: _T
    life: float


class _Renewed(Generic[_T]):
    """Something that ends, and is fetched anew before."""

    def __init__(self, upstream: str, fetch: Callable[[], Fetched[_T]], now: Callable[[], float]) -> None:
        self._upstream = upstream
        self._fetch = fetch
        self._now = now
        self._value: _T | None = None
        self._fetched_at = self._renew_at = self._ends_at = -math.inf
        self._failed_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<what {self._upstream} wants, {self._ends_at - self._now():.0f} s left>"

    def value(self) -> _T | None:
        """What is good now; None: nothing is."""
        now = self._now()
        if now >= self._ends_at:
            return None
        if now >= self._renew_at and self._fetching is None and not self._resting(now):
            self._begin()
        return self._value

    async def renew(self) -> None:
        """Fetch, or wait for whoever does."""
        if self._fetching is None:
            if self._resting(self._now()):
                raise self._told()
            self._begin()
        fetching = self._fetching
        assert fetching is not None
        await tasks.own_task()
        await asyncio.wait([fetching])  # whoever stops waiting must not cancel it for the others
        if self._now() >= self._ends_at:
            raise self._told()

    def refused(self) -> None:
        # Else it is no old one, and a new one would fare no better.
        if self._now() - self._fetched_at > PATIENCE:
            self._ends_at = 0.0

    def _resting(self, now: float) -> bool:
        return now - self._failed_at < PAUSE

    def _begin(self) -> None:
        self._fetching = asyncio.get_running_loop().create_task(self._go())

    async def _go(self) -> None:
        began = self._now()
        try:
            async with asyncio.timeout(PATIENCE):
                fetched = await asyncio.to_thread(self._fetch)
        except Exception as error:  # noqa: BLE001 - libraries and networks raise what they like
            self._failed_at = self._now()
            words = "not within the time" if isinstance(error, TimeoutError) else str(error)[:500]
            log.warning(
                "no credentials for %s could be fetched: %s: %s", self._upstream, type(error).__name__, words
            )
        else:
            self._failed_at = -math.inf
            self._value = fetched.value
            self._fetched_at = began
            self._ends_at = began + fetched.life
            self._renew_at = self._ends_at - min(_EARLY, fetched.life / 5)
        finally:
            self._fetching = None

    def _told(self) -> UpstreamFailed:
        """Never why to the caller: that may name accounts and files of ours."""
        return UpstreamFailed(
            f"{self._upstream}: the gateway has no credentials for it just now",
            status=502,
            code="upstream_authentication",
            upstream=self._upstream,
        )


class BearerToken:
    """A token that whoever has it may use, in ``Authorization``."""

    def __init__(self, upstream: str, fetch: Callable[[], Fetched[str]], now: Callable[[], float]) -> None:
        self._token = _Renewed(upstream, fetch, now)

    def __repr__(self) -> str:
        return f"<BearerToken {self._token!r}>"

    def lines(self, method: str, target: bytes, body: bytes) -> bytes | None:  # noqa: ARG002 - as others need
        token = self._token.value()
        return None if token is None else b"authorization: Bearer " + token.encode() + b"\r\n"

    async def renew(self) -> None:
        await self._token.renew()

    def refused(self) -> None:
        self._token.refused()


class AWSSignature:
    """Signature Version 4, by botocore, over method, path, host, time and body.

    :param service: the name of the service in the signature
    :raises penstock.errors.ConfigError: the extra is not installed, or no region is known
    """

    def __init__(
        self, upstream: str, config: CredentialsConfig, origin: Origin, now: Callable[[], float]
    ) -> None:
        try:
            from botocore.auth import SigV4Auth  # noqa: PLC0415 - an extra
            from botocore.awsrequest import AWSRequest  # noqa: PLC0415
            from botocore.session import Session  # noqa: PLC0415
        except ModuleNotFoundError:
            raise _lacking(upstream, "aws") from None
        self._session = Session(profile=config.profile or None)
        if config.access_key and config.secret_key is not None:
            self._session.set_credentials(config.access_key, config.secret_key.reveal())
        self._service = config.service or "bedrock"
        self._region = config.region or _region_in(origin.host)
        if not self._region:
            raise ConfigError(
                f"upstreams.{upstream}.credentials.region: {origin.host} does not tell in which region it is"
            )
        self._request = AWSRequest
        self._signer = SigV4Auth
        self._origin = f"{origin.scheme}://{origin.authority}"
        self._keys = _Renewed(upstream, self._fetch, now)

    def __repr__(self) -> str:
        return f"<AWSSignature {self._service} {self._region} {self._keys!r}>"

    def _fetch(self) -> Fetched[Any]:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise LookupError("neither the environment, nor a profile, nor the machine's role has AWS keys")
        return Fetched(credentials.get_frozen_credentials(), _AWS_LIFE)

    def lines(self, method: str, target: bytes, body: bytes) -> bytes | None:
        keys = self._keys.value()
        if keys is None:
            return None
        request = self._request(method=method, url=self._origin + target.decode(), data=body)
        self._signer(keys, self._service, self._region).add_auth(request)
        return b"".join(
            b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in request.headers.items()
        )

    async def renew(self) -> None:
        await self._keys.renew()

    def refused(self) -> None:
        self._keys.refused()


def credentials(
    upstream: str, config: UpstreamConfig, origin: Origin, now: Callable[[], float]
) -> Credentials | None:
    """What this upstream's requests need besides what is in the configuration; None: nothing.

    :raises penstock.errors.ConfigError: an extra is not installed, or something that it needs is missing
    """
    wanted = config.credentials
    if wanted is None:
        return None
    if wanted.source == "aws":
        return AWSSignature(upstream, wanted, origin, now)
    return BearerToken(upstream, _source(upstream, wanted), now)


def _source(upstream: str, wanted: CredentialsConfig) -> Callable[[], Fetched[str]]:
    if wanted.source == "command":
        return lambda: Fetched(_printed(wanted.command), wanted.every)
    if wanted.source == "file":
        path = Path(wanted.file)
        return lambda: Fetched(_token(path.read_bytes()[: _MAX_TOKEN + 1]), wanted.every)
    if wanted.source == "google":
        return _google(upstream, wanted)
    return _entra(upstream, wanted)


def _printed(command: list[str]) -> str:
    """What a command prints on its standard output."""
    done = subprocess.run(  # noqa: S603 - the operator's own command
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise LookupError(f"{command[0]} ended with status {done.returncode}: {words}")
    return _token(done.stdout)


def _token(text: bytes) -> str:
    """:raises LookupError: that is no token"""
    token = text.strip()
    if not token or len(token) > _MAX_TOKEN or any(not 33 <= byte <= 126 for byte in token):
        raise LookupError("what came is no token: one word of visible ASCII")
    return token.decode()


def _google(upstream: str, wanted: CredentialsConfig) -> Callable[[], Fetched[str]]:
    """Those of a file, or Application Default Credentials: the environment's, the CLI's, the machine's."""
    try:
        import google.auth  # noqa: PLC0415 - an extra
        from google.auth.transport.requests import Request  # noqa: PLC0415
    except ModuleNotFoundError:
        raise _lacking(upstream, "google") from None
    scopes = [wanted.scope or _GOOGLE_SCOPE]
    found: list[Any] = []

    def fetch() -> Fetched[str]:
        if not found:
            found.append(
                _of_file(wanted.file, scopes) if wanted.file else google.auth.default(scopes=scopes)[0]
            )
        [made] = found
        made.refresh(Request())
        # Its time is UTC, and says so nowhere.
        life = (made.expiry.replace(tzinfo=dt.UTC).timestamp() - time.time()) if made.expiry else wanted.every
        return Fetched(_token(str(made.token).encode()), life)

    return fetch


def _of_file(path: str, scopes: list[str]) -> Any:
    """Google's credentials, each kind by its own loader, as its library wants it."""
    from google.auth import identity_pool  # noqa: PLC0415 - an extra
    from google.oauth2 import credentials as user  # noqa: PLC0415
    from google.oauth2 import service_account  # noqa: PLC0415

    loaders: dict[str, Any] = {
        "service_account": service_account.Credentials.from_service_account_info,
        "external_account": identity_pool.Credentials.from_info,
        "authorized_user": user.Credentials.from_authorized_user_info,
    }
    info = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    kind = str(info.get("type"))
    if kind not in loaders:
        raise LookupError(f"{path} is of type {kind!r}, and none of {', '.join(loaders)}")
    return loaders[kind](info, scopes=scopes)


def _entra(upstream: str, wanted: CredentialsConfig) -> Callable[[], Fetched[str]]:
    """Whatever identity Azure's library finds: the machine's, the workload's, the environment's, the CLI's."""
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise _lacking(upstream, "entra") from None
    identity = DefaultAzureCredential()

    def fetch() -> Fetched[str]:
        got = identity.get_token(wanted.scope or _ENTRA_SCOPE)
        return Fetched(_token(got.token.encode()), got.expires_on - time.time())

    return fetch


def _lacking(upstream: str, extra: str) -> ConfigError:
    return ConfigError(f"the upstream {upstream!r} needs the extra {extra!r}: {install_command(extra)}")


def _region_in(host: str) -> str:
    """``us-west-2`` in ``bedrock-runtime.us-west-2.amazonaws.com``."""
    labels = host.split(".")
    return (
        labels[1]
        if len(labels) > 2 and host.endswith((".amazonaws.com", ".api.aws", ".amazonaws.com.cn"))
        else ""
    )


async def with_credentials(permits: Credentials, head: bytes, body: bytes) -> bytes:
    """The head of a request, and what makes it good at its end.

    :raises penstock.errors.UpstreamFailed: there are no credentials to be had
    """
    method, target, _ = head.split(b" ", 2)
    lines = permits.lines(method.decode(), target, body)
    if lines is None:
        await permits.renew()
        lines = permits.lines(method.decode(), target, body) or b""
    return head[:-2] + lines + b"\r\n"
