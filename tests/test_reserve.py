"""Room that is kept on a disk, and what is taken for a want of it."""

import errno
import os
import sqlite3

import pytest

from penstock.reserve import SIZE, Reserve, lacks_room


def test_a_reserve_has_its_blocks_and_gives_them_up(tmp_path):
    reserve, of_another = Reserve(tmp_path / "d"), Reserve(tmp_path / "d")
    reserve.keep()
    status = (tmp_path / "d-reserve").stat()
    assert status.st_size == SIZE <= status.st_blocks * 512
    assert status.st_mode & 0o777 == 0o600
    of_another.keep()
    reserve.give_up()
    assert not list(tmp_path.iterdir())
    of_another.give_up()  # was given up
    of_another.keep()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [SIZE]


def test_where_there_is_no_room_nothing_is_left_of_it_and_it_is_tried_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    reserve = Reserve(tmp_path / "d")
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        reserve.keep()
        assert not list(tmp_path.iterdir())
    reserve.keep()
    assert list(tmp_path.iterdir()) == [reserve.path]


def failed(name):
    error = sqlite3.OperationalError()
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "room", "lacks"),
    [
        (failed("SQLITE_FULL"), 1 << 30, True),
        (failed("SQLITE_IOERR_SHMSIZE"), 4_096, True),
        (failed("SQLITE_IOERR_SHMSIZE"), 1 << 30, False),
        (failed("SQLITE_BUSY"), 0, False),
        (OSError(errno.ENOSPC, ""), 1 << 30, True),
        (OSError(errno.EDQUOT, ""), 1 << 30, True),
        (OSError(errno.EIO, ""), 0, False),
    ],
)
def test_a_full_disk_is_told_from_one_that_fails(tmp_path, monkeypatch, error, room, lacks):
    status = list(os.statvfs(tmp_path))
    status[1] = 1  # f_frsize
    status[4] = room  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(status))
    assert lacks_room(error, tmp_path / "d") is lacks
