"""Result files: what is in them is done, and what was not written to its end is not."""

import asyncio
import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.batches.results import ResultFile, Results
from penstock.errors import StorageFull
from penstock.wire.batch import unanswered_line


def a_line(custom_id):
    return unanswered_line("batch_1", custom_id, "c", "m" * (len(custom_id) * 7 % 50))


@given(st.lists(st.text('abcä\n"\\', min_size=1, max_size=9), unique=True, max_size=8), st.data())
def test_a_file_that_was_cut_anywhere_has_the_lines_before_the_cut(tmp_path_factory, custom_ids, data):
    path = tmp_path_factory.mktemp("cut") / "f"
    lines = [a_line(custom_id) for custom_id in custom_ids]
    whole = b"".join(lines)
    cut = data.draw(st.integers(min_value=0, max_value=len(whole)))
    path.write_bytes(whole[:cut])
    file = ResultFile(path)
    found = file.open()
    kept = whole[:cut].count(b"\n")
    assert found == custom_ids[:kept]
    file.append(a_line("new"))
    file.close()
    assert path.read_bytes() == b"".join(lines[:kept]) + a_line("new")
    again = ResultFile(path)
    assert again.open() == [*custom_ids[:kept], "new"]
    again.close()


def test_a_hole_that_a_power_cut_left_ends_what_counts(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(a_line("a") + bytes(5_000) + b"\n" + a_line("b"))
    file = ResultFile(path)
    assert file.open() == ["a"]
    file.close()
    assert path.read_bytes() == a_line("a")


def test_a_long_file_is_read_whole(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"".join(a_line(f"{n:06}") for n in range(30_000)))
    file = ResultFile(path)
    assert file.open() == [f"{n:06}" for n in range(30_000)]
    file.close()


class Failing:
    """A file on a disk that takes a part of a write, and does not let it be taken back, until it works again."""

    def __init__(self, file):
        self._file = file
        self.fails = True

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if self.fails and len(data) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data[:-2] if self.fails else data)

    def truncate(self, size):
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        return self._file.truncate(size)


def test_what_a_refused_write_left_is_not_before_the_next_line(tmp_path):
    file = ResultFile(tmp_path / "f")
    file.open()
    file.append(a_line("a"))
    file._file = disk = Failing(file._file)
    for _ in range(2):
        with pytest.raises(OSError, match="error"):
            file.append(a_line("b"))
    disk.fails = False
    file.append(a_line("b"))
    file.close()
    assert (tmp_path / "f").read_bytes() == a_line("a") + a_line("b")


class Disk:
    """Does the work at once, and says how often; refuses while it is full."""

    def __init__(self):
        self.writes = 0
        self.refusals = 0
        self.full = False

    async def __call__(self, work):
        await asyncio.sleep(0)
        if self.full and work.__name__ == "<lambda>":
            self.refusals += 1
            raise StorageFull("full")
        self.writes += 1
        return work()


def results_in(folder, disk, pause):
    return Results(ResultFile(folder / "output"), ResultFile(folder / "errors"), disk, pause)


def test_what_comes_while_a_write_is_under_way_goes_out_together(tmp_path):
    async def pause(seconds):
        raise AssertionError

    async def main():
        disk = Disk()
        results = results_in(tmp_path, disk, pause)
        await results.open()
        before = disk.writes
        await asyncio.gather(*(results.add(a_line(f"c{n}"), completed=n % 2 == 0) for n in range(100)))
        assert disk.writes - before <= 4
        assert (results.completed, results.failed) == (50, 50)
        await results.close()
        again = results_in(tmp_path, disk, pause)
        assert await again.open() == {f"c{n}" for n in range(100)}
        assert (again.completed, again.failed) == (50, 50)
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_disk_that_is_full_is_tried_again_until_there_is_no_time_left(comes_back, tmp_path):
    async def main():
        disk = Disk()
        pauses = []

        async def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 7:
                if not comes_back:
                    return False
                disk.full = False
            return True

        results = results_in(tmp_path, disk, pause)
        await results.open()
        disk.full = True
        if comes_back:
            await results.add(a_line("a"), completed=True)
        else:
            with pytest.raises(StorageFull):
                await results.add(a_line("a"), completed=True)
            disk.full = False
        assert pauses == [1, 2, 4, 8, 16, 30, 30]
        assert results.completed == comes_back
        await results.close()
        found = (tmp_path / "output").read_bytes().splitlines()
        assert [json.loads(line)["custom_id"] for line in found] == ["a"] * comes_back

    asyncio.run(main())
