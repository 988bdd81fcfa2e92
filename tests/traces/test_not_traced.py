"""Who traces nothing carries nothing of it."""

import subprocess
import sys

WORDS = """
import sys
from penstock.config.model import Config
from penstock.gateway.compose import build
from penstock.net.clock import Clock
import penstock.admin.supervisor, penstock.admin.worker, penstock.asgi, penstock.cli
gateway = build(Config(), clock=Clock())
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "requests", "google")))
print(gateway.recorder.tracer, [one.name for one in gateway.metrics.collect() if "spans" in one.name])
"""


def test_a_gateway_that_is_not_traced_imports_and_counts_nothing_of_it():
    done = subprocess.run(
        [sys.executable, "-c", WORDS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["[]", "None []"]
