"""The clients that SDKs are given, for either of the two libraries that SDKs are built on."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from msgspec import structs

from penstock.client import _prompts
from penstock.client.options import ATTEMPTS, CacheOptions, Options
from penstock.client.statistics import Notice
from penstock.config.model import RetryConfig
from penstock.installing import install_command

if TYPE_CHECKING:
    from penstock.client import _async_httpx, _async_httpx2, _sync_httpx, _sync_httpx2
    from penstock.client._ahead import Question

SDK_TIMEOUT = 600.0  # seconds; the SDKs' own default, which a client that is passed to them replaces
SDK_CONNECT_TIMEOUT = 5.0
MOST_CONNECTIONS = 1_000
MOST_IDLE = 100
_RETRY = {
    "attempts": "attempts",
    "first_delay": "first_delay",
    "max_delay": "max_delay",
    "retry_budget": "budget_ratio",
}
IDLE_SECONDS = 50.0  # that a connection is kept for the next call; a gateway keeps it for 75


@overload
def http_client(
    *,
    library: Literal["httpx2"] = "httpx2",
    gateways: Sequence[str] = ...,
    attempts: int = ...,
    first_delay: float = ...,
    max_delay: float = ...,
    retry_budget: float = ...,
    deadline: float | None = ...,
    resume_for: float = ...,
    stall_timeout: float | None = ...,
    attempt_timeout: float | None = ...,
    rerun: bool = ...,
    upload_above: int = ...,
    dictionary_bytes: int = ...,
    cache: CacheOptions | None = ...,
    prompts: Mapping[str, Mapping[str, object]] = ...,
    on_notice: Callable[[Notice], None] | None = ...,
    http2: bool = ...,
    **settings: Any,
) -> _sync_httpx2.Client: ...
@overload
def http_client(*, library: Literal["httpx"], **settings: Any) -> _sync_httpx.Client: ...
def http_client(*, library: Literal["httpx2", "httpx"] = "httpx2", **settings: Any) -> Any:
    """An ``httpx2.Client`` (or ``httpx.Client``) for an SDK: ``OpenAI(http_client=penstock.http_client())``.

    :param library: the one that the SDK is built on: ``httpx`` for openai below 3 and anthropic below 1
    :param gateways: URLs of gateways that serve the same, the preferred one first: a call to any of them is
        sent to the first that is well.  Not needed where there is one: it is recognised by its answers
    :param attempts: of one call, at most (6).  A call's own header ``Penstock-Attempts`` goes before.  In any case
        none begins when the request's own timeout is over: that of all attempts together
    :param first_delay: seconds before the first retry at most (0.5); the limit doubles with each, and each delay
        is random below it
    :param max_delay: the limit grows no further (10)
    :param retry_budget: retries per call, over all calls (0.1; ten retries in ten seconds are free).
        What is sent again to a gateway because a connection broke costs it nothing, and is not counted
    :param deadline: seconds after which an answer is of no use any more, told to the gateway: its first byte, if it
        is a stream, else all of it.  A call's own header ``Penstock-Deadline`` goes before
    :param resume_for: seconds without progress after which a broken stream is given up (30)
    :param stall_timeout: seconds of silence after which a gateway's stream counts as broken; if not given: 5, twice as
        many after each time, 40 at most, of a gateway that shows signs of life every 2 seconds when asked to
    :param attempt_timeout: seconds of silence after which a gateway is asked again, under the same key, while the
        request's own timeout still runs; it is asked once in that time, if not given
    :param rerun: whether a stream whose log is lost may be made once more, if the call asks for one answer
        rather than any; it goes on only if it comes out the same
    :param upload_above: bytes of a body from which on a gateway is sent it so that a break does not cost all of
        it (1,000,000)
    :param dictionary_bytes: bodies remembered for each gateway that remembers them too, so that the next one is
        sent as what is new in it (16 MiB); 0: none
    :param cache: answers to keep on this side; none, if not given
    :param prompts: what is left out of prompts before they are sent, by the model's name or a pattern with ``*``, in the
        words of the gateway's ``prompt``: ``{"gpt-*": {"whitespace": True, "duplicates": True, "history_tokens": 8000}}``.
        None is changed, if not given
    :param on_notice: is told what happens to calls
    :param http2: speak HTTP/2 where the server does; wants the package ``h2``
    :param settings: ``verify``, ``cert``, ``limits``, ``proxy``, ``trust_env``, ``transport`` (what the requests are
        sent through), and all that the library's ``Client`` takes besides, such as ``timeout`` and ``headers``
    :raises ValueError: a gateway's URL is none, or ``prompts`` has what there is not
    :raises ImportError: the library is not installed: it comes with the extra ``client``
    """
    return _made(f"_sync_{library}", library, settings)


@overload
def async_http_client(
    *,
    library: Literal["httpx2"] = "httpx2",
    gateways: Sequence[str] = ...,
    attempts: int = ...,
    first_delay: float = ...,
    max_delay: float = ...,
    retry_budget: float = ...,
    deadline: float | None = ...,
    resume_for: float = ...,
    stall_timeout: float | None = ...,
    attempt_timeout: float | None = ...,
    rerun: bool = ...,
    upload_above: int = ...,
    dictionary_bytes: int = ...,
    cache: CacheOptions | None = ...,
    prompts: Mapping[str, Mapping[str, object]] = ...,
    on_notice: Callable[[Notice], None] | None = ...,
    http2: bool = ...,
    **settings: Any,
) -> _async_httpx2.AsyncClient: ...
@overload
def async_http_client(*, library: Literal["httpx"], **settings: Any) -> _async_httpx.AsyncClient: ...
def async_http_client(*, library: Literal["httpx2", "httpx"] = "httpx2", **settings: Any) -> Any:
    """As :func:`http_client`, for SDKs' asynchronous clients: ``AsyncOpenAI(http_client=…)``."""
    return _made(f"_async_{library}", library, settings)


def _made(module: str, library: str, settings: dict[str, Any]) -> Any:
    if library not in ("httpx2", "httpx"):
        raise ValueError(f"library must be httpx2 or httpx, not {library!r}")
    try:
        made = importlib.import_module(f"penstock.client.{module}")
        hx = importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name not in ("anyio", "httpx", "httpx2"):
            raise
        remedy = "pip install httpx anyio" if library == "httpx" else install_command("client")
        raise ImportError(f"the client needs {error.name}: {remedy}", name=error.name) from error
    retried = {_RETRY[name]: settings.pop(name) for name in _RETRY if name in settings}
    retry = RetryConfig(**{"attempts": ATTEMPTS, **retried})
    told = {name: settings.pop(name) for name in Options.__struct_fields__ if name in settings}
    told["gateways"] = tuple(told.get("gateways", ()))
    told["prompts"] = _prompts.read_rules(told.get("prompts", {}))
    options = Options(retry=retry, **told)
    settings.setdefault("timeout", hx.Timeout(SDK_TIMEOUT, connect=SDK_CONNECT_TIMEOUT))
    settings.setdefault("follow_redirects", True)
    limits = settings.pop("limits", None) or hx.Limits(
        max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_IDLE, keepalive_expiry=IDLE_SECONDS
    )
    from penstock.client._ahead import Ahead  # noqa: PLC0415 - as above, what is not used is not loaded
    from penstock.client._kept import Kept  # noqa: PLC0415

    kept = Kept(options.cache) if options.cache is not None else None
    inner = settings.pop("transport", None)
    how = {
        "verify": settings.pop("verify", True),
        "cert": settings.pop("cert", None),
        "http2": settings.pop("http2", False),
        "limits": limits,
        "proxy": settings.pop("proxy", None),
        "trust_env": settings.pop("trust_env", True),
        "inner": inner,
    }
    client = made.make(options, kept, **how, **settings)
    if kept is not None and kept.options.neighbours:
        if inner is not None:
            raise ValueError("neighbours cannot be asked through a transport of your own")
        beside = importlib.import_module(f"penstock.client._sync_{library}")
        ahead = beside.make(structs.replace(options, on_notice=None), kept.borrowed(), **how)
        counters = client.counters
        kept.ahead = Ahead(
            kept.options, partial(_ask, ahead), lambda: counters.add(asked_ahead=1), ahead.close
        )
    return client


def _ask(client: Any, question: Question) -> None:
    """Ask, and read the answer to its end, as only then it is kept."""
    with client.stream(
        "POST", question.url, headers=question.headers, content=question.body, timeout=SDK_TIMEOUT
    ) as response:
        for _ in response.iter_raw():
            pass
