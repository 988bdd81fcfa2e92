"""Texts for calibration and evaluation."""

from __future__ import annotations

import pytest

from penstock.optimize.faults import UnusableText
from penstock.optimize.texts import read_texts, windows


def test_a_plain_file_is_one_text(texts):
    assert read_texts(texts) == ["to be, or not to be\n"]


def test_lines_have_texts_or_messages(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(
        '{"text": "one"}\n\n{"messages": [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "2"}]}\n'
    )
    assert read_texts(path) == ["one", "user: two?\n\nassistant: 2"]


@pytest.mark.parametrize("name", ["set.jsonl", "set.JSONL", "set.ndjson", "set.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    path = tmp_path / name
    said = '{"text": "one"}\n' if name != "set.txt" else "one"
    path.write_text(said, encoding="utf-8-sig")
    assert read_texts(path) == ["one"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.json", '[{"text": "one"}]'),
        ("set.txt", '{"text": "one"}\n{"text": "two"}\n'),
        ("set", '\n{"messages": []}\n'),
    ],
)
def test_lines_of_json_under_another_name_are_not_learnt_as_they_stand(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UnusableText, match=rf"{name} holds JSON.*\.jsonl"):
        read_texts(path)


@pytest.mark.parametrize("content", ["[1] is a citation\n", '{"a": 1}\nis JSON, said he\n', "{}\n"])
def test_a_text_may_begin_like_json(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)
    assert read_texts(tmp_path / "a.txt") == [content]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"txt": "a"}', '{"text": 1}', '{"messages": ["a"]}', '{"messages": [{"role": "a"}]}']
)
def test_a_line_in_another_form_is_named(tmp_path, line):
    path = tmp_path / "set.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(UnusableText, match=r"set\.jsonl, line 2: .*each line must be an object"):
        read_texts(path)


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", " \n"), ("a.jsonl", ""), ("a.jsonl", '{"text": " "}\n')]
)
def test_an_empty_set_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UnusableText, match="is empty: give"):
        read_texts(path)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UnusableText, match="No such file"):
        read_texts(tmp_path / "none")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnusableText, match="is not UTF-8"):
        read_texts(tmp_path / "bytes.txt")


def test_pieces_are_cut_in_order_and_the_rest_is_left(tmp_path):
    assert windows(list(range(10)), 4, 5, tmp_path) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(list(range(10)), 4, 1, tmp_path) == [[0, 1, 2, 3]]
    with pytest.raises(UnusableText, match="has 3 tokens, fewer than one piece of 4"):
        windows([1, 2, 3], 4, 5, tmp_path)
