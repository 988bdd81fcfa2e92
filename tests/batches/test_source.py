"""The input of a batch: checked whole, then read in portions, however odd its lines are."""

import io
import json

import pytest

from penstock.batches.source import MAX_FAULTS, LineSource, numbered, validate
from penstock.messages import Endpoint


def asked(custom_id):
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"input": custom_id}}
    )


def written(folder, *lines, end="\n"):
    path = folder / "input"
    path.write_text("\n".join(lines) + end)
    return path


def checked(path, **more):
    return validate(path, Endpoint.EMBEDDINGS, **{"max_lines": 1_000, "longest": 500, **more})


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n  \n"])
def test_blank_lines_are_none(end, tmp_path):
    assert checked(written(tmp_path, asked("a"), "", "  ", asked("b"), end=end)) == (2, ())


def test_faults_have_the_numbers_of_their_lines(tmp_path):
    count, faults = checked(written(tmp_path, asked("a"), "", "{", asked("b"), asked("a")))
    assert count == 4
    assert [(fault.line, fault.code) for fault in faults] == [
        (3, "invalid_json_line"),
        (5, "duplicate_custom_id"),
    ]


def test_faults_are_told_up_to_a_number(tmp_path):
    _, faults = checked(written(tmp_path, *["{"] * 500))
    assert len(faults) == MAX_FAULTS


def test_as_many_lines_as_allowed_and_no_more(tmp_path):
    path = written(tmp_path, *(asked(f"c{n}") for n in range(50_000)))
    assert checked(path, max_lines=50_000) == (50_000, ())
    _, faults = checked(path, max_lines=49_999)
    assert [fault.code for fault in faults] == ["too_many_tasks"]


def test_a_line_that_is_too_long_is_told_and_never_held(tmp_path):
    path = written(tmp_path, asked("a"), "x" * 3_000_000, asked("b"))
    count, faults = checked(path)
    assert count == 3
    assert [(fault.line, fault.code) for fault in faults] == [(2, "invalid_request")]
    with path.open("rb") as source:
        assert max(len(text) for _, text in numbered(source, 500)) == 501


def test_a_line_of_just_the_longest_length_is_whole():
    assert list(numbered(io.BytesIO(b"12345\n12345\n1234567\n1"), 6)) == [
        (1, b"12345\n"),
        (2, b"12345\n"),
        (3, b"1234567"),
        (4, b"1"),
    ]


def test_lines_come_in_portions_without_those_that_are_done(tmp_path):
    path = written(tmp_path, *(asked(f"c{n}") for n in range(10)))
    source = LineSource(path, Endpoint.EMBEDDINGS, 500, {"c0", "c4"})
    assert [line.custom_id for line in source.take(3, 1_000_000)] == ["c1", "c2", "c3"]
    assert [line.custom_id for line in source.take(100, 150)] == ["c5", "c6"]  # about so many bytes
    assert [line.custom_id for line in source.take(100, 1_000_000)] == ["c7", "c8", "c9"]
    assert source.take(1, 1) == []
    source.close()
