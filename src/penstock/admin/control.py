"""The control API: health, metrics, configuration and what is in flight, on a port of its own.

It runs in the supervisor.  ``/healthz``, ``/readyz`` and ``/metrics`` are open to whoever reaches the port;
``/v1/*`` asks for ``control_key`` where one is set.  What pages in a browser may not do says ``admin.pages``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from penstock import __version__
from penstock.admin import dashboard, docs_page
from penstock.admin.bodies import BodiesBounded
from penstock.admin.guest import GuestServer
from penstock.admin.key_routes import routes as _keys
from penstock.admin.ledger_routes import routes as _ledger
from penstock.admin.pages import PagesKeptOut
from penstock.cache.cache import EVERYTHING
from penstock.config.dump import dump
from penstock.metrics import CONTENT_TYPE, render
from penstock.wire.credentials import bearer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from penstock.admin.controlled import Controlled
    from penstock.admin.slot import Slot
    from penstock.flow.canary import Action


log = logging.getLogger("penstock.control")

PURGE_PATIENCE = 1.0  # seconds that the tiers below memory are given to take note of a purge
_LOOK_EVERY = 0.05
ANSWER_PATIENCE = 1.0  # seconds that a worker has to say what a request would come to
DECISION_PATIENCE = 10.0  # and for a decision, which another worker's write may hold up


class Health(BaseModel):
    status: str = "ok"
    version: str = __version__


class WorkerState(BaseModel):
    index: int
    pid: int | None
    state: str
    age: float | None
    restarts: int


class Readiness(BaseModel):
    """``reasons`` says why not, one line for each."""

    ready: bool
    reasons: list[str]
    workers: list[WorkerState]


class Generations(BaseModel):
    """What is in flight, over all workers; ``silent`` are workers that did not answer in time."""

    generations: list[dict[str, Any]]
    silent: list[int]


class Reloaded(BaseModel):
    """``mistakes`` is empty where the configuration was taken; ``needs_restart`` names what was not."""

    version: int
    mistakes: list[str]
    needs_restart: list[str]


class Purging(BaseModel):
    """What shall not answer any more; each member that is given stands for itself."""

    model_config = ConfigDict(extra="forbid")

    everything: bool = False
    tenant: str | None = None
    model: str | None = None
    version: str | None = None
    tag: str | None = None
    key: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class Purged(BaseModel):
    """``unheard``: tiers that have not taken note of it yet, and are told again until they have."""

    tags: list[str]
    keys: list[str]
    unheard: list[str] = []


class Notice(BaseModel):
    """``in``: seconds until the upstream is gone; without it nobody knows."""

    model_config = ConfigDict(extra="forbid")

    seconds: float | None = Field(None, alias="in", ge=0, le=86_400)


class UpstreamState(BaseModel):
    """``leaving``: it gets no new calls; ``gone_in``: seconds until it is gone, null where nobody knows."""

    name: str
    kind: str
    leaving: bool
    gone_in: float | None


class CallersRequest(BaseModel):
    """A request as a caller would make it; ``headers`` hold the caller's key, if there are keys."""

    model_config = ConfigDict(extra="forbid")

    path: str = "/v1/chat/completions"
    headers: dict[str, str] = Field(default_factory=dict)
    body: str


class Explanation(BaseModel):
    """What it would come to at one worker, now: ``outcome`` is one sentence, the rest is why."""

    worker: int
    explanation: dict[str, Any]


class Versions(BaseModel):
    """The new versions on trial; of each model what the worker says that knows the latest decision."""

    models: list[dict[str, Any]]
    silent: list[int]


class Decision(BaseModel):
    """``model``: its entry in the configuration; ``reason`` goes into the log."""

    model_config = ConfigDict(extra="forbid")

    model: str
    reason: str = "by hand"


class Promotion(Decision):
    """``wholly``: to all calls, not only to the next share."""

    wholly: bool = False


class CacheState(BaseModel):
    """The cache's tiers, worker by worker."""

    workers: list[dict[str, Any]]
    silent: list[int]


_bearer = HTTPBearer(auto_error=False, description="The control_key, where one is configured.")


def _is_key(gateway: Controlled, offered: str) -> bool:
    """Whether this is the control_key, or none is wanted.

    :param offered: of a header, a character for each byte
    """
    key = gateway.config.control_key
    return key is None or hmac.compare_digest(offered.encode("latin-1"), key.reveal().encode())


def make_app(gateway: Controlled) -> FastAPI:
    def authorized(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if not _is_key(gateway, given.credentials if given is not None else ""):
            raise HTTPException(401, "the control key is missing or wrong", {"www-authenticate": "Bearer"})

    app = FastAPI(
        title="Penstock control API", version=__version__, description=__doc__, docs_url=None, redoc_url=None
    )
    app.include_router(_health(gateway))
    for routes in (_state, _keys, _ledger, _versions, _upstreams, _cache):
        app.include_router(routes(gateway), dependencies=[Depends(authorized)])

    @app.get("/", include_in_schema=False)
    async def first_page() -> HTMLResponse:
        """What it comes to, for people."""
        return HTMLResponse(dashboard.page(), headers={"content-security-policy": dashboard.policy()})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """What there is, for people."""
        return HTMLResponse(docs_page.render(app.openapi()))

    @app.exception_handler(404)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        """A base URL may have the wrong one of the two ports: SDKs show what stands under ``error``."""
        if error.detail != HTTPStatus.NOT_FOUND.phrase:
            return JSONResponse({"detail": error.detail}, 404)
        message = f"there is no {request.url.path:.100} on the control port; calls go to {gateway.listen}"
        return JSONResponse(
            {
                "detail": message,
                "error": {"message": message, "type": "not_found_error", "code": "not_found"},
            },
            404,
        )

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> JSONResponse:
        """Without what was sent, which may be large, or hold a caller's key."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if (
            request.method == "POST"
            and kind != "application/json"
            and any(each["loc"] == ("body",) for each in error.errors())
        ):
            return JSONResponse({"detail": "the body must be JSON, with Content-Type: application/json"}, 415)
        return JSONResponse(
            {"detail": [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]},
            422,
        )

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return JSONResponse({"detail": f"{type(error).__name__} in the control API; the log has it"}, 500)

    return app


def _health(gateway: Controlled) -> APIRouter:
    """Open to whoever reaches the port."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """The process lives."""
        return Health()

    @router.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        """200 once every worker takes calls, and as long as one does and the gateway is not ending; else 503.

        `reasons` says what is not as it should be, also with 200.
        """
        ready, reasons = gateway.readiness()
        response.status_code = 200 if ready else 503
        return Readiness(
            ready=ready,
            reasons=reasons,
            workers=[
                WorkerState(
                    index=slot.index,
                    pid=slot.process.pid if slot.process is not None else None,
                    state=slot.state,
                    age=round(slot.process.age, 3) if slot.process is not None else None,
                    restarts=slot.restarts,
                )
                for slot in gateway.slots
            ],
        )

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """All workers' figures added up, in Prometheus' text format."""
        return Response(render(await gateway.metrics()), media_type=CONTENT_TYPE)

    return router


def _state(gateway: Controlled) -> APIRouter:
    """What there is, what is under way, and how a request would fare."""
    router = APIRouter(tags=["state"])

    @router.get("/v1/config")
    async def config() -> dict[str, Any]:
        """The configuration in use, secrets redacted."""
        return {"version": gateway.version, "config": dump(gateway.config)}

    @router.get("/v1/workers")
    async def workers() -> list[dict[str, Any]]:
        """What every worker says of itself: memory, connections, pools, loop lag."""
        return [
            {
                "index": slot.index,
                "pid": slot.process.pid if slot.process is not None else None,
                "state": slot.state,
                **{
                    key: value
                    for key, value in (state or {}).items()
                    if key not in ("metrics", "generations", "ledger", "versions")
                },
            }
            for slot, state in await gateway.states()
        ]

    @router.get("/v1/generations")
    async def generations() -> Generations:
        """What is in flight, over all workers."""
        states = await gateway.states()
        return Generations(
            generations=[
                {"worker": slot.index, **generation}
                for slot, state in states
                if state is not None
                for generation in state.get("generations", [])
            ],
            silent=[slot.index for slot, state in states if state is None],
        )

    @router.post("/v1/explain")
    async def explain(asked: CallersRequest) -> Explanation:
        """What a request would come to at the present load, and why; nothing is asked, taken or counted.

        503 where no worker answers.
        """
        found = await gateway.first(
            lambda worker: worker.explain(asked.path, asked.headers, asked.body, ANSWER_PATIENCE)
        )
        if found is None:
            raise HTTPException(503, "no worker answers")
        return Explanation(worker=found[0], explanation=found[1])

    @router.post("/v1/reload", responses={422: {"model": Reloaded}})
    async def reload(response: Response) -> Reloaded:
        """Read the configuration again; 422 where it is wrong, and the old one stays."""
        outcome = await gateway.reload()
        if outcome.mistakes:
            response.status_code = 422
        return Reloaded(
            version=outcome.version,
            mistakes=list(outcome.mistakes),
            needs_restart=list(outcome.needs_restart),
        )

    return router


def _versions(gateway: Controlled) -> APIRouter:
    """New versions on trial."""
    router = APIRouter(tags=["versions"])

    @router.get("/v1/versions")
    async def versions() -> Versions:
        """How far the trials of new versions have come, what was measured, and what each worker gives them."""
        states = await gateway.states()
        found: dict[str, dict[str, Any]] = {}
        shares: dict[str, list[dict[str, Any]]] = {}
        for slot, state in states:
            for told in (state or {}).get("versions", []):
                shares.setdefault(told["model"], []).append({"worker": slot.index, "share": told["share"]})
                known = found.get(told["model"])
                if known is None or told["stamp"] > known["stamp"]:
                    found[told["model"]] = told
        return Versions(
            models=[{**told, "workers": shares[name]} for name, told in found.items()],
            silent=[slot.index for slot, state in states if state is None],
        )

    @router.post("/v1/versions/promote")
    async def promote(what: Promotion) -> dict[str, Any]:
        """Give the new version of a model the next of its shares, or all calls.

        404 where the model has no canary, 503 where that cannot be written down, 507 where the disk is full.
        """
        return await decide(what, "promote", wholly=what.wholly)

    @router.post("/v1/versions/rollback")
    async def rollback(what: Decision) -> dict[str, Any]:
        """Give the new version no calls any more.  Errors as above."""
        return await decide(what, "rollback")

    @router.post("/v1/versions/restart")
    async def restart(what: Decision) -> dict[str, Any]:
        """Begin the trial again with its first share, and count anew.  Errors as above."""
        return await decide(what, "restart")

    async def decide(what: Decision, action: Action, *, wholly: bool = False) -> dict[str, Any]:
        found = await gateway.first(
            lambda worker: worker.decide(what.model, action, what.reason, DECISION_PATIENCE, wholly=wholly)
        )
        if found is None:
            raise HTTPException(503, "no worker answers")
        told: dict[str, Any] = found[1]
        if "detail" in told:
            raise HTTPException(told["status"], told["detail"])
        return told

    return router


def _upstreams(gateway: Controlled) -> APIRouter:
    """Who is asked, and who goes away."""
    router = APIRouter(tags=["upstreams"])

    def upstream_state(name: str) -> UpstreamState:
        config = gateway.config.upstreams.get(name)
        if config is None:
            raise HTTPException(404, f"there is no upstream {name!r}")
        departures = gateway.departures
        return UpstreamState(
            name=name, kind=config.kind, leaving=name in departures, gone_in=departures.left(name)
        )

    @router.get("/v1/upstreams")
    async def upstreams() -> list[UpstreamState]:
        """Who is asked, and who is going away."""
        return [upstream_state(name) for name in gateway.config.upstreams]

    @router.post("/v1/upstreams/{name}/drain")
    async def drain(name: str, notice: Notice) -> UpstreamState:
        """The upstream is going away: it gets no new calls, and shortly before it goes its answers go on elsewhere.

        All workers are told, also those that start later.  404 where there is no such upstream.
        """
        upstream_state(name)
        gateway.departures.announce(name, notice.seconds)
        return upstream_state(name)

    @router.delete("/v1/upstreams/{name}/drain")
    async def stay(name: str) -> UpstreamState:
        """It stays after all, or is back."""
        gateway.departures.take_back(name)
        return upstream_state(name)

    return router


def _cache(gateway: Controlled) -> APIRouter:
    """Kept answers."""
    router = APIRouter(tags=["cache"])

    @router.get("/v1/cache")
    async def cache() -> CacheState:
        """Hits, sizes and troubles of the cache's tiers, by worker."""
        states = await gateway.states()
        return CacheState(
            workers=[
                {"worker": slot.index, "tiers": state.get("cache", [])}
                for slot, state in states
                if state is not None
            ],
            silent=[slot.index for slot, state in states if state is None],
        )

    @router.post("/v1/cache/purge")
    async def purge(what: Purging) -> Purged:
        """Kept answers of a tenant, a model, a version, a tag, of one key, or all, answer no more.

        It takes no longer for many than for one.  Gateways on other machines that share the Redis learn of it within
        seconds; where that cannot be reached now, ``unheard`` in the answer names it, and it is told as soon as it is
        back.  422 where nothing is named.
        """
        named = {"tenant": what.tenant, "model": what.model, "version": what.version, "tag": what.tag}
        tags = [f"{kind}:{name}" for kind, name in named.items() if name is not None]
        if what.everything:
            tags.append(EVERYTHING)
        keys = [what.key] if what.key is not None else []
        if not tags and not keys:
            raise HTTPException(422, "name what to purge: everything, tenant, model, version, tag or key")
        gateway.purge(tuple(tags), tuple(keys))
        loop = asyncio.get_running_loop()
        until = loop.time() + PURGE_PATIENCE
        # Each worker answers in turn: it has read the order before.
        unheard = _unheard(await gateway.states())
        while unheard and loop.time() < until:
            await asyncio.sleep(_LOOK_EVERY)
            unheard = _unheard(await gateway.states())
        if unheard:
            log.warning(
                "%s has not noted a purge yet: who shares it may still answer with what was purged; it is told again",
                " and ".join(unheard),
            )
        return Purged(tags=tags, keys=keys, unheard=unheard)

    return router


def _unheard(states: Iterable[tuple[Slot, dict[str, Any] | None]]) -> list[str]:
    """The cache's tiers that have not noted every purge that some worker knows of."""
    tiers = (tier for _, state in states if state is not None for tier in state.get("cache", []))
    return sorted({tier["name"] for tier in tiers if tier["unheard"]})


def make_server(gateway: Controlled) -> GuestServer:
    def is_let_in(authorization: bytes) -> bool:
        return _is_key(gateway, bearer(authorization).decode("latin-1"))

    bounded = BodiesBounded(
        make_app(gateway),
        is_let_in,
        lambda: gateway.config.listener.max_body_bytes,
        lambda: str(gateway.listen),
    )
    return GuestServer(
        uvicorn.Config(
            PagesKeptOut(bounded, lambda: gateway.config.control_key is not None),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
