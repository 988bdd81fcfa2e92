import hashlib
from math import inf

import pytest
from gateway_doubles import a_call

from penstock.config.model import KeyConfig
from penstock.errors import Forbidden, KeyExpired, Unauthenticated
from penstock.gateway.stages.authenticate import ANONYMOUS, MAX_BEARERS, Keyring, owner_of, permit
from penstock.messages import Tenant


def key(secret, name="k", **more):
    return KeyConfig(name=name, hash="sha256:" + hashlib.sha256(secret.encode()).hexdigest(), **more)


RING = Keyring([key("one", tenant="t1", tier="gold", models=["m"]), key("two", "k2")])


def test_a_gateway_without_keys_is_open():
    ring = Keyring([])
    assert ring.open
    assert ring.tenant({}) is ANONYMOUS
    assert ring.tenant({b"authorization": b"Bearer anything"}) is ANONYMOUS


def test_a_page_of_another_origin_cannot_use_a_gateway_without_keys():
    """What it sends would be done, and paid for, though it may not read the answer."""
    page = {b"host": b"localhost:8080", b"origin": b"https://evil.example", b"content-type": b"text/plain"}
    with pytest.raises(Forbidden) as told:
        Keyring([]).tenant(page)
    assert told.value.code == "foreign_origin"
    assert Keyring([]).tenant({**page, b"origin": b"http://localhost:8080"}) is ANONYMOUS
    # A page has no key of others.
    assert RING.tenant({**page, b"authorization": b"Bearer two"}).key_name == "k2"


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer one"},
        {b"authorization": b"bearer one"},
        {b"authorization": b"BEARER   one "},
        {b"x-api-key": b"one"},
        {b"authorization": b"Basic eHg6eXk=", b"x-api-key": b"one"},
        {b"authorization": b"Bearer ", b"x-api-key": b"one"},
    ],
)
def test_a_key_is_known_in_either_sdks_form(headers):
    for _ in range(2):  # the second time it is remembered
        assert RING.tenant(headers) == Tenant(name="t1", key_name="k", tier="gold", models=("m",))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b""}, "missing_api_key"),
        ({b"authorization": b"one"}, "missing_api_key"),
        ({b"authorization": b"Basic one"}, "missing_api_key"),
        ({b"authorization": b"Bearer"}, "missing_api_key"),
        ({b"authorization": b"Bearer One"}, "invalid_api_key"),
        ({b"authorization": b"Bearer one, Bearer one"}, "invalid_api_key"),
        ({b"authorization": b"Bearer wrong", b"x-api-key": b"one"}, "invalid_api_key"),
        ({b"x-api-key": b"\xff"}, "invalid_api_key"),
    ],
)
def test_anybody_else_is_refused_and_told_why(headers, code):
    with pytest.raises(Unauthenticated) as caught:
        RING.tenant(headers)
    assert (caught.value.status, caught.value.code) == (401, code)


def test_the_hash_is_not_the_key():
    with pytest.raises(Unauthenticated):
        RING.tenant({b"x-api-key": key("one").hash.encode()})
    with pytest.raises(Unauthenticated):
        RING.tenant({b"x-api-key": hashlib.sha256(b"one").digest()})


def test_what_is_remembered_of_right_keys_is_bounded_and_wrong_ones_are_not_remembered():
    ring = Keyring([key("one")])
    for spaces in range(3 * MAX_BEARERS):
        ring.tenant({b"authorization": b"Bearer" + b" " * (spaces + 1) + b"one"})
        with pytest.raises(Unauthenticated):
            ring.tenant({b"authorization": b"Bearer %d" % spaces})
    assert len(ring._bearers) <= MAX_BEARERS


def test_no_key_is_in_its_repr():
    assert "one" not in repr(RING)


@pytest.mark.parametrize(
    ("models", "model", "permitted"),
    [
        ((), "anything", True),
        (("m",), "m", True),
        (("m",), "mm", False),
        (("a*", "m"), "abc", True),
        (("*-mini",), "gpt-mini", True),
        (("*-mini",), "-mini", True),
        (("a*a",), "a", False),
        (("*",), "anything", True),
    ],
)
def test_a_key_may_use_the_models_that_it_names(models, model, permitted):
    call = a_call(tenant=Tenant(models=models))
    call.model = model
    if permitted:
        permit(call)
        return
    with pytest.raises(Forbidden) as caught:
        permit(call)
    assert (caught.value.code, caught.value.param) == ("model_not_permitted", "model")


def test_who_may_use_a_model_may_not_choose_among_its_versions():
    for models, version, permitted in (
        (("m",), "", True),
        (("m",), "v2", False),
        (("m", "m@v2"), "v2", True),
        (("m@v2",), "v3", False),
        (("m@v2",), "", False),
        (("m@*",), "v3", True),
        ((), "v2", True),
    ):
        call = a_call(tenant=Tenant(models=models), version=version)
        if permitted:
            permit(call)
        else:
            with pytest.raises(Forbidden, match=f"m@{version}" if version else "'m'"):
                permit(call)


def test_keys_end_one_by_one_in_whatever_order_they_stand():
    days = ["2027-03-01", "2027-01-01", "2027-02-01"]
    ring = Keyring([key(f"secret-{day}", day, expires=day) for day in days] + [key("lasts", "lasts")])

    def known():
        found = []
        for secret in (*(f"secret-{day}" for day in sorted(days)), "lasts"):
            try:
                found.append(ring.tenant({b"x-api-key": secret.encode()}).key_name)
            except KeyExpired:
                continue
        return found

    left = [*sorted(days), "lasts"]
    assert known() == left
    while ring.next_end < inf:
        ring.end(ring.next_end - 1.0)
        assert known() == left
        ring.end(ring.next_end)
        left = left[1:]
        assert known() == left
    assert left == ["lasts"]
    assert ring.end_of(ring.tenant({b"x-api-key": b"lasts"})) == inf


def test_a_key_that_was_right_before_is_not_remembered_beyond_its_end():
    ring = Keyring([key("one", expires="2027-01-01")])
    headers = {b"authorization": b"Bearer one"}
    ring.tenant(headers)
    ring.end(ring.next_end)
    with pytest.raises(KeyExpired):
        ring.tenant(headers)


def test_what_callers_keep_is_their_tenants_or_where_there_are_no_keys_their_own():
    mine, other = {b"authorization": b"Bearer sk-mine"}, {b"x-api-key": b"sk-other"}
    team = Tenant(name="team")
    assert owner_of(team, mine) == owner_of(team, other) == owner_of(team, {}) == "team"
    owners = {owner_of(ANONYMOUS, headers) for headers in (mine, other, {})}
    assert len(owners) == 3
    assert ANONYMOUS.name in owners
    assert owner_of(ANONYMOUS, mine) == owner_of(ANONYMOUS, {b"x-api-key": b"sk-mine"})
    assert not any("sk-" in owner for owner in owners)
