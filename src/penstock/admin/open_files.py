"""As many open files as callers and upstreams may need connections: a process that has none left accepts nobody.

Callers then hang without an answer, and calls find no way to their upstreams.  The limit that a shell or a container
hands on is often 1,024, and what the system permits beyond it is the process's for the asking; workers inherit it.
"""

from __future__ import annotations

import contextlib
import logging
import resource

from penstock.config.model import Config

OWN = 200  # of a process for itself: files that are kept, a store's and Redis' connections, the supervisor's channel

log = logging.getLogger("penstock.supervisor")


def wanted_files(config: Config) -> int:
    """How many files a worker may have open at once."""
    upstreams = sum(upstream.pool.max_open for upstream in config.upstreams.values())
    return config.listener.max_connections + upstreams + OWN


def allow_open_files(config: Config) -> None:
    """Raise this process's limit, as far as it may; the log says if that is not enough."""
    wanted = wanted_files(config)
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY or now >= wanted:
        return
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with contextlib.suppress(OSError, ValueError):  # some systems name a limit that they do not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
        now = allowed
    if now < wanted:
        log.warning(
            "each process may open %d files (ulimit -n), and listener.max_connections with every pool.max_open comes to "
            "%d: callers beyond that will hang, and calls fail",
            *(now, wanted),
        )
