import asyncio
from types import SimpleNamespace

import pytest
from gateway_doubles import BODY, a_call

from penstock.errors import BadRequest, KeyReused, UpstreamBroken
from penstock.gateway.stages import attach
from penstock.gateway.stages.authenticate import ANONYMOUS
from penstock.generation.log import State
from penstock.generation.registry import Registry
from penstock.generation.store import Claim, StoreUnavailable
from penstock.messages import Endpoint, Tenant
from penstock.testing import FakeClock

KEY = {b"idempotency-key": b"k"}
FIRST = {b"x-stainless-retry-count": b"0"}
RETRY = {b"x-stainless-retry-count": b"1"}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def registry(clock):
    return Registry(1_000_000, 100_000, clock.now, kept_for=60.0, kept_bytes=100_000)


class Reader:
    read_bytes = 0

    def advance(self):
        pass


def running(registry, *, read=True, **more):
    call = a_call(**{"headers": KEY, **more})
    generation = registry.create(call)
    attach.remember(call, generation, registry)
    if read:
        generation.join(Reader())
    return generation


def left(generation):
    generation.grace = 10.0
    for reader in generation.readers.copy():
        generation.leave(reader)


def finished(generation, clock, *, delivered):
    generation.append([b"{}"], clock.now())
    generation.finish()
    generation.delivered = delivered
    left(generation)


def found(registry, clock, **more):
    return attach.find(a_call(**more), registry, clock.now())


# ---- Idempotency-Key ----


def test_a_call_without_a_key_attaches_to_nothing(registry, clock):
    running(registry, headers={})
    assert found(registry, clock) is None
    assert found(registry, clock, headers={b"idempotency-key": b""}) is None


def test_the_same_key_and_body_lead_to_the_running_generation(registry, clock):
    generation = running(registry)
    assert found(registry, clock, headers=KEY) is generation


def test_they_lead_to_the_finished_one_for_as_long_as_it_is_kept(registry, clock):
    generation = running(registry)
    finished(generation, clock, delivered=True)
    clock.advance(59.0)
    registry.sweep(clock.now())
    assert found(registry, clock, headers=KEY) is generation
    clock.advance(1.0)
    registry.sweep(clock.now())
    assert found(registry, clock, headers=KEY) is None


@pytest.mark.parametrize(
    "other",
    [
        {"body": BODY.replace(b"hi", b"ho")},
        {"body": BODY.replace(b":9", b": 9")},
        {"endpoint": Endpoint.MESSAGES},
    ],
)
def test_the_same_key_with_another_request_is_refused(registry, clock, other):
    generation = running(registry)
    for _ in range(2):
        with pytest.raises(KeyReused) as caught:
            found(registry, clock, headers=KEY, **other)
        assert caught.value.status == 422
        if generation.ending is None:
            finished(generation, clock, delivered=True)


def test_another_tenants_key_is_another_key(registry, clock):
    running(registry)
    assert found(registry, clock, headers=KEY, tenant=Tenant(name="other")) is None


@pytest.mark.parametrize("end", ["fail", "abandon"])
def test_a_generation_that_gave_no_answer_is_not_attached_to(registry, clock, end):
    generation = running(registry)
    if end == "fail":
        generation.append([b"data: {}\n\n"], 1.0)
        generation.fail(UpstreamBroken("cut"))
    else:
        generation.abandon()
    assert found(registry, clock, headers=KEY) is None
    assert found(registry, clock, body=BODY.replace(b"hi", b"ho"), headers=KEY) is None
    again = running(registry)
    assert found(registry, clock, headers=KEY) is again


def test_a_key_that_is_too_long_is_refused(registry, clock):
    found(registry, clock, headers={b"idempotency-key": b"x" * attach.MAX_KEY_BYTES})
    with pytest.raises(BadRequest):
        found(registry, clock, headers={b"idempotency-key": b"x" * (attach.MAX_KEY_BYTES + 1)})


# ---- an SDK's own retry ----


def test_a_retry_leads_to_the_call_that_its_caller_has_lost(registry, clock):
    held, lost = running(registry, headers=FIRST), running(registry, headers=FIRST)
    left(lost)
    assert found(registry, clock, headers=RETRY) is lost
    lost.join(Reader())
    assert found(registry, clock, headers=RETRY) is held  # its connection may be dead, who knows


def test_a_retry_leads_to_the_answer_that_came_when_its_caller_had_gone(registry, clock):
    generation = running(registry, headers=FIRST)
    left(generation)
    finished(generation, clock, delivered=False)
    clock.advance(50.0)
    registry.sweep(clock.now())
    assert found(registry, clock, headers=RETRY) is generation


def test_an_answer_that_went_out_whole_is_repeated_only_for_a_moment(registry, clock):
    generation = running(registry, headers=FIRST)
    finished(generation, clock, delivered=True)
    assert found(registry, clock, headers=RETRY) is generation
    clock.advance(attach.LAST_BYTES)
    assert found(registry, clock, headers=RETRY) is None


def test_only_an_announced_retry_of_the_same_request_attaches(registry, clock):
    left(running(registry, headers=FIRST))
    assert found(registry, clock, headers=FIRST) is None
    assert found(registry, clock) is None
    assert found(registry, clock, headers=RETRY, body=BODY.replace(b'"m"', b'"n"')) is None
    assert found(registry, clock, headers=RETRY, body=b" " + BODY[:-1] + b"}") is None
    assert found(registry, clock, headers=RETRY, tenant=Tenant(name="other")) is None


def test_bodies_that_differ_only_far_from_their_ends_are_told_apart(registry, clock):
    one = b'{"model":"m","messages":[{"role":"user","content":"a' + b"x" * 500 + b'"}]}'
    other = one.replace(b'"a', b'"b')
    generation = running(registry, headers=FIRST, body=one)
    left(generation)
    assert found(registry, clock, headers=RETRY, body=other) is None
    assert found(registry, clock, headers=RETRY, body=one) is generation


def test_a_retry_after_a_failure_is_a_new_call(registry, clock):
    generation = running(registry, headers=FIRST)
    generation.fail(UpstreamBroken("cut"))
    assert found(registry, clock, headers=RETRY) is None


# ---- grace ----


def test_a_caller_who_can_come_back_is_waited_for():
    assert attach.grace(a_call(headers=KEY), started=True) == attach.GRACE
    assert attach.grace(a_call(headers=FIRST), started=False) == attach.GRACE
    assert attach.grace(a_call(headers=FIRST), started=True) == 0  # SDKs do not repeat what has begun
    assert attach.grace(a_call(), started=False) == 0


# ---- what other processes know ----


class Names:
    """Of which all but the last belong to these generations: ``(state, body, ended recently)``; None: not kept."""

    def __init__(self, *others, unavailable=False):
        self.others = list(others)
        self.unavailable = unavailable
        self.instead_of = []
        self.unheard_of = []

    def patience(self, longest, *, named):
        return 1.0

    def unheard(self, error, *, named):
        self.unheard_of.append(named)

    async def claim(self, name, generation_id, old="", *, patience):
        if self.unavailable:
            raise StoreUnavailable("gone")
        self.instead_of.append(old)
        if not self.others:
            return Claim(generation_id, name.fingerprint, won=True)
        self.other = self.others.pop(0)
        body = BODY if self.other is None else self.other[1]
        fingerprint = attach.stored_name(a_call(body=body)).fingerprint
        return Claim(f"other {len(self.instead_of)}", fingerprint, won=False)

    async def claimed(self, claim, *, patience):
        if self.other is None:
            return None
        state, _, recent = self.other
        return SimpleNamespace(id=claim.generation, state=state, recent=recent)

    def is_recent(self, record, seconds):
        assert seconds == attach.RECENT
        return record.recent


def elsewhere(*others, headers=KEY, **more):
    names = Names(*others, **more)
    record = asyncio.run(attach.find_elsewhere(a_call(headers=headers), names))
    return None if record is None else record.id, names.instead_of


def test_what_another_process_has_answered_is_found_by_its_name():
    assert elsewhere((State.RUNNING, BODY, True)) == ("other 1", [""])
    assert elsewhere() == (None, [""])


def test_an_answer_that_failed_or_is_not_kept_elsewhere_leaves_its_name_to_the_next():
    assert elsewhere((State.FAILED, BODY, True)) == (None, ["", "other 1"])
    assert elsewhere(None) == (None, ["", "other 1"])
    assert elsewhere(None, (State.FINISHED, BODY, True)) == ("other 2", ["", "other 1"])


def test_a_key_finds_what_ended_long_ago_and_an_sdks_retry_does_not():
    assert elsewhere((State.FINISHED, BODY, False)) == ("other 1", [""])
    assert elsewhere((State.FINISHED, BODY, False), headers=RETRY) == (None, ["", "other 1"])
    assert elsewhere((State.FINISHED, BODY, True), headers=RETRY) == ("other 1", [""])


def test_the_same_key_with_another_body_is_refused_wherever_the_first_was_asked():
    other = BODY.replace(b"hi", b"ho")
    with pytest.raises(KeyReused):
        elsewhere((State.RUNNING, other, True))
    assert elsewhere((State.FAILED, other, True))[0] is None


def test_a_store_that_does_not_answer_knows_nothing():
    names = Names((State.RUNNING, BODY, True), unavailable=True)
    assert asyncio.run(attach.find_elsewhere(a_call(headers=KEY), names)) is None
    assert names.unheard_of == [True]  # it was named


def test_who_must_look_elsewhere():
    for headers, there in ((KEY, True), (RETRY, True), (FIRST, False), ({}, False)):
        assert attach.may_be_elsewhere(a_call(headers=headers)) is there


def test_names_elsewhere_tell_callers_endpoints_and_bodies_apart():
    """Where the gateway has no keys, the one for the provider says whose a name is; else the tenant does."""
    mine, other = ({**KEY, b"authorization": b"Bearer sk-" + who} for who in (b"mine", b"other"))
    names = {
        attach.stored_name(a_call(headers=headers, tenant=tenant))[:2]
        for headers in (mine, other, KEY)
        for tenant in (ANONYMOUS, Tenant(name="team"))
    }
    assert len(names) == 4
    assert ("team", "key k") in names
    assert (ANONYMOUS.name, "key k") in names
    assert not any("sk-" in part for name in names for part in name)
    prints = {
        attach.stored_name(a_call(headers=KEY, **more)).fingerprint
        for more in ({}, {"body": BODY.replace(b"hi", b"ho")}, {"endpoint": Endpoint.MESSAGES})
    }
    assert len(prints) == 3
    retried = attach.stored_name(a_call(headers=RETRY, tenant=Tenant(name="team")))
    assert retried.name == "request " + retried.fingerprint.hex()


def test_the_key_of_a_call_that_shares_anothers_answer_belongs_to_its_own_body(registry, clock):
    generation = running(registry, headers={})
    mine = BODY.replace(b":9", b": 9")
    attach.remember_joined(a_call(body=mine, headers=KEY), generation, registry)
    assert found(registry, clock, body=mine, headers=KEY) is generation
    with pytest.raises(KeyReused):
        found(registry, clock, headers=KEY)


@pytest.mark.parametrize("headers", [KEY, RETRY])
def test_what_has_joined_is_known_by_less_than_its_body(registry, headers):
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 1_000)
    generation = registry.create(a_call())
    asked = a_call(body=body, headers=headers)
    attach.remember_joined(asked, generation, registry)
    assert attach.find(asked, registry, 0.0) is generation
    assert len(repr(generation.names)) < 1_000
