"""Each test of sockets runs on every event loop that there is."""

from __future__ import annotations

import pytest
from listener_doubles import LOOPS
from upstream_doubles import RUNNERS


@pytest.fixture(params=RUNNERS)
def run(request):
    return lambda main: RUNNERS[request.param](main())


@pytest.fixture(params=LOOPS)
def loop(request):
    return request.param
