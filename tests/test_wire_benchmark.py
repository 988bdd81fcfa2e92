"""The benchmarks of what calls weigh on the wire still run, and what they say does not depend on the machine."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.wire import agent  # noqa: E402


def test_an_agents_history_takes_a_tenth_of_what_gzip_takes():
    rows = {system: bodies for system, bodies, _, _ in agent.main([])}
    assert rows["the client"] * 10 < rows["gzip"] < rows["as it is"]
