"""In which order those are asked that are not well, or are left in peace."""

from types import SimpleNamespace

from penstock.gateway.stages.queue import by_health


def candidate(name, *, behind=None, open_for=None, leaves=False):
    """None: its health is not asked for, or it has no gate."""
    health = None if behind is None else SimpleNamespace(behind=lambda _: behind)
    gate = None if open_for is None else SimpleNamespace(open_for=lambda *_: open_for)
    departure = SimpleNamespace() if leaves else None
    return SimpleNamespace(
        name=name, model="m", upstream=SimpleNamespace(health=health, gate=gate, departure=departure)
    )


def order(*candidates):
    return [each.name for each in by_health(candidates, 0.0)]


def test_who_comes_back_and_has_its_own_breaker_open_is_asked_when_that_lets_calls_through():
    back = candidate("back", behind=1e-3, open_for=30.0)
    assert order(back, candidate("open", behind=0.0, open_for=5.0)) == ["open", "back"]


def test_the_well_come_first_then_who_comes_back_then_the_open_the_unwell_and_who_leaves():
    assert order(
        candidate("leaves", leaves=True),
        candidate("unwell", behind=1e6, open_for=0.0),
        candidate("open", open_for=5.0),
        candidate("back", behind=1e-3),
        candidate("well", behind=0.0, open_for=0.0),
        candidate("plain"),
    ) == ["well", "plain", "back", "open", "unwell", "leaves"]
