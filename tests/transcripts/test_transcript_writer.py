"""Whoever gives the writer a conversation goes on at once, and is never told of its troubles."""

import threading

import pytest
from test_transcript_files import NOW, transcript

from penstock.transcripts import writer as writing
from penstock.transcripts.files import Files
from penstock.transcripts.transcript import read
from penstock.transcripts.writer import TIDY_EVERY, Writer


@pytest.fixture
def counted():
    return []


@pytest.fixture
def make(tmp_path, counted):
    made = []

    def begin(directory="kept", now=lambda: NOW):
        kept = Files(tmp_path / directory, kept_for=600, max_bytes=1 << 20, file_bytes=1 << 16)
        made.append(Writer(kept, counted.append, now=now))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_all_that_was_given_is_written_when_it_is_closed(make, counted, tmp_path):
    writer = make()
    for number in range(100):
        writer.put(lambda number=number: transcript(number), 10)
    writer.put(lambda: None, 10)
    writer.close()
    assert list(read(tmp_path / "kept")) == [transcript(number) for number in range(100)]
    assert sorted(counted) == ["unusable"] + ["written"] * 100


def test_what_finds_no_room_is_dropped_and_counted(make, counted, monkeypatch, tmp_path):
    monkeypatch.setattr(writing, "WAITING_BYTES", 100)
    writer, go_on = make(), threading.Event()
    writer.put(lambda: go_on.wait(60) and transcript(1), 60)
    writer.put(lambda: transcript(2), 60)
    assert counted == ["dropped"]
    go_on.set()
    writer.put(lambda: transcript(3), 40)
    writer.close()
    assert list(read(tmp_path / "kept")) == [transcript(1), transcript(3)]


def test_a_disk_that_does_not_take_it_is_told_of_once_and_tried_again(make, counted, tmp_path, caplog):
    (tmp_path / "kept").write_text("in the way")
    writer = make()
    for number in range(3):
        writer.put(lambda number=number: transcript(number), 10)
    writer.put(lambda: (tmp_path / "kept").unlink() or transcript(9), 10)
    writer.close()
    assert counted == ["failed"] * 3 + ["written"]
    assert list(read(tmp_path / "kept")) == [transcript(9)]
    complaints = [record.message for record in caplog.records]
    assert len(complaints) == 1
    assert f"transcripts cannot be written to {tmp_path / 'kept'}: " in complaints[0]


def test_another_place_that_does_not_take_it_is_told_of_at_once(make, counted, tmp_path, caplog):
    for name in ("kept", "other"):
        (tmp_path / name).write_text("in the way")
    writer = make()
    writer.put(lambda: transcript(1), 10)
    writer.use(Files(tmp_path / "other", kept_for=600, max_bytes=1 << 20, file_bytes=1 << 16))
    writer.put(lambda: transcript(2), 10)
    writer.close()
    assert counted == ["failed"] * 2
    told = [record.message.partition(": ")[0] for record in caplog.records]
    assert told == [f"transcripts cannot be written to {tmp_path / name}" for name in ("kept", "other")]


def test_a_defect_in_one_conversation_costs_only_that(make, counted):
    writer = make()
    writer.put(lambda: 1 // 0, 10)
    writer.put(lambda: transcript(1), 10)
    writer.close()
    assert counted == ["failed", "written"]


def test_what_is_old_goes_although_nothing_is_written(make, tmp_path):
    times = [NOW]
    writer = make(now=lambda: times[0])
    writer.put(lambda: transcript(1), 10)
    writer.sweep(100.0)
    writer.close()
    assert len(list(read(tmp_path / "kept"))) == 1
    later = make(now=lambda: NOW + 600)
    later.sweep(TIDY_EVERY)
    later.close()
    assert list(read(tmp_path / "kept")) == []


def test_other_files_are_used_from_then_on(make, tmp_path):
    writer = make()
    writer.put(lambda: transcript(1), 10)
    writer.use(Files(tmp_path / "other", kept_for=600, max_bytes=1 << 20, file_bytes=1 << 16))
    writer.put(lambda: transcript(2), 10)
    writer.close()
    assert list(read(tmp_path / "kept")) == [transcript(1)]
    assert list(read(tmp_path / "other")) == [transcript(2)]
