"""What each attempt cost: the book in memory, its store on disk, and the prices."""

from penstock.ledger.ledger import Ledger, LedgerStore, Statistics, Totals
from penstock.ledger.measures import measure
from penstock.ledger.prices import UNITS_PER_DOLLAR, Price, PriceTable
from penstock.ledger.sqlite import SQLiteStore, StoreStatistics
from penstock.ledger.template import RowTemplate

__all__ = [
    "UNITS_PER_DOLLAR",
    "Ledger",
    "LedgerStore",
    "Price",
    "PriceTable",
    "RowTemplate",
    "SQLiteStore",
    "Statistics",
    "StoreStatistics",
    "Totals",
    "measure",
]
