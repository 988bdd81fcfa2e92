"""The same question in other bytes, as the cache's benchmarks ask it: the figures are of nothing else."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # pytest may be started in other ways than `python -m pytest`
    sys.path.insert(0, str(ROOT))

from benchmarks.cache.asking import Questions, differently, request  # noqa: E402

ASKED = request(3, 80, stream=False)


def test_each_number_has_other_bytes_and_all_ask_the_same():
    written = [differently(ASKED, number) for number in range(40)]
    assert len(set(written)) == 40
    for raw in written:
        head, _, body = raw.partition(b"\r\n\r\n")
        assert b"\r\ncontent-length: %d" % len(body) in head
        assert json.loads(body) == json.loads(ASKED.partition(b"\r\n\r\n")[2])


def test_questions_are_the_same_bytes_each_time_or_never():
    anew, same = (
        [questions[3] for _ in range(20)] for questions in (Questions(80, anew=True), Questions(80))
    )
    assert len(set(anew)) == 20
    assert ASKED not in anew
    assert set(same) == {ASKED}
