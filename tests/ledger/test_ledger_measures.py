import pytest
from ledger_attempts import attempt, ended, one_and_two

from penstock.errors import InternalError
from penstock.ledger.ledger import Ledger
from penstock.ledger.measures import measure
from penstock.ledger.prices import PriceTable
from penstock.ledger.sqlite import SQLiteStore
from penstock.metrics import Registry


def values(registry):
    return {family.name: family.samples[0].value for family in registry.collect() if family.samples}


def test_the_book_is_measured():
    registry, ledger = Registry(), Ledger(PriceTable())
    measure(registry, ledger)
    one = attempt()
    ledger.open(one)
    ledger.open(attempt())
    ledger.settle(ended(one))
    with pytest.raises(InternalError):
        ledger.settle(one)
    measured = values(registry)
    assert measured["penstock_ledger_open_attempts"] == 1
    assert measured["penstock_ledger_defects_total"] == 1
    assert measured["penstock_ledger_unpriced_total"] == 1
    assert "penstock_ledger_writable" not in measured


def test_the_store_is_measured(tmp_path):
    store = SQLiteStore(tmp_path / "later" / "ledger.db", interval=3600, max_rows=2).start()
    registry, ledger = Registry(), Ledger(one_and_two(), store)
    measure(registry, ledger)
    for _ in range(5):
        one = attempt()
        ledger.open(one)
        ledger.settle(ended(one))
        store.flush()
    measured = values(registry)
    assert measured["penstock_ledger_writable"] == 0
    assert measured["penstock_ledger_waiting_rows"] == 2
    assert measured["penstock_ledger_folded_rows_total"] == 3
    assert measured["penstock_ledger_errors_total"] >= 5
    # Where there is no directory there is no queue.
    assert measured["penstock_ledger_unqueued_rows_total"] == 10
    assert measured["penstock_ledger_recovered_rows_total"] == 0
    (tmp_path / "later").mkdir()
    assert store.flush()
    assert values(registry)["penstock_ledger_writable"] == 1
    assert values(registry)["penstock_ledger_written_rows_total"] == 2
    store.close()
