"""The control API's keys: made, shown and taken out while the gateway runs, in the configuration's ``keys_file``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from penstock.config.expiry import said
from penstock.config.key_file import KeyNameTaken, add_key, fault, read_keys, remove_key
from penstock.config.keys import hash_key, new_key
from penstock.config.model import KeyConfig, LimitConfig
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.admin.controlled import Controlled


class WantedKey(BaseModel):
    """``limits`` has the members of an entry of ``limits.keys``; ``expires``: so far ahead (``12h``, ``30d``), a date, or a
    time with its zone.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=256)
    tenant: str = Field("default", min_length=1, max_length=256)
    tier: str = "standard"
    models: list[str] = []
    limits: dict[str, float | None] | None = None
    expires: str = ""


class KnownKey(BaseModel):
    """``expires``: from when on it is refused; empty: never.  ``removable``: it is in the ``keys_file``, and not in the
    configuration itself.
    """

    name: str
    tenant: str
    tier: str
    models: list[str]
    limits: dict[str, Any] | None
    expires: str
    removable: bool


class MadeKey(KnownKey):
    """``key`` is shown this once."""

    key: str


def routes(gateway: Controlled) -> APIRouter:
    """Callers' keys."""
    router = APIRouter(tags=["keys"])
    changing = asyncio.Lock()

    def file() -> str:
        path = gateway.config.keys_file
        if not path:
            raise HTTPException(409, "the configuration names no keys_file in which keys could come and go")
        if gateway.config.control_key is None:
            raise HTTPException(403, "keys are made and taken out by who has the control_key: set one")
        return path

    async def names_in(path: str) -> set[str]:
        try:
            return {key.name for key in await asyncio.to_thread(read_keys, path)}
        except ConfigError as error:
            raise HTTPException(500, "; ".join(error.mistakes) or error.message) from error

    @router.get("/v1/keys")
    async def keys() -> list[KnownKey]:
        """Who may call, without the keys and their hashes."""
        path = gateway.config.keys_file
        in_file = await names_in(path) if path else set()
        return [_known(key, key.name in in_file) for key in gateway.config.keys]

    @router.post("/v1/keys", status_code=201)
    async def make(wanted: WantedKey) -> MadeKey:
        """Make a key, which every worker knows when this is answered; the key itself is in this answer alone.

        403 where the port has no ``control_key``, 409 where there is one of this name, or no ``keys_file``, 422 where the
        tier, a limit or ``expires`` is none, 500 where the file is gone or cannot be used.
        """
        path, made = file(), new_key()
        try:
            limits = None if wanted.limits is None else _limits(wanted.limits)
        except msgspec.ValidationError as error:
            raise HTTPException(422, f"limits: {error}") from error
        try:
            expires = said(wanted.expires, time.time()) if wanted.expires else ""
        except ValueError as error:
            raise HTTPException(422, f"expires: {error}") from error
        key = KeyConfig(
            name=wanted.name,
            hash=hash_key(made),
            tenant=wanted.tenant,
            tier=wanted.tier,
            models=wanted.models,
            limits=limits,
            expires=expires,
        )
        async with changing:
            config = gateway.config
            if key.name in {each.name for each in config.keys}:
                raise HTTPException(409, f"there is a key {key.name!r} already")
            if wrong := fault(key, config.tiers, config.limits.keys):
                raise HTTPException(422, wrong)
            await names_in(path)  # a file that is gone would begin anew here, without the keys that count yet
            try:
                await asyncio.to_thread(add_key, path, key)
            except KeyNameTaken as error:
                raise HTTPException(409, error.message) from error
            except ConfigError as error:
                raise HTTPException(500, error.message) from error
            outcome = await gateway.reload()
            if outcome.mistakes:
                await asyncio.to_thread(remove_key, path, key.name)
                raise HTTPException(409, f"the configuration cannot be loaded: {outcome.mistakes[0]}")
        return MadeKey(**_known(key, removable=True).model_dump(), key=made)

    @router.delete("/v1/keys/{name:path}", status_code=204)
    async def remove(name: str) -> None:
        """Take a key out: no call with it begins any more when this is answered.

        404 where the ``keys_file`` has none of this name; 403, 409 and 500 as above.
        """
        path = file()
        async with changing:
            await names_in(path)
            try:
                was_there = await asyncio.to_thread(remove_key, path, name)
            except ConfigError as error:
                raise HTTPException(500, error.message) from error
            if not was_there:
                raise HTTPException(404, f"there is no key {name!r} in the keys_file")
            outcome = await gateway.reload()
            if outcome.mistakes:
                raise HTTPException(500, f"it is out of the file, but counts yet: {outcome.mistakes[0]}")

    return router


def _limits(given: dict[str, float | None]) -> LimitConfig:
    """:raises msgspec.ValidationError: a member is none of a limit's, or no number that it can be"""
    whole = {
        name: int(value) if value is not None and value.is_integer() and not name.startswith("usd") else value
        for name, value in given.items()
    }
    return msgspec.convert(whole, LimitConfig)


def _known(key: KeyConfig, removable: bool) -> KnownKey:
    limits = None if key.limits is None else msgspec.to_builtins(key.limits)
    return KnownKey(
        name=key.name,
        tenant=key.tenant,
        tier=key.tier,
        models=key.models,
        limits=limits and {name: value for name, value in limits.items() if value is not None},
        expires=key.expires,
        removable=removable,
    )
