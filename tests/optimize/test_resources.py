"""How much memory and disk there is."""

from __future__ import annotations

import pytest

from penstock.optimize import resources
from penstock.optimize.resources import available_memory, free_disk, shown_bytes


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 1000 kB\n")
    return tmp_path


def test_memory_is_what_the_machine_has(machine):
    assert available_memory() == 1_024_000
    (machine / "memory.max").write_text("max\n")
    assert available_memory() == 1_024_000


def test_a_containers_limit_counts_and_its_cache_gives_way(machine):
    (machine / "memory.max").write_text("500000\n")
    (machine / "memory.current").write_text("400000\n")
    (machine / "memory.stat").write_text("anon 1\ninactive_file 300000\n")
    assert available_memory() == 400_000


def test_where_nobody_knows_it_is_none(machine):
    (machine / "meminfo").unlink()
    assert available_memory() is None


def test_this_machine_has_some():
    assert available_memory() > 1_000_000


def test_free_disk_is_that_of_where_a_directory_will_be(tmp_path):
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(free_disk(tmp_path), rel=0.5)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_500, "1.5 kB"), (16_000_000, "16 MB"), (2.5e12, "2.5 TB")],
)
def test_bytes_are_shown_in_decimal_units(number, text):
    assert shown_bytes(number) == text
