import json
from pathlib import Path

import pytest

from penstock.admin.departures import Departures


class Worker:
    def __init__(self):
        self.told = []

    def depart(self, upstream, seconds, holds=None):
        self.told.append((upstream, seconds) if holds is None else (upstream, seconds, holds))

    def stay(self, upstream):
        self.told.append((upstream, "stays"))


class World:
    """Supervisors one after the other, with the clocks of the test."""

    def __init__(self, path):
        self.path = path
        self.monotonic = 100.0
        self.unix = 1.7e9

    def start(self):
        return Departures(list, str(self.path), lambda: self.monotonic, lambda: self.unix)

    def restart(self, after):
        """The next process, on a machine that has started anew: its clock begins elsewhere."""
        self.unix += after
        self.monotonic = 5.0
        return self.start()


def test_an_announcement_outlives_its_supervisor_and_its_time_goes_on(tmp_path):
    world = World(tmp_path / "departures.json")
    first = world.start()
    first.announce("spot", 30.0)
    first.announce("old", None)
    first.announce("other", 5.0)
    first.take_back("other")
    second = world.restart(after=10.0)
    assert (second.left("spot"), second.left("old")) == (pytest.approx(20.0), None)
    assert "old" in second
    assert "other" not in second
    worker = Worker()
    second.tell(worker)
    assert worker.told == [("spot", pytest.approx(20.0)), ("old", None)]
    assert world.restart(after=100.0).left("spot") == 0.0
    assert [file.name for file in tmp_path.iterdir()] == ["departures.json"]


def test_without_a_file_nothing_is_kept(tmp_path):
    departures = Departures(list)
    departures.announce("spot", None)
    assert "spot" in departures
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"\xff", b'{"spot":', b"[]", b'{"spot":"soon"}'])
def test_a_file_that_makes_no_sense_is_told_of_and_nobody_is_going_away(tmp_path, text, caplog):
    path = tmp_path / "departures.json"
    path.write_bytes(text)
    departures = World(path).start()
    assert departures.left("spot") is None
    assert "spot" not in departures
    assert "departures.json" in caplog.text
    departures.announce("spot", None)
    assert json.loads(path.read_bytes()) == {"spot": None}


def test_a_disk_that_takes_nothing_is_told_of_and_the_announcement_holds(tmp_path, caplog):
    departures = World(Path(tmp_path, "gone", "departures.json")).start()
    departures.announce("spot", 5.0)
    assert "spot" in departures
    assert "will be forgotten at a restart" in caplog.text


def test_what_an_upstream_says_is_told_to_all_workers_and_lapses_and_is_not_kept_in_the_file(tmp_path):
    world = World(tmp_path / "departures.json")
    worker = Worker()
    departures = Departures(lambda: [worker], str(world.path), lambda: world.monotonic, lambda: world.unix)
    news = []
    departures.on_news = news.append
    departures.heard("spot", 20.0, 60.0)
    departures.heard("spot", 20.0, 60.0)
    departures.heard("other", None, 60.0)
    departures.announce("old", None)
    assert worker.told == [("spot", 20.0, 60.0), ("other", None, 60.0), ("old", None)]
    assert news == ["spot", "other", "old"]
    assert json.loads(world.path.read_bytes()) == {"old": None}
    world.monotonic += 60.0
    late = Worker()
    departures.tell(late)
    assert late.told == [("spot", 0.0, pytest.approx(20.0)), ("old", None)]
    world.monotonic += 20.0
    assert "spot" not in departures
    assert list(departures) == ["old"]


def test_who_is_back_is_so_only_if_it_was_itself_that_said_otherwise():
    worker = Worker()
    departures = Departures(lambda: [worker])
    departures.announce("a", None)
    departures.heard("b", None, 60.0)
    departures.heard("a", 1.0, 60.0)
    departures.back("a")
    departures.back("b")
    departures.back("c")
    assert worker.told == [("a", None), ("b", None, pytest.approx(60.0)), ("b", "stays")]
    assert "a" in departures
