import msgspec

from penstock.admin.fixed import NEEDS_RESTART, keep_fixed
from penstock.config.model import (
    BatchesConfig,
    CacheConfig,
    CodingsConfig,
    Config,
    FilesConfig,
    GenerationsConfig,
    LedgerConfig,
    ListenerConfig,
    LogConfig,
    TLSConfig,
    UploadsConfig,
    UpstreamConfig,
    VersionsConfig,
    WebhooksConfig,
)

OLD = Config()
CHANGED = {
    "listen": "127.0.0.1:1",
    "control": "127.0.0.1:2",
    "workers": 3,
    "departures": "elsewhere",
    "listener": ListenerConfig(max_headers=7),
    "log": LogConfig(level="error"),
    "ledger": LedgerConfig(path="elsewhere"),
    "cache": CacheConfig(disk="elsewhere"),
    "versions": VersionsConfig(path="elsewhere"),
    "files": FilesConfig(directory="elsewhere"),
    "uploads": UploadsConfig(max_open=7),
    "codings": CodingsConfig(least_bytes=7),
    "batches": BatchesConfig(max_lines=7),
    "webhooks": WebhooksConfig(path="elsewhere"),
    "generations": GenerationsConfig(kept_for=1.0),
    "generations_bytes": 1,
    "max_answer_bytes": 1,
}


def test_everything_that_needs_a_restart_is_tried_here():
    assert set(CHANGED) == set(NEEDS_RESTART)


def test_what_needs_a_restart_stays_and_is_named():
    for key, value in CHANGED.items():
        kept, named = keep_fixed(OLD, msgspec.structs.replace(OLD, **{key: value}))
        assert (kept, named) == (OLD, (key,))


def test_the_rest_is_taken():
    new = msgspec.structs.replace(OLD, upstreams={"u": UpstreamConfig(kind="sim")}, drain_timeout=1.0)
    assert keep_fixed(OLD, new) == (new, ())


def test_tls_may_change_its_files_but_not_come_or_go():
    one, other = TLSConfig(certificate="a", key="a"), TLSConfig(certificate="b", key="b")
    with_one = msgspec.structs.replace(OLD, tls=one)
    with_other = msgspec.structs.replace(OLD, tls=other)
    assert keep_fixed(with_one, with_other) == (with_other, ())
    assert keep_fixed(OLD, with_one) == (OLD, ("tls",))
    assert keep_fixed(with_one, OLD) == (with_one, ("tls",))
