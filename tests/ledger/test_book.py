"""Every ledger has a name of its own, and keeps it."""

import os
import socket
import stat

from penstock.ledger.book import book_of


def test_two_hosts_of_one_name_and_one_path_have_two_books(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "gateway")
    path = tmp_path / "ledger.sqlite"
    one = book_of(str(path))
    os.rename(tmp_path / "ledger.sqlite-book", tmp_path / "of-another-host")
    other = book_of(str(path))
    assert one != other
    assert one.startswith(f"gateway:{path}:")


def test_all_workers_and_later_processes_have_the_same(tmp_path):
    path = tmp_path / "ledger.sqlite"
    first = book_of(str(path))
    path.touch()
    assert {book_of(str(path)) for _ in range(3)} == {first}
    (beside,) = tmp_path.glob("ledger.sqlite-book*")
    assert stat.S_IMODE(beside.stat().st_mode) == 0o600


def test_who_comes_second_takes_the_id_of_the_first(tmp_path, monkeypatch):
    path = tmp_path / "ledger.sqlite"
    link = os.link

    def late(drawn, beside):
        monkeypatch.setattr(os, "link", link)
        first.append(book_of(str(path)))
        link(drawn, beside)

    first = []
    monkeypatch.setattr(os, "link", late)
    assert [book_of(str(path))] == first
    assert len(list(tmp_path.iterdir())) == 1


def test_a_ledger_that_was_there_before_keeps_its_name(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.touch()
    assert book_of(str(path)) == f"{socket.gethostname()}:{path}"
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_file_can_be_made_the_hosts_name_must_do(tmp_path, caplog):
    path = tmp_path / "nowhere" / "ledger.sqlite"
    assert book_of(str(path)) == f"{socket.gethostname()}:{path}"
    assert "host's name" in caplog.text
    damaged = tmp_path / "ledger.sqlite"
    (tmp_path / "ledger.sqlite-book").write_text("what?")
    assert book_of(str(damaged)) == f"{socket.gethostname()}:{damaged}"
