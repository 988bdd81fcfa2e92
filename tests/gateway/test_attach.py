import pytest
from gateway_doubles import BODY, a_call, a_generation

from penstock.errors import BadRequest, KeyReused, UpstreamBroken
from penstock.gateway.stages.attach import MAX_KEY_BYTES, Attachments
from penstock.messages import Endpoint, Tenant

KEY = {b"idempotency-key": b"k"}


def running(attachments, **more):
    call = a_call(**{"headers": KEY, **more})
    generation = a_generation(call)
    attachments.remember(call, generation)
    return call, generation


def test_a_call_without_a_key_attaches_to_nothing():
    attachments = Attachments()
    running(attachments, headers={})
    assert attachments.find(a_call()) is None
    assert attachments.find(a_call(headers={b"idempotency-key": b""})) is None


def test_the_same_key_and_body_lead_to_the_running_generation():
    attachments = Attachments()
    _, generation = running(attachments)
    assert attachments.find(a_call(headers=KEY)) is generation


@pytest.mark.parametrize(
    "other",
    [
        {"body": BODY.replace(b"hi", b"ho")},
        {"body": BODY.replace(b":9", b": 9")},
        {"endpoint": Endpoint.MESSAGES},
    ],
)
def test_the_same_key_with_another_request_is_refused(other):
    attachments = Attachments()
    running(attachments)
    with pytest.raises(KeyReused) as caught:
        attachments.find(a_call(headers=KEY, **other))
    assert caught.value.status == 422


def test_another_tenants_key_is_another_key():
    attachments = Attachments()
    running(attachments)
    assert attachments.find(a_call(headers=KEY, tenant=Tenant(name="other"))) is None


@pytest.mark.parametrize("end", ["finish", "fail", "abandon"])
def test_a_generation_that_has_ended_is_not_attached_to(end):
    attachments = Attachments()
    _, generation = running(attachments)
    if end == "finish":
        generation.finish()
    elif end == "fail":
        generation.fail(UpstreamBroken("cut"))
    else:
        generation.abandoned = True
    assert attachments.find(a_call(headers=KEY)) is None
    assert attachments.find(a_call(body=BODY.replace(b"hi", b"ho"), headers=KEY)) is None


def test_a_producer_that_is_done_forgets_its_own_generation_and_no_other():
    attachments = Attachments()
    old_call, old = running(attachments)
    _, new = running(attachments)
    attachments.forget(old_call, old)
    assert attachments.find(a_call(headers=KEY)) is new
    attachments.forget(a_call(headers=KEY), new)
    assert attachments.find(a_call(headers=KEY)) is None
    assert repr(attachments) == "<Attachments 0 running>"


def test_a_key_that_is_too_long_is_refused():
    Attachments().find(a_call(headers={b"idempotency-key": b"x" * MAX_KEY_BYTES}))
    with pytest.raises(BadRequest):
        Attachments().find(a_call(headers={b"idempotency-key": b"x" * (MAX_KEY_BYTES + 1)}))
