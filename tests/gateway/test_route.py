import collections
import itertools
from math import inf

import pytest
from gateway_doubles import a_call

from penstock.config.model import CandidateConfig, Config, ModelConfig, TimeoutConfig, UpstreamConfig
from penstock.errors import UnknownModel
from penstock.gateway.stages import route
from penstock.gateway.stages.route import Router


class Upstream:
    def __init__(self, name, config):
        self.name, self.config = name, config
        self.gate = self.departure = None


class Gate:
    """One that has room, or has not."""

    def __init__(self, *, room, load=0.0):
        self.room = room
        self._load = load

    def load(self, model, now):
        return self._load

    def free(self, model, tokens, now):
        return self.room


def to(*names, fallbacks=(), timeouts=None):
    """A model whose candidates are ``upstream`` or ``(upstream, weight)`` or ``(upstream, weight, model)``."""
    candidates = [(name,) if isinstance(name, str) else name for name in names]
    made = [
        CandidateConfig(upstream=each[0], weight=each[1] if len(each) > 1 else 1.0, model="".join(each[2:]))
        for each in candidates
    ]
    return ModelConfig(candidates=made, fallbacks=list(fallbacks), timeouts=timeouts)


def router(models, rand=lambda: 0.0, upstreams=None, **more):
    names = {candidate.upstream for model in models.values() for candidate in model.candidates}
    configs = {name: UpstreamConfig(kind="openai") for name in names} | (upstreams or {})
    config = Config(upstreams=configs, models=models, **more)
    return Router(config, {name: Upstream(name, each) for name, each in configs.items()}, rand)


def routed(a_router, model):
    return [f"{each.upstream.name}/{each.model}" for each in a_router.route(a_call(model=model))]


def test_a_name_leads_to_its_candidate_under_the_callers_name_for_it():
    assert routed(router({"m": to("a")}), "m") == ["a/m"]


@pytest.mark.parametrize(
    ("loads", "leaving", "load"),
    [
        ([0.5, 0.3], [], 0.3),
        ([0.5, None], [], 0.0),
        ([0.5, 0.3], ["b"], 0.5),
        ([0.5], ["a"], inf),
        ([], [], 0.0),
    ],
)
def test_a_models_load_is_that_of_its_least_loaded_upstream_that_is_not_going_away(loads, leaving, load):
    names = ["a", "b"][: len(loads)]
    routes = router({"m": to(*names), "other": to("c")})
    for candidate, each in zip(routes.regular("m"), loads, strict=True):
        upstream = candidate.upstream
        upstream.gate = None if each is None else Gate(room=True, load=each)
        upstream.departure = "soon" if upstream.name in leaving else None
    assert routes.load("m" if loads else "unknown", 0.0) == load


def test_a_candidate_may_have_a_name_of_its_own():
    assert routed(router({"m": to(("a", 1.0, "m-2025"))}), "m") == ["a/m-2025"]


@pytest.mark.parametrize("model", ["x", "", "M", "m "])
def test_another_name_is_unknown(model):
    with pytest.raises(UnknownModel) as caught:
        routed(router({"m": to("a"), "n*": to("a")}), model)
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("model", "upstream"),
    [("gpt-4o-mini", "d"), ("gpt-4o", "c"), ("gpt-5", "b"), ("claude", "a"), ("gpt-4o-2024", "c")],
)
def test_the_most_specific_entry_wins(model, upstream):
    models = {"*": to("a"), "gpt-*": to("b"), "gpt-4o*": to("c"), "gpt-4o-mini": to("d")}
    assert routed(router(models), model) == [f"{upstream}/{model}"]


@pytest.mark.parametrize(
    ("pattern", "template", "model", "name"),
    [
        ("openai/*", "*", "openai/gpt-4o", "gpt-4o"),
        ("*", "prefix/*", "m", "prefix/m"),
        ("a*z", "<*>", "abcz", "<bc>"),
        ("a*", "*", "a", ""),
        ("a*", "fixed", "abc", "fixed"),
        ("a*", "", "abc", "abc"),
        ("m", "lit*eral", "m", "lit*eral"),
        ("a*", "*", "a*b", "*b"),
    ],
)
def test_a_star_in_a_candidates_name_is_what_the_pattern_matched(pattern, template, model, name):
    assert routed(router({pattern: to(("u", 1.0, template))}), model) == [f"u/{name}"]


# ---- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rand", "order"),
    [(0.0, ["b", "a", "c"]), (0.74, ["b", "a", "c"]), (0.76, ["a", "b", "c"]), (0.999999, ["a", "b", "c"])],
)
def test_one_is_drawn_by_weight_and_the_others_follow_by_theirs(rand, order):
    models = {"m": to(("a", 1.0), ("b", 3.0), ("c", 0.0))}
    assert routed(router(models, lambda: rand), "m") == [f"{name}/m" for name in order]


def test_who_is_full_comes_after_those_that_have_room_but_before_the_reserve():
    models = {"m": to(("a", 3.0), ("b", 2.0), ("c", 1.0), ("d", 0.0), fallbacks=["n"]), "n": to("e")}
    a_router = router(models)
    for name, room in (("a", False), ("b", True), ("e", True)):
        a_router._upstreams[name].gate = Gate(room=room)
    assert [one[0] for one in routed(a_router, "m")] == ["b", "c", "a", "d", "e"]
    a_router._upstreams["b"].gate.room = False
    assert [one[0] for one in routed(a_router, "m")] == ["c", "a", "b", "d", "e"]


def test_each_gets_its_share():
    steps = itertools.count()
    a_router = router({"m": to(("a", 1.0), ("b", 3.0))}, lambda: next(steps) % 100 / 100)
    first = collections.Counter(routed(a_router, "m")[0] for _ in range(1_000))
    assert first == {"a/m": 250, "b/m": 750}


def test_without_any_weight_the_order_is_the_configurations():
    models = {"m": to(("a", 0.0), ("b", 0.0))}
    assert routed(router(models, lambda: 0.5), "m") == ["a/m", "b/m"]


# ---- fallbacks ------------------------------------------------------------------------------------


def test_fallbacks_come_after_all_candidates_in_their_order():
    models = {"m": to("a", ("b", 0.0), fallbacks=["n", "o"]), "n": to("c"), "o": to("d")}
    assert routed(router(models), "m") == ["a/m", "b/m", "c/n", "d/o"]


def test_a_fallback_has_fallbacks_of_its_own():
    models = {"m": to("a", fallbacks=["n"]), "n": to("b", fallbacks=["o"]), "o": to("c")}
    assert routed(router(models), "m") == ["a/m", "b/n", "c/o"]


def test_two_models_may_stand_in_for_each_other():
    models = {"m": to("a", fallbacks=["n"]), "n": to("b", fallbacks=["m"])}
    assert routed(router(models), "m") == ["a/m", "b/n"]
    assert routed(router(models), "n") == ["b/n", "a/m"]


def test_a_model_that_several_fallbacks_lead_to_is_tried_once():
    models = {
        "m": to("a", fallbacks=["n", "o"]),
        "n": to("b", fallbacks=["p"]),
        "o": to("c", fallbacks=["p"]),
        "p": to("d"),
    }
    assert routed(router(models), "m") == ["a/m", "b/n", "d/p", "c/o"]


def test_many_models_that_all_stand_in_for_each_other_are_no_explosion():
    names = [f"m{number}" for number in range(60)]
    models = {name: to("a", fallbacks=[other for other in names if other != name]) for name in names}
    assert len(routed(router(models), "m0")) == 60


def test_a_fallback_may_be_another_name_of_the_same_pattern():
    models = {"gpt-*": to("a", fallbacks=["gpt-4o"])}
    assert routed(router(models), "gpt-5") == ["a/gpt-5", "a/gpt-4o"]
    assert routed(router(models), "gpt-4o") == ["a/gpt-4o"]


def test_a_fallback_that_nobody_answers_is_left_out():
    assert routed(router({"m": to("a", fallbacks=["gone"])}), "m") == ["a/m"]


# ---- the rest -------------------------------------------------------------------------------------


def test_the_nearest_timeouts_count():
    near, mid, far = (TimeoutConfig(total=seconds) for seconds in (1.0, 2.0, 3.0))
    models = {"m": to("a", timeouts=near), "n": to("b"), "o": to("c")}
    upstreams = {"b": UpstreamConfig(kind="openai", timeouts=mid)}
    a_router = router(models, upstreams=upstreams, timeouts=far)
    found = [a_router.route(a_call(model=model))[0].timeouts.total for model in "mno"]
    assert found == [1.0, 2.0, 3.0]


def test_names_that_callers_invent_are_remembered_up_to_a_bound():
    a_router = router({"*": to("a")})
    routed(a_router, "n0")
    first = a_router.route(a_call(model="n0"))
    for number in range(2 * route.MAX_REMEMBERED):
        assert routed(a_router, f"n{number}") == [f"a/n{number}"]
    assert len(a_router._single) <= route.MAX_REMEMBERED
    assert a_router.route(a_call(model="n0")) is first


def test_names_can_be_listed_and_patterns_cannot():
    a_router = router({"m": to("a"), "n*": to("a")})
    assert a_router.names({}) == ["m"]
    assert a_router.knows("n1")
    assert not a_router.knows("x")
