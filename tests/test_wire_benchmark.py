"""The benchmarks of what calls weigh on the wire still run, and what they say does not depend on the machine."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.wire import agent, serialisations  # noqa: E402


def test_an_agents_history_takes_a_tenth_of_what_gzip_takes():
    rows = {system: bodies for system, bodies, _, _ in agent.main([])}
    assert rows["the client"] * 10 < rows["gzip"] < rows["as it is"]


def test_every_form_is_measured_in_every_coding():
    rows = list(serialisations.measure(1, turns=(1,)))
    assert len(rows) == 8 * len(serialisations.CODINGS)
    sizes = {(form, coding): size for body, form, coding, size, _, _ in rows if body == "16 embeddings"}
    assert sizes["Protocol Buffers, from JSON", "as it is"] < sizes["JSON with base64", "as it is"] * 0.76
    assert all(writing > 0 for *_, writing, _ in rows)
