"""Servers in which uploads and files may be kept."""

from __future__ import annotations

import pytest
from places import S3Server

from penstock.testing import RedisServer


@pytest.fixture(scope="module")
def redis_server():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server():
    with S3Server() as server:
        yield server
