import asyncio

from running import write_config

from penstock.admin.supervisor import Supervisor
from penstock.admin.watch import GONE, FileWatch
from penstock.config.load import load


def test_a_change_is_told_once_when_it_has_stayed_for_two_looks(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    watch = FileWatch([path])
    assert not watch.changed()
    path.write_text("two")
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_is_being_written_is_waited_for(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    watch = FileWatch([path])
    for part in ("", "tw", "two"):
        path.write_text(part)
        assert not watch.changed()
    assert watch.changed()


def test_a_file_that_is_missing_for_a_moment_has_not_changed(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    watch = FileWatch([path])
    path.unlink()
    assert not any(watch.changed() for _ in range(GONE - 1))
    path.write_text("one")
    assert not any(watch.changed() for _ in range(3))


def test_a_file_that_has_gone_is_told_once_and_once_when_it_is_back(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    watch = FileWatch([path])
    path.unlink()
    assert [watch.changed() for _ in range(GONE + 2)] == [False] * (GONE - 1) + [True, False, False]
    assert watch.missing == [path]
    path.write_text("one")
    assert [watch.changed() for _ in range(3)] == [False, True, False]
    assert watch.missing == []


def test_other_files_change_while_one_is_missing(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("one")
    other.write_text("two")
    watch = FileWatch([path, other])
    path.unlink()
    assert any(watch.changed() for _ in range(GONE))
    other.write_text("three")
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_a_file_that_was_changed_back_has_not_changed(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    watch = FileWatch([path])
    path.write_text("two")
    assert not watch.changed()
    path.write_text("one")
    assert not any(watch.changed() for _ in range(3))


def test_any_of_the_files_counts_and_what_stands_in_which_matters(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("bc")
    watch = FileWatch([one, other])
    one.write_text("ab")
    other.write_text("c")
    assert [watch.changed() for _ in range(2)] == [False, True]


def test_files_followed_later_count_from_then_on(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("b")
    watch = FileWatch([one])
    watch.follow([other])
    one.write_text("changed")
    assert not any(watch.changed() for _ in range(3))
    other.write_text("changed")
    assert [watch.changed() for _ in range(2)] == [False, True]


def test_no_files_never_change():
    assert not any(FileWatch([]).changed() for _ in range(3))


def test_what_changes_while_it_is_being_read_is_a_change_to_come(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("one")
    watch = FileWatch([path])
    read = watch.look()
    path.write_text("two")
    other.write_text("new")
    watch.follow([path, other], read)
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_gateway_takes_what_changed_while_it_was_reloading(tmp_path):
    path = write_config(tmp_path / "c.yaml")

    def reread():
        found = load(path)
        write_config(path, model="second")  # somebody writes on
        return found

    supervisor = Supervisor(load(path), reread=reread, files=lambda: [path])

    async def main():
        supervisor._watch.follow([path])
        outcome = await supervisor.reload()
        assert outcome.mistakes == ()

    asyncio.run(main())
    assert list(supervisor.config.models) == ["first"]
    assert [supervisor._watch.changed() for _ in range(2)] == [False, True]
