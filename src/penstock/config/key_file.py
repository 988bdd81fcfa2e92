"""Keys that come and go while the gateway runs: a file beside the configuration, one JSON object a line.

A line has the members of an entry of ``keys``.  The command line and the control API change the file, and so may
anybody else; a running gateway takes what it finds, all of it or, where something is wrong, nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from penstock.config.expiry import ends_at
from penstock.config.keys import HASH
from penstock.config.model import Config, KeyConfig, LimitConfig
from penstock.config.patterns import CONTROL
from penstock.errors import ConfigError

MAX_BYTES = 67_108_864


class KeyNameTaken(ConfigError):
    """A key of this name is there already."""


def read_keys(path: str | os.PathLike[str]) -> list[KeyConfig]:
    """The keys of a file, in its order.

    :raises ConfigError: it cannot be read or used; ``mistakes`` has one line for each fault
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _refused(
            name, ["is not there; it may be empty, and `penstock key new --file` makes it"]
        ) from None
    except OSError as error:
        raise _refused(name, [f"cannot be read: {error.strerror}"]) from error
    if len(data) > MAX_BYTES:
        raise _refused(name, [f"is larger than {MAX_BYTES} bytes"])
    decoder = msgspec.json.Decoder(KeyConfig)
    keys, faults = [], []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            keys.append(decoder.decode(line))
        except msgspec.ValidationError as error:
            # Its text names members and types, never what a member holds.
            faults.append(f"line {number}: {error}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            faults.append(
                f"line {number}: is not one key in JSON, as `penstock key new --file` writes it: {error}"
            )
    if faults:
        raise _refused(name, faults)
    return keys


def with_more(config: Config) -> Config:
    """The configuration with the keys of its ``keys_file``, and with each key's own limits among the limits.

    :raises ConfigError: the file cannot be used, or does not fit the rest
    """
    keys = config.keys
    if config.keys_file:
        more = read_keys(config.keys_file)
        if faults := _faults(more, config):
            raise _refused(config.keys_file, faults)
        keys = [*keys, *more]
    own = {key.name: key.limits for key in keys if key.limits is not None}
    limits = msgspec.structs.replace(config.limits, keys={**config.limits.keys, **own})
    return msgspec.structs.replace(config, keys=keys, limits=limits if own else config.limits)


def _faults(more: Sequence[KeyConfig], config: Config) -> list[str]:
    names = {key.name for key in config.keys}
    hashes = {key.hash for key in config.keys}
    faults = []
    for key in more:
        if faults_of_one := fault(key, config.tiers, config.limits.keys):
            faults.append(faults_of_one)
        if key.name in names:
            faults.append(f"{key.name!r} is the name of two keys")
        elif key.hash in hashes:
            faults.append(f"{key.name!r} has the hash of another key")
        names.add(key.name)
        hashes.add(key.hash)
    return faults


def fault(key: KeyConfig, tiers: Collection[str], limits: Collection[str]) -> str:
    """What is wrong with a key, by itself and beside the tiers and ``limits.keys`` of the configuration; or nothing."""
    if not key.name:
        return "a key has no name"
    for said, text in (("the name", key.name), ("the tenant", key.tenant), ("the tier", key.tier)):
        if CONTROL.search(text):
            return f"{said} of {key.name!r} has a line end or another control character in it"
    if not HASH.match(key.hash):
        return f"the hash of {key.name!r} is not 'sha256:' and 64 hexadecimal digits in lower case"
    if tiers and key.tier not in tiers:
        return f"{key.name!r} is of the tier {key.tier!r}, which is none of tiers"
    try:
        ends_at(key.expires)
    except ValueError as error:
        return f"when {key.name!r} expires {error}"
    if key.limits is not None and key.name in limits:
        return f"{key.name!r} has limits here, and in limits.keys of the configuration"
    return ""


def add_key(path: str | os.PathLike[str], key: KeyConfig) -> None:
    """Write one more key; the file is made if it is not there.

    :raises KeyNameTaken: there is one of this name
    :raises ConfigError: the file cannot be used, or not be written
    """
    with _changing(Path(path)) as keys:
        if any(each.name == key.name for each in keys):
            raise KeyNameTaken(f"there is a key {key.name!r} in {os.fspath(path)} already")
        keys.append(key)


def remove_key(path: str | os.PathLike[str], name: str) -> bool:
    """Take a key out: whether it was there.

    :raises ConfigError: the file cannot be used, or not be written
    """
    with _changing(Path(path)) as keys:
        left = [key for key in keys if key.name != name]
        was_there = len(left) < len(keys)
        keys[:] = left
    return was_there


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[KeyConfig]]:
    """The keys of a file, to be changed; who comes meanwhile waits, and who reads sees all of it or nothing."""
    try:
        # Its mode is the keys' own: who could open it could hold it, and no key would be made any more.
        with open(f"{path}.lock", "a", opener=_for_its_owner) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read_keys(path) if path.exists() else []
            before = list(keys)
            yield keys
            if keys != before or not path.exists():
                _replace(path, keys)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _replace(path: Path, keys: Sequence[KeyConfig]) -> None:
    lines = b"".join(msgspec.json.encode(_without_defaults(key)) + b"\n" for key in keys)
    handle, fresh = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.chmod(fresh, path.stat().st_mode & 0o777)  # noqa: PTH101 - what its owner has given it
        os.replace(fresh, path)  # noqa: PTH105
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _without_defaults(key: KeyConfig) -> dict[str, object]:
    """As a person would write it."""
    plain: dict[str, object] = msgspec.to_builtins(key)
    usual: dict[str, object] = msgspec.to_builtins(KeyConfig(name="", hash=""))
    if key.limits is not None:
        said = msgspec.to_builtins(key.limits)
        plain["limits"] = {name: value for name, value in said.items() if value != getattr(_UNLIMITED, name)}
    return {name: value for name, value in plain.items() if name in {"name", "hash"} or value != usual[name]}


_UNLIMITED = LimitConfig()


def _refused(name: str, faults: Sequence[str]) -> ConfigError:
    lines = tuple(f"{name}: {each}" for each in faults)
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(f"{name} has {count}", lines)
