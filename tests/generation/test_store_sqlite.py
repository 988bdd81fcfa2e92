import pytest
from store_suite import SharedStoreSuite

from penstock.generation.stores.sqlite import SQLiteStore


class TestSQLiteStore(SharedStoreSuite):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.path = tmp_path / "generations.db"

    def make(self, max_bytes=1 << 26):
        return SQLiteStore(self.path, max_bytes)
