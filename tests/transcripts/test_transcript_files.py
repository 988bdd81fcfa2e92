"""Files are appended to, ended, removed when their time has come, and read whatever became of them."""

import os
import stat
from urllib.parse import unquote

import pytest

from penstock.transcripts.files import Files
from penstock.transcripts.transcript import (
    Damaged,
    Message,
    Transcript,
    files,
    folder_of,
    line_of,
    read,
)

NOW = 1_800_000_000.0
DAY = 86_400.0


def transcript(number, tenant="acme"):
    said = (Message("user", f"what is {number}?"), Message("assistant", f"it is {number}"))
    return Transcript(f"gen_{number}", NOW, tenant, "large", "up", "large-1", said)


@pytest.fixture
def make(tmp_path):
    made = []

    def begin(**more):
        settings = {"kept_for": 30 * DAY, "max_bytes": 1 << 20, "file_bytes": 1 << 16, **more}
        made.append(Files(tmp_path / "kept", **settings))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_what_is_written_is_read_in_its_order_and_only_by_its_owner(make, tmp_path):
    kept = make()
    for number in range(3):
        kept.append("acme", line_of(transcript(number)), NOW + number)
    assert list(read(tmp_path / "kept")) == [transcript(number) for number in range(3)]
    (path,) = files(tmp_path / "kept")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)} == {0o700}


@pytest.mark.parametrize("tenant", ["acme", "a/../b", "..", ".", "ä b", "A%2E"])
def test_each_tenant_has_a_folder_of_its_own_below_the_directory(tenant, make, tmp_path):
    make().append(tenant, line_of(transcript(1, tenant)), NOW)
    (path,) = files(tmp_path / "kept")
    assert path.parent.parent == tmp_path / "kept"
    assert unquote(path.parent.name) == tenant
    assert folder_of(tenant) == path.parent.name


def test_a_file_that_is_full_or_old_is_followed_by_another(make, tmp_path):
    kept = make(file_bytes=2 * len(line_of(transcript(1))))
    for number in range(5):
        kept.append("acme", line_of(transcript(number)), NOW)
    assert len(files(tmp_path / "kept")) == 3
    kept.append("acme", line_of(transcript(6)), NOW + DAY)
    assert len(files(tmp_path / "kept")) == 4


def test_nothing_stays_longer_than_it_may_also_what_others_wrote(make, tmp_path):
    others, kept = make(), make()
    others.append("acme", line_of(transcript(1)), NOW)
    kept.append("zeta", line_of(transcript(2, "zeta")), NOW + DAY)
    assert kept.remove_old(NOW + 30 * DAY - 1) == 0
    assert kept.remove_old(NOW + 30 * DAY) == 1
    assert list(read(tmp_path / "kept")) == [transcript(2, "zeta")]
    others.append("acme", line_of(transcript(3)), NOW + 2)  # and who wrote it goes on in another file
    assert transcript(3) in list(read(tmp_path / "kept"))


def test_the_oldest_makes_room(make, tmp_path):
    size = len(line_of(transcript(1)))
    kept = make(file_bytes=size, max_bytes=3 * size)
    for number in range(9):
        kept.append("acme", line_of(transcript(number)), NOW + number)
    assert list(read(tmp_path / "kept")) == [transcript(number) for number in (6, 7, 8)]


def test_a_file_that_somebody_removed_is_begun_anew(make, tmp_path):
    kept = make()
    kept.append("acme", line_of(transcript(1)), NOW)
    files(tmp_path / "kept")[0].unlink()
    kept.append("acme", line_of(transcript(2)), NOW)
    assert list(read(tmp_path / "kept")) == [transcript(2)]


def test_what_a_full_disk_cut_off_is_taken_away_again(make, tmp_path, monkeypatch):
    kept = make()
    kept.append("acme", line_of(transcript(1)), NOW)
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: write(to, data[:10]))
    with pytest.raises(OSError, match="only 10 of"):
        kept.append("acme", line_of(transcript(2)), NOW)
    monkeypatch.undo()
    kept.append("acme", line_of(transcript(3)), NOW)
    assert list(read(tmp_path / "kept")) == [transcript(1), transcript(3)]


def test_lines_that_are_not_whole_are_passed_over_and_told(make, tmp_path):
    make().append("acme", line_of(transcript(1)), NOW)
    (path,) = files(tmp_path / "kept")
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 20 + b"\n" + b'{"id": 1}\n\xff\n' + whole + whole[:-9])
    found = list(read(tmp_path / "kept"))
    assert found == [
        transcript(1),
        *(Damaged(path, line) for line in (2, 3, 4)),
        transcript(1),
        Damaged(path, 6),
    ]


def test_other_files_are_left_alone(make, tmp_path):
    kept = make(max_bytes=1)
    kept.append("acme", line_of(transcript(1)), NOW)
    note = tmp_path / "kept" / "acme" / "notes.jsonl"
    note.write_text("mine\n")
    kept.remove_old(NOW + 60 * DAY)
    assert files(tmp_path / "kept") == []
    assert note.exists()
