from penstock.admin.watch import FileWatch


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
    assert not any(watch.changed() for _ in range(3))
    path.write_text("one")
    assert not any(watch.changed() for _ in range(3))


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
