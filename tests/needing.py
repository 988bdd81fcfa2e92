"""What some tests need that not every machine has."""

from __future__ import annotations

import pytest

from penstock.testing import RedisServer

needs_redis = pytest.mark.skipif(
    not RedisServer.available(), reason="there is no redis-server on this machine"
)
