"""Lines of batches that are to outlive the process: as which calls they are made."""

from types import SimpleNamespace

from gateway_doubles import BODY, a_call, a_generation

from penstock.gateway.durable import Durable
from penstock.wire import request


def test_a_line_of_a_batch_is_stored_by_the_name_that_its_caller_gave_the_model():
    producing = SimpleNamespace(router=SimpleNamespace(durability=lambda _: "disk"))
    durable = Durable(producing)
    durable.keepers["disk"] = SimpleNamespace()
    asked = a_call(body=BODY.replace(b'"m"', b'"m@b"'), model="m", version="b")
    generation = a_generation(asked)
    made = durable.in_pieces(asked, generation)
    assert made.stream
    assert generation.stream
    assert (made.model, made.version) == ("m", "b")
    assert request.read(made.endpoint, made.body).model == "m@b"
