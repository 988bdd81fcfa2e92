"""A directory is there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from penstock.optimize import making
from penstock.optimize.faults import StepFailed, UnusableTarget
from penstock.optimize.making import Stamp, digest, made_whole, stamp_of
from penstock.optimize.model_directory import open_model

STAMP = Stamp("prune", {"share": 0.5}, "abc")


def entries(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_appears_with_its_stamp_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "made"
    with made_whole(target, STAMP) as into:
        (into / "weights").write_bytes(b"w")
        assert not target.exists()
    assert entries(target) == ["penstock.json", "weights"]
    assert stamp_of(target) == STAMP
    assert entries(target.parent) == ["made"]


def test_who_may_read_its_folder_may_read_its_files(tmp_path):
    """The library of safetensors writes for its own user alone; a gateway is often another."""
    with made_whole(tmp_path / "made", STAMP) as into:
        (into / "sub").mkdir()
        for name in ("model.safetensors", "sub/part"):
            (into / name).touch(0o600)
    as_usual = (tmp_path / "made" / "penstock.json").stat().st_mode
    assert (tmp_path / "made" / "model.safetensors").stat().st_mode == as_usual
    assert (tmp_path / "made" / "sub" / "part").stat().st_mode == as_usual


def test_nothing_is_left_of_a_block_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        with made_whole(tmp_path / "made", STAMP) as into:
            (into / "weights").write_bytes(b"w")
            raise ZeroDivisionError
    assert entries(tmp_path) == []


def test_what_is_there_already_is_not_touched(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()
    for replace in (False, True):
        with pytest.raises(UnusableTarget, match="is there already"):
            with made_whole(tmp_path / "made", STAMP, replace=replace):
                raise AssertionError
    assert entries(tmp_path / "made") == ["mine"]
    assert stamp_of(tmp_path / "made") is None


def test_what_a_step_made_can_be_replaced_if_that_is_wanted(tmp_path):
    with made_whole(tmp_path / "made", STAMP):
        pass
    with pytest.raises(UnusableTarget):
        with made_whole(tmp_path / "made", STAMP):
            raise AssertionError
    other = Stamp("prune", {"share": 0.6}, "abc")
    with made_whole(tmp_path / "made", other, replace=True):
        assert stamp_of(tmp_path / "made") == STAMP
    assert stamp_of(tmp_path / "made") == other


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    (tmp_path / "made").mkdir()
    with made_whole(tmp_path / "made", STAMP):
        pass
    assert stamp_of(tmp_path / "made") == STAMP


def test_two_do_not_write_the_same(tmp_path):
    with made_whole(tmp_path / "made", STAMP) as into:
        (into / "mine").touch()
        with pytest.raises(UnusableTarget, match="another process is writing"):
            with made_whole(tmp_path / "made", STAMP):
                raise AssertionError
        assert entries(into) == ["mine"]


def test_without_room_nothing_begins(tmp_path):
    with pytest.raises(UnusableTarget, match=r"needs about 1e\+06 TB, .* are free there"):
        with made_whole(tmp_path / "made", STAMP, room=10**18):
            raise AssertionError
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")],
    ids=["os", "library"],
)
def test_a_disk_that_fills_up_is_named_and_nothing_half_written_stays(tmp_path, monkeypatch, error):
    with pytest.raises(StepFailed, match=f"the disk of {tmp_path / 'made'} is full"):  # noqa: PT012
        with made_whole(tmp_path / "made", STAMP) as into:
            (into / "half").write_bytes(b"x")
            monkeypatch.setattr(making, "free_disk", lambda _: 4_096)
            raise error
    assert entries(tmp_path) == []


def test_an_error_that_has_nothing_to_do_with_the_disk_stays_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "free_disk", lambda _: 4_096)
    with pytest.raises(StepFailed, match="no layer"):
        with made_whole(tmp_path / "made", STAMP):
            raise StepFailed("no layer")
    with pytest.raises(PermissionError):
        with made_whole(tmp_path / "made", STAMP):
            raise PermissionError(errno.EACCES, "denied")


KILLED = """
import sys
from pathlib import Path
from penstock.optimize.making import Stamp, made_whole

with made_whole(Path(sys.argv[1]), Stamp("prune", {}, "abc")) as into:
    (into / "half").write_bytes(b"x" * 1000)
    print("written", flush=True)
    sys.stdin.read()
"""


def test_after_kill_9_the_name_is_free_and_the_next_run_sweeps_up(tmp_path):
    target = tmp_path / "made"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(UnusableTarget, match="another process is writing"):
            with made_whole(target, STAMP):
                raise AssertionError
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
    assert not target.exists()
    assert entries(tmp_path) == [".made.unfinished"]
    with made_whole(target, STAMP) as into:
        assert entries(into) == []
    assert entries(tmp_path) == ["made"]


def test_the_digest_is_of_weights_configuration_and_texts(model, texts):
    first = digest(open_model(model), texts)
    assert digest(open_model(model), texts) == first
    assert digest(open_model(model)) != first
    texts.write_text("something else")
    second = digest(open_model(model), texts)
    assert second != first
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    assert digest(open_model(model), texts) not in {first, second}
