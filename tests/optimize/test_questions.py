"""Questions with their answers, from a file."""

from __future__ import annotations

import json

import pytest

from penstock.optimize.faults import UnusableText
from penstock.optimize.questions import Question, read_questions

ASKED = [{"role": "user", "content": "2 + 2?"}]


def written(tmp_path, *lines):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines))
    return path


def test_each_line_is_a_question_with_one_answer_or_several_choices(tmp_path):
    path = written(
        tmp_path,
        {"prompt": "2 + 2 =", "answer": " 4"},
        "",
        {"messages": ASKED, "choices": ["3", "4"], "answer": 1},
    )
    assert read_questions(path) == [
        Question("2 + 2 =", (" 4",), 0, 1),
        Question(ASKED, ("3", "4"), 1, 3),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first(tmp_path):
    path = written(tmp_path, {"prompt": "2 + 2 =", "answer": " 4"})
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_questions(path) == [Question("2 + 2 =", (" 4",), 0, 1)]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        {"prompt": "2 + 2 ="},
        {"answer": "4"},
        {"prompt": " ", "answer": "4"},
        {"messages": [], "answer": "4"},
        {"messages": [{"role": "user"}], "answer": "4"},
        {"prompt": "2 + 2 =", "answer": " "},
        {"prompt": "2 + 2 =", "answer": 4},
        {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": "4"},
        {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 2},
        {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": -1},
        {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": True},
        {"prompt": "2 + 2 =", "choices": ["4"], "answer": 0},
        {"prompt": "2 + 2 =", "choices": ["4", "4"], "answer": 0},
        {"prompt": "2 + 2 =", "choices": ["", "4"], "answer": 1},
        {"prompt": "2 + 2 =", "choices": 4, "answer": 1},
    ],
    ids=str,
)
def test_what_is_no_question_is_refused_with_its_line(line, tmp_path):
    path = written(tmp_path, {"prompt": "2 + 2 =", "answer": " 4"}, line)
    with pytest.raises(UnusableText, match=rf"{path}, line 2: .*each line must be an object with"):
        read_questions(path)


def test_a_file_without_questions_is_refused(tmp_path):
    with pytest.raises(UnusableText, match="is empty"):
        read_questions(written(tmp_path, "", " "))
    with pytest.raises(UnusableText, match="cannot be read"):
        read_questions(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UnusableText, match="is not UTF-8"):
        read_questions(tmp_path / "bytes")
