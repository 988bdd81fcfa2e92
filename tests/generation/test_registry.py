import pytest

from penstock.errors import Overloaded
from penstock.generation.registry import Registry
from penstock.messages import Call, Endpoint, Tenant


def a_call(name="gen_1", body=b"x" * 40):
    return Call(
        id=name,
        endpoint=Endpoint.CHAT,
        model="m",
        stream=True,
        fields={},
        body=body,
        headers={},
        received=1.0,
        tenant=Tenant(name="t"),
    )


def test_a_generation_is_found_by_its_id_until_it_has_ended():
    registry = Registry(10_000, 1_000)
    generation = registry.create(a_call())
    assert registry.get("gen_1") is generation
    assert (generation.tenant, generation.model, generation.stream) == ("t", "m", True)
    assert list(registry) == [generation]
    generation.finish()
    assert registry.get("gen_1") is None
    assert (len(registry), registry.account.held) == (0, 0)


def test_past_its_bytes_nothing_new_begins_until_something_ends():
    registry = Registry(100, 1_000)
    first = registry.create(a_call("gen_1"))
    registry.create(a_call("gen_2", b"x" * 60))
    with pytest.raises(Overloaded) as caught:
        registry.create(a_call("gen_3"))
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)
    first.finish()
    registry.create(a_call("gen_3"))
    assert "2 generations" in repr(registry)


def test_one_log_may_hold_no_more_than_its_share():
    assert Registry(10_000, 123).create(a_call()).max_bytes == 123
