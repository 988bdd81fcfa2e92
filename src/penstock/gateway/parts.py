"""What a gateway consists of beside its order: stores, caches and senders, made as the configuration says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import msgspec

from penstock.batches.providers import Providers
from penstock.batches.runner import Runner
from penstock.batches.store import BatchStore
from penstock.cache.cache import Cache
from penstock.cache.claims import Claims
from penstock.cache.entry import Sealer
from penstock.cache.guard import Guard
from penstock.cache.keys import derived
from penstock.cache.neighbours import Function, functions
from penstock.cache.shared_clock import SharedClock
from penstock.cache.tiers.disk import DiskTier
from penstock.cache.tiers.memory import MemoryTier
from penstock.config.model import Config, GenerationsConfig
from penstock.database import MEMORY
from penstock.errors import ConfigError
from penstock.flow.canary import Trials
from penstock.flow.lessee import Board
from penstock.gateway.coded import Codings
from penstock.generation.conversations import Conversations
from penstock.generation.keeper import Keeper
from penstock.generation.store import Store
from penstock.generation.stores.sqlite import SQLiteStore
from penstock.generation.stores.sqlite_conversations import SQLiteConversations
from penstock.installing import install_command
from penstock.ledger.prices import PriceTable
from penstock.messages import Endpoint, Tenant
from penstock.metrics import Registry
from penstock.net.clock import Clock
from penstock.net.exchange import Exchange
from penstock.upload.contents import Contents
from penstock.upload.disk_threads import DiskThreads
from penstock.upload.file_index import FileIndex, Shelf
from penstock.upload.files import FileStore
from penstock.upload.index import Index, Limits
from penstock.upload.stores.block_shelf import BlockShelf
from penstock.upload.stores.disk import Disk
from penstock.upload.stores.sqlite import SQLiteIndex
from penstock.upload.stores.sqlite_files import LocalShelf, SQLiteFileIndex
from penstock.upload.uploads import UploadStore
from penstock.webhooks.outbox import Outbox
from penstock.webhooks.sender import Sender

if TYPE_CHECKING:
    from penstock.flow.shared_trials import SharedTrials
    from penstock.gateway.announce import Announcer
    from penstock.gateway.pipeline import Pipeline
    from penstock.gateway.stages.resemble import Resemblance

_NO_SHARED = f"generations that are shared need the extra redis: {install_command('redis')}"


def sender(config: Config, clock: Clock, metrics: Registry) -> Sender | None:
    """None: nobody is to be told of anything."""
    webhooks = config.webhooks
    if not webhooks.endpoints:
        return None
    path = webhooks.path or Path(config.files.directory, "webhooks.sqlite")
    return Sender(webhooks, Outbox(Path(path)), clock, metrics)


def file_store(config: Config) -> FileStore | None:
    """None: nothing is kept on disk.

    :raises ConfigError: an extra is missing, or a store cannot be used as it is configured
    """
    files = config.files
    if not files.directory:
        return None
    directory = Path(files.directory)
    threads = DiskThreads(directory, "penstock-files", logging.getLogger("penstock.files"))
    index: FileIndex = SQLiteFileIndex(directory / "files.sqlite")
    shelf: Shelf = LocalShelf(directory / "content", threads)
    now = time.time
    if files.shared:
        redis = _redis_of_uploads(config)
        assert redis is not None, "the configuration was checked"
        url, stores, redis_files = redis
        disk = Disk(directory / "leaving")
        bucket = _bucket(config, disk, "files")
        clock = stores.RedisClock()
        now = clock.now
        index = redis_files.RedisFileIndex(url, kept=bucket is None, clock=clock)
        contents = bucket or stores.RedisContents(url, disk, prefix=redis_files.PREFIX)
        shelf = BlockShelf(disk, contents)
    return FileStore(
        directory,
        threads,
        index,
        shelf,
        max_file_bytes=files.max_file_bytes,
        tenant_bytes=files.tenant_bytes,
        kept_for=files.kept_for,
        now=now,
    )


def runner(
    config: Config,
    pipeline: Pipeline,
    announcer: Announcer,
    metrics: Registry,
    providers: Providers,
    files: FileStore,
) -> Runner:
    """Who runs batches."""
    return Runner(
        BatchStore(files.directory),
        files,
        pipeline.answer,
        config.batches,
        pipeline.clock,
        metrics,
        announce=announcer.batch_ended,
        forget=pipeline.registry.drop,
        longest_line=config.listener.max_body_bytes,
        providers=providers,
    )


def codings(config: Config) -> Codings:
    """:raises ConfigError: a package is missing"""
    shared = Path(config.files.directory, "dictionaries") if config.files.directory else None
    return Codings(config.codings, config.listener.max_body_bytes, shared)


def upload_store(config: Config) -> UploadStore | None:
    """None: nothing is kept on disk.

    :raises ConfigError: an extra is missing, or a store cannot be used as it is configured
    """
    wanted = config.uploads
    if not config.files.directory:
        return None
    directory = Path(config.files.directory, "uploads")
    limits = Limits(
        tenant_bytes=wanted.tenant_bytes,
        max_open=wanted.max_open,
        kept_for=wanted.kept_for,
        completed_kept_for=wanted.completed_kept_for,
        blocks_kept_for=wanted.blocks_kept_for,
        now=time.time,
    )
    disk = Disk(directory / "blocks")
    index: Index = SQLiteIndex(directory / "uploads.sqlite", limits)
    contents = _bucket(config, disk)
    redis = _redis_of_uploads(config)
    if redis is not None:
        url, stores, _ = redis
        clock = stores.RedisClock()
        limits = msgspec.structs.replace(limits, now=clock.now)
        index = stores.RedisIndex(url, limits, kept=contents is None, clock=clock)
        contents = contents or stores.RedisContents(url, disk)
    return UploadStore(disk, index, limits, contents)


def _bucket(config: Config, disk: Disk, folder: str = "") -> Contents | None:
    """The bucket that is configured, or a folder in its own; None: there is none.

    :raises ConfigError: an extra is missing, or it cannot be used as it is configured
    """
    s3 = config.uploads.s3
    if s3 is None:
        return None
    try:
        from penstock.upload.stores.s3 import S3Contents  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"uploads.s3 needs the extra: {install_command('s3')}") from error
    return S3Contents(
        disk,
        s3.bucket,
        prefix=f"{s3.prefix.strip('/')}/{folder}",
        endpoint=s3.endpoint,
        region=s3.region,
        access_key=s3.access_key,
        secret_key=s3.secret_key.reveal() if s3.secret_key is not None else "",
    )


def _redis_of_uploads(config: Config) -> tuple[str, ModuleType, ModuleType] | None:
    """Its URL, and what keeps uploads and files there; None: there is none.

    :raises ConfigError: an extra is missing
    """
    if config.uploads.redis is None:
        return None
    try:
        from penstock.upload.stores import redis, redis_files  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"uploads.redis needs the extra: {install_command('redis')}") from error
    return config.uploads.redis.reveal(), redis, redis_files


class Kept(msgspec.Struct, frozen=True):
    """The cache, and what keeps several gateways from fetching one answer at once."""

    cache: Cache
    claims: Claims | None


def caches(config: Config) -> bool:
    """Whether any answer is kept."""
    return any(model.cache is not None for model in config.models.values())


def compares(config: Config) -> bool:
    """Whether any answer may be given to a question that only means the same."""
    return any(
        model.cache is not None and model.cache.semantic is not None for model in config.models.values()
    )


def cache(config: Config, clock: Clock) -> Kept:
    """The cache.

    :raises ConfigError: a tier cannot be used as it is configured
    """
    wanted = config.cache
    claims = None
    shared = SharedClock() if wanted.redis is not None else None
    now = time.time if shared is None else shared.now
    tiers: list[Guard] = []
    if wanted.disk:
        disk = DiskTier(wanted.disk, wanted.disk_bytes, now)
        tiers.append(Guard(disk, wanted.disk_budget, clock.now))
    if wanted.redis is not None:
        try:
            from penstock.cache.tiers.redis import RedisTier  # noqa: PLC0415 - an extra
            from penstock.cache.tiers.redis_cluster import ClusterTier  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"cache.redis needs the extra: {install_command('redis')}") from error
        try:
            url = wanted.redis.reveal()
            tier = (ClusterTier if "+cluster://" in url else RedisTier)(url, shared)
        except ValueError as error:
            raise ConfigError(f"cache.redis is no address: {error}") from None
        guard = Guard(tier, wanted.redis_budget, clock.now)
        tiers.append(guard)
        if wanted.wait_for_others:
            claims = Claims(tier, guard, wanted.wait_for_others, clock.now)
    key_secret, seal_secret = derived(wanted.seal_key.reveal() if wanted.seal_key is not None else None)
    largest = min(wanted.max_entry_bytes, config.max_answer_bytes)
    made = Cache(
        MemoryTier(wanted.memory_bytes, now),
        tiers,
        Sealer(seal_secret, largest * 2),
        key_secret=key_secret,
        max_entry_bytes=largest,
        clock=shared,
    )
    return Kept(made, claims)


def redis_board(config: Config) -> Board | None:
    """Where machines share their limits; None: they do not.

    :raises ConfigError: an extra is missing
    """
    wanted = config.limits.redis
    if wanted is None:
        return None
    try:
        from penstock.flow.redis_board import RedisBoard  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ConfigError(f"limits.redis needs the extra redis: {install_command('redis')}") from error
    return RedisBoard(wanted.reveal())


def trials(config: Config) -> Trials | SharedTrials:
    """Where new versions are judged.

    :raises ConfigError: an extra is missing
    """
    wanted = config.versions
    kept = Trials(Path(wanted.path) if wanted.path else None)
    if wanted.shared == "workers":
        return kept
    assert config.limits.redis is not None, "the configuration was checked"
    try:
        from penstock.flow.redis_trials import TrialBoard  # noqa: PLC0415 - of an extra
        from penstock.flow.shared_trials import SharedTrials  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"versions.shared needs the extra redis: {install_command('redis')}") from error
    return SharedTrials(kept, TrialBoard(config.limits.redis.reveal()))


def prices(config: Config) -> PriceTable:
    """The package's table, with the configuration's own prices over it."""
    kinds = {name: upstream.kind for name, upstream in config.upstreams.items()}
    return PriceTable.load(config.prices, kinds=kinds)


def neighbours(config: Config) -> dict[str, Function]:
    """Your own functions that name the questions beside a question, of all models together.

    :raises ConfigError: there is no such function
    """
    caches = [model.cache for model in config.models.values() if model.cache is not None]
    return functions(
        name for cache in caches if cache.prefetch is not None for name in cache.prefetch.neighbours
    )


def keeper(durability: str, config: GenerationsConfig, clock: Clock) -> Keeper:
    """What writes generations down.

    :param durability: ``disk`` or ``shared``
    :raises ConfigError: an extra is missing
    """
    store: Store
    if durability == "disk":
        store = SQLiteStore(config.path, config.stored_bytes, fsync=config.fsync)
    else:
        assert config.redis is not None, "the configuration was checked"
        try:
            from penstock.generation.stores.redis import RedisStore  # noqa: PLC0415 - of an extra
        except ImportError as error:
            raise ConfigError(_NO_SHARED) from error
        store = RedisStore(config.redis.reveal(), config.stored_bytes)
    return Keeper(store, clock, kept_for=config.kept_for, lease=config.lease)


def conversations(config: Config) -> Conversations:
    """What keeps callers' conversations: beside generations that outlive their process, else in its memory.

    :raises ConfigError: an extra is missing
    """
    kept, longest = config.conversations, config.listener.max_body_bytes
    wanted = {model.durability for model in config.models.values()} | {config.generations.durability}
    if "shared" in wanted:
        assert config.generations.redis is not None, "the configuration was checked"
        try:
            from penstock.generation.stores.redis_conversations import (  # noqa: PLC0415 - of an extra
                RedisConversations,
            )
        except ImportError as error:
            raise ConfigError(_NO_SHARED) from error
        return RedisConversations(
            config.generations.redis.reveal(),
            kept_for=kept.kept_for,
            stored_bytes=kept.stored_bytes,
            longest=longest,
        )
    path = MEMORY
    if "disk" in wanted:
        file = Path(config.generations.path)
        path = file.with_name(f"{file.stem}.conversations{file.suffix}")
    return SQLiteConversations(path, kept_for=kept.kept_for, stored_bytes=kept.stored_bytes, longest=longest)


def check_resemblance(config: Config) -> None:
    """:raises ConfigError: questions are to be compared, and what makes vectors of them cannot be used"""
    if compares(config):
        _encoder(config)


def _encoder(config: Config) -> Path | None:
    """The folder of what makes vectors of questions; None: a model of the gateway's own does.

    :raises ConfigError: it cannot be used
    """
    try:
        from penstock.cache.semantic import embedding, encoder, index  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"a semantic cache needs the extra: {install_command('semantic')}") from error
    wanted = config.cache.embedding
    if wanted.model:
        return None
    try:
        return encoder.checked(Path(wanted.folder) if wanted.folder else encoder.packaged())
    except encoder.NoEncoder as error:
        raise ConfigError(f"cache.embedding: {error}") from error


def resemblance(
    config: Config,
    kept: Cache,
    answer: Callable[[Exchange, Endpoint, Tenant], None],
    metrics: Registry,
) -> Resemblance:
    """What compares questions by their meaning.

    :param answer: by which a model of the gateway's own is asked for vectors, if one is configured
    :raises ConfigError: what makes vectors cannot be used
    """
    folder = _encoder(config)
    from penstock.cache.semantic import encoder  # noqa: PLC0415 - an extra
    from penstock.cache.semantic.embedding import Embedding, Threaded  # noqa: PLC0415
    from penstock.cache.semantic.index import Index  # noqa: PLC0415
    from penstock.gateway.embedding import ModelEncoder  # noqa: PLC0415
    from penstock.gateway.stages.resemble import Resemblance  # noqa: PLC0415

    wanted, threads = config.cache.embedding, None
    if folder is None:
        encode = ModelEncoder(answer, wanted.model).encode
    else:
        threads = Threaded(lambda: encoder.SentenceEncoder(folder))
        encode = threads.encode
    return Resemblance(
        kept, Embedding(encode, wanted.budget), Index(wanted.max_questions), metrics, threads=threads
    )
