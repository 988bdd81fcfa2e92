import fcntl
import os
import random
import stat

import msgspec
import pytest
from ledger_attempts import attempt, ended

from penstock.ledger import _queue
from penstock.ledger._mended import mended
from penstock.ledger._queue import NotAQueue, RowQueue, inherit, queue_path, queues_beside
from penstock.messages import Attempt, Outcome, Usage

TOKEN = "0123456789abcdef"
DATA = _queue._DATA


@pytest.fixture
def path(tmp_path):
    return queue_path(tmp_path / "ledger.db", TOKEN)


def put(queue, *attempts):
    for one in attempts:
        queue.head = queue.append(one)


def left(path, token=TOKEN):
    """What the next one finds."""
    found = inherit(path, token)
    try:
        return [one for _, one in found.records]
    finally:
        found.close(remove=False)


def die(queue):
    """Let go of it as the kernel does for a process that was killed."""
    queue._map.close()


def same(one: Attempt, other: Attempt) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in one.__struct_fields__)


def full_row():
    usage = Usage(9, 8, 7, 6, 5, 4, 3, estimated=True)
    details = {"status": 200, "error": "upstream_broken", "first_token": 0.25, "duration": 1.5}
    return ended(
        attempt(row=17),
        Outcome.PARTIAL,
        usage,
        **details,
        cost=12,
        saved=3,
        left_out=9,
        cache_saved=-4,
        cache_missed=5,
    )


def test_what_was_put_down_is_found_when_its_process_is_no_more(path):
    queue = RowQueue(path, TOKEN)
    opened, settled = attempt(row=1), full_row()
    put(queue, opened, settled)
    die(queue)
    found = left(path)
    assert [same(*pair) for pair in zip(found, (opened, settled), strict=True)] == [True, True]


def test_mending_leaves_alone_what_a_prompt_cache_has_cost():
    one = mended(attempt(cache_saved=-4, cache_missed=-4, left_out=2**70))
    assert (one.cache_saved, one.cache_missed, one.left_out) == (-4, 0, 2**63 - 1)


def test_a_row_of_a_process_that_knew_nothing_of_prompts_is_read(path, monkeypatch):
    queue = RowQueue(path, TOKEN)
    one = full_row()
    fields = msgspec.structs.astuple(one)[: Attempt.__struct_fields__.index("left_out")]
    monkeypatch.setattr(_queue, "_encode", lambda _: msgspec.msgpack.encode(fields))
    put(queue, one)
    die(queue)
    (found,) = left(path)
    assert same(found, msgspec.structs.replace(one, left_out=0, cache_saved=0, cache_missed=0))


def test_only_its_owner_may_read_it(path):
    queue = RowQueue(path, TOKEN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    queue.close(remove=True)
    assert not path.exists()


def test_all_its_blocks_are_taken_at_once(path):
    queue = RowQueue(path, TOKEN)
    status = path.stat()
    assert status.st_size == DATA + _queue.CAPACITY
    assert status.st_blocks * 512 >= status.st_size
    die(queue)


def test_nobody_inherits_from_the_living(path):
    queue = RowQueue(path, TOKEN)
    assert inherit(path, TOKEN) is None
    die(queue)


def test_only_one_inherits(path):
    die(RowQueue(path, TOKEN))
    first = inherit(path, TOKEN)
    assert inherit(path, TOKEN) is None
    first.close(remove=True)
    assert not path.exists()


def test_what_is_marked_is_not_found_again(path):
    queue = RowQueue(path, TOKEN)
    put(queue, attempt(row=1), attempt(row=2))
    queue.mark(queue.head)
    put(queue, attempt(row=3))
    die(queue)
    assert [one.row for one in left(path)] == [3]


@pytest.mark.parametrize("which", [0, 1])
def test_a_mark_that_was_half_written_leaves_the_one_before(path, which):
    queue = RowQueue(path, TOKEN)
    if which:
        queue.mark(0)
    put(queue, attempt(row=1))
    queue.mark(queue.head)
    put(queue, attempt(row=2))
    queue.mark(queue.head)
    last = _queue._MARKS[1 - queue._marks]
    queue._map[last : last + 3] = b"\xa5\xa5\xa5"
    die(queue)
    assert [one.row for one in left(path)] == [2]


@pytest.mark.parametrize("position", [0, 1_000_003])
def test_whatever_the_lengths_no_lap_loses_or_repeats_a_record(path, position):
    dice = random.Random(position)
    queue = RowQueue(path, TOKEN, position=position, capacity=3_001)
    row, marked = 0, 0
    for _ in range(2_000):
        if dice.random() < 0.75:
            before = queue.refused
            put(queue, attempt(row=row + 1, error="e" * dice.randrange(200)))
            row += queue.refused == before
        else:
            queue.mark(queue.head)
            marked = row
        if dice.random() < 0.05:
            assert [one.row for one in read(path)] == list(range(marked + 1, row + 1))
    die(queue)
    assert [one.row for one in left(path)] == list(range(marked + 1, row + 1))


@pytest.mark.parametrize("position", [0, 1_000_003])
def test_a_record_may_end_where_the_lap_does(path, position):
    queue = RowQueue(path, TOKEN)
    size = queue.append(attempt(row=1))
    queue.close(remove=True)
    queue = RowQueue(path, TOKEN, position=position, capacity=4 * size)
    for row in range(1, 101):
        queue.mark(queue.head)
        put(queue, attempt(row=row))
        assert [one.row for one in read(path)] == [row]
    assert queue.refused == 0
    die(queue)


def read(path):
    """What would be found, if its process died now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [one for _, one in _queue._records(path, TOKEN, descriptor)]
    finally:
        os.close(descriptor)


def test_when_it_is_full_it_refuses_and_when_there_is_room_again_it_goes_on(path):
    queue = RowQueue(path, TOKEN, capacity=2_048)
    for row in range(1, 101):
        put(queue, attempt(row=row))
    taken = [one.row for one in read(path)]
    assert taken == list(range(1, len(taken) + 1))
    assert queue.refused == 100 - len(taken) > 0
    queue.mark(queue.head)
    put(queue, attempt(row=101))
    assert [one.row for one in read(path)] == [101]
    die(queue)


@pytest.mark.parametrize("cut", range(0, 340, 7))
def test_a_record_that_was_half_written_is_none_and_those_before_it_are(path, cut):
    queue = RowQueue(path, TOKEN)
    put(queue, attempt(row=1))
    start = queue.head
    put(queue, full_row())
    size = queue.head - start
    queue._map[DATA + start + min(cut, size - 1) : DATA + start + size] = bytes(size - min(cut, size - 1))
    die(queue)
    assert [one.row for one in left(path)] == [1]


def test_what_is_left_of_an_earlier_lap_is_no_record(path):
    queue = RowQueue(path, TOKEN, capacity=4_096)
    size = queue.append(attempt(row=1))
    for lap in range(3):
        for _ in range(4_096 // size):
            put(queue, attempt(row=lap + 1))
            queue.mark(queue.head)
    assert read(path) == []
    die(queue)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"usage": Usage(input_tokens=2**70)},
        {"usage": Usage(output_tokens=-(2**70))},
        {"cost": 2**80},
        {"error": "half \ud800 a pair"},
    ],
)
def test_values_that_cannot_be_put_down_are_mended(path, nonsense):
    queue = RowQueue(path, TOKEN)
    put(queue, ended(attempt(row=1), **nonsense), attempt(row=2))
    die(queue)
    assert [one.row for one in left(path)] == [1, 2]


def test_names_that_callers_invent_do_not_fill_it(path):
    queue = RowQueue(path, TOKEN)
    put(queue, attempt(row=1, model="m" * 100_000))
    assert queue.head < 2_048
    die(queue)
    assert len(left(path)[0].model) == 256


class TestOtherFiles:
    def refused(self, path, token=TOKEN):
        before = path.read_bytes()
        with pytest.raises(NotAQueue) as caught:
            inherit(path, token)
        assert path.read_bytes() == before
        descriptor = os.open(path, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nor is it still locked
        os.close(descriptor)
        return str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"x", b"these are the minutes" * 1_000, bytes(10_000)])
    def test_garbage_is_left_alone(self, path, content):
        path.write_bytes(content)
        assert "no ledger's queue" in self.refused(path)

    def test_so_is_another_version(self, path):
        die(RowQueue(path, TOKEN))
        with path.open("r+b") as file:
            file.seek(8)
            file.write(b"\x63")
        assert "version 99" in self.refused(path)

    def test_so_is_the_queue_of_another_process(self, path):
        die(RowQueue(path, TOKEN))
        assert "somebody else's" in self.refused(path, token="f" * 16)

    def test_so_is_one_whose_marks_are_gone(self, path):
        die(RowQueue(path, TOKEN))
        with path.open("r+b") as file:
            file.seek(_queue._MARKS[0])
            file.write(b"\xff" * 100)
        assert "damaged" in self.refused(path)

    def test_a_pipe_holds_nobody_up(self, path):
        os.mkfifo(path)
        with pytest.raises(NotAQueue, match="no file"):
            inherit(path, TOKEN)

    def test_a_link_is_not_followed(self, path, tmp_path):
        real = tmp_path / "real"
        die(RowQueue(real, TOKEN))
        path.symlink_to(real)
        with pytest.raises(OSError, match="symbolic links"):
            inherit(path, TOKEN)

    @pytest.mark.parametrize("size", [DATA, DATA + 5, DATA + 500, DATA + 3_000])
    def test_of_a_file_that_was_cut_the_whole_records_are_read(self, path, size):
        queue = RowQueue(path, TOKEN)
        ends = []
        for row in range(1, 20):
            put(queue, attempt(row=row))
            ends.append(queue.head)
        die(queue)
        os.truncate(path, size)
        assert len(left(path)) == sum(DATA + end <= size for end in ends)

    def test_bytes_that_change_behind_its_back_are_never_taken_for_a_row(self, path):
        dice = random.Random(5)
        queue = RowQueue(path, TOKEN, capacity=8_192)
        rows = [attempt(row=row) for row in range(1, 20)]
        put(queue, *rows)
        die(queue)
        whole = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[dice.randrange(DATA, DATA + queue.head)] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            found = left(path)
            assert len(found) < len(rows)
            assert all(same(*pair) for pair in zip(found, rows, strict=False))


def test_where_it_cannot_be_made_nothing_is_left(path):
    path.parent.joinpath("elsewhere").mkdir()
    blocked = queue_path(path.parent / "nowhere" / "ledger.db", TOKEN)
    with pytest.raises(FileNotFoundError):
        RowQueue(blocked, TOKEN)
    assert list(path.parent.glob("*.queue*")) == []


def test_queues_are_found_by_their_names(tmp_path):
    for name in (
        f"a.db-{TOKEN}.queue",
        f"a.db-{TOKEN}.lock",
        f"aXdb-{TOKEN}.queue",
        "a.db-short.queue",
        f"a.db-{TOKEN}.queue.new",
    ):
        (tmp_path / name).touch()
    assert list(queues_beside(tmp_path / "a.db")) == [(TOKEN, tmp_path / f"a.db-{TOKEN}.queue")]
    assert (tmp_path / f"a.db-{TOKEN}.queue.new").exists()  # somebody may be making it


def test_a_queue_that_was_never_completed_is_cleared_away(tmp_path):
    unfinished = tmp_path / f"a.db-{TOKEN}.queue.new"
    unfinished.touch()
    os.utime(unfinished, (1, 1))
    assert list(queues_beside(tmp_path / "a.db")) == []
    assert not unfinished.exists()


def test_what_an_attempt_looks_like_belongs_to_the_version():
    """Who changes an attempt's fields (but for more of them at the end) counts up ``_queue.VERSION``."""
    fields = (
        "id generation number tenant key_name tier endpoint model upstream upstream_model started reserved"
        " outcome usage cost status error first_token duration saved row answer label left_out cache_saved"
        " cache_missed"
    )
    assert _queue.VERSION == 1
    assert " ".join(Attempt.__struct_fields__) == fields
    assert Attempt.__struct_config__.array_like


def test_repr_tells_the_state(path):
    queue = RowQueue(path, TOKEN)
    put(queue, attempt(row=1))
    assert f"{queue.head} of {_queue.CAPACITY} bytes, 0 refused" in repr(queue)
    die(queue)
    dead = inherit(path, TOKEN)
    assert "1 records" in repr(dead)
    dead.close(remove=True)
