import msgspec
import pytest
from ledger_attempts import attempt, ended, one_and_two

from penstock.ledger._queue import RowQueue, inherit, queue_path
from penstock.ledger.ledger import Ledger
from penstock.ledger.sqlite import SQLiteStore
from penstock.ledger.template import RowTemplate
from penstock.messages import Attempt, Outcome, Usage

TOKEN = "0123456789abcdef"
GENERATION = "gen_" + "7" * 32
DECODE = msgspec.msgpack.Decoder(Attempt).decode


def hit(**changes):
    usage = Usage(9, 8, 7, 6, 5, 4, 3, estimated=True, image_input_tokens=2, units=11)
    given = {"usage": usage, "saved": 2**40, "duration": 0.25, "answer": "gen-1", **changes}
    return ended(attempt(reserved=Usage()), Outcome.CACHED, **given)


def fields(attempt, *but):
    return {name: getattr(attempt, name) for name in attempt.__struct_fields__ if name not in but}


def test_a_row_has_a_generation_and_a_moment_of_its_own_and_all_else_in_common():
    one = hit(started=1.0)
    row = RowTemplate(one).row(GENERATION)
    assert (row.generation, row.id) == (GENERATION, GENERATION + "/1")
    assert row.started > one.started
    own = ("generation", "id", "started")
    assert fields(row, *own) == fields(one, *own)


@pytest.mark.parametrize("number", [-1, -(2**40), 5])
def test_its_bytes_say_all_that_the_row_says_but_for_its_id(number):
    template = RowTemplate(hit())
    for generation in (GENERATION, "gen_" + "8" * 32):
        row = template.row(generation)
        row.row = number
        assert fields(DECODE(template.encoded(row)), "id") == fields(row, "id")


def test_an_id_of_another_length_does_no_harm():
    template = RowTemplate(hit())
    row = template.row("gen_1")
    assert DECODE(template.encoded(row)).generation == "gen_1"


@pytest.mark.parametrize(
    "nonsense", [{"saved": 2**80}, {"error": "half \ud800 a pair"}, {"usage": Usage(2**70)}]
)
def test_values_that_cannot_be_put_down_are_mended(nonsense):
    template = RowTemplate(hit(**nonsense))
    row = template.row(GENERATION)
    row.row = -3
    assert DECODE(template.encoded(row)).row == -3


def test_names_that_callers_invent_do_not_fill_the_queue():
    template = RowTemplate(hit(model="m" * 100_000))
    row = template.row(GENERATION)
    row.row = -3
    assert len(template.encoded(row)) < 1_024
    assert DECODE(template.encoded(row)).model == "m" * 256


def test_what_is_put_down_by_it_is_found_when_its_process_is_no_more(tmp_path):
    path = queue_path(tmp_path / "ledger.db", TOKEN)
    queue = RowQueue(path, TOKEN)
    template = RowTemplate(hit())
    rows = [template.row(f"gen_{number:032x}") for number in range(3)]
    for row in rows:
        queue.head = queue.append(row, template)
    queue._map.close()
    found = inherit(path, TOKEN)
    assert [each.generation for _, each in found.records] == [row.generation for row in rows]
    found.close(remove=True)


def test_the_ledger_counts_it_and_the_store_has_it(tmp_path):
    store = SQLiteStore(tmp_path / "ledger.db", interval=3600).start()
    ledger = Ledger(one_and_two(), store)
    template = RowTemplate(hit())
    for _ in range(3):
        ledger.repeat(template, GENERATION)
    total = ledger.totals()[Outcome.CACHED]
    assert (total.attempts, total.usage.output_tokens, total.cost) == (3, 24, 0)
    assert [row.row for row in ledger.recent()] == [-3, -2, -1]
    assert store.flush()
    assert store.statistics().written == 3
    store.close()


def test_repr_tells_what_it_makes():
    assert "cached" in repr(RowTemplate(hit()))
