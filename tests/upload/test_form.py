"""Forms, whole, byte by byte, from an independent writer, and broken in every way."""

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, UnsupportedMedia
from penstock.upload.form import MAX_FIELD_BYTES, MAX_PARTS, Field, FileBegin, FileData, FileEnd, FormReader

KIND = b"multipart/form-data; boundary=b"


def part(value, name="purpose", filename=None):
    of_file = f'; filename="{filename}"' if filename is not None else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--b--\r\n"


def read(form, kind=KIND, step=0):
    """The parts, the pieces of the file joined."""
    reader = FormReader(kind)
    parts = []
    for start in range(0, len(form), step or len(form) or 1):
        parts += reader.feed(form[start : start + (step or len(form))])
    reader.close()
    return joined(parts)


def joined(parts):
    whole = []
    for each in parts:
        if isinstance(each, FileData) and whole and isinstance(whole[-1], FileData):
            whole[-1] = FileData(whole[-1].data + each.data)
        else:
            whole.append(each)
    return whole


FORM = part(b"batch") + part(b"line 1\r\n--bline 2\n", "file", "in.jsonl") + END
PARTS = [
    Field("purpose", "batch"),
    FileBegin("file", "in.jsonl"),
    FileData(b"line 1\r\n--bline 2\n"),
    FileEnd(),
]


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7, 64])
def test_a_form_is_cut_into_its_parts_however_it_comes(step):
    assert read(FORM, step=step) == PARTS


def test_what_follows_the_last_boundary_is_ignored():
    assert read(FORM + b"an epilogue\r\n") == PARTS


@given(
    content=st.binary(max_size=2_000) | st.text("\r\n-b", max_size=200).map(str.encode),
    step=st.integers(min_value=1, max_value=500),
)
def test_a_form_of_somebody_elses_making_is_read_as_it_was_meant(content, step):
    request = httpx2.Request(
        "POST", "http://test", files={"file": ("f.bin", content)}, data={"purpose": "user_data"}
    )
    kind = request.headers["content-type"].encode()
    parts = read(request.read(), kind, step)
    assert [p for p in parts if isinstance(p, Field)] == [Field("purpose", "user_data")]
    assert b"".join(p.data for p in parts if isinstance(p, FileData)) == content


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\temp\\\\a.txt", "a.txt"),
        ("näive.txt", "näive.txt"),
        ("", "file"),
        ("..", ".."),
        ("a\x07b\x1b[31m", "ab[31m"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_a_text_without_a_path(sent, shown):
    parts = read(part(b"x", "file", sent) + END)
    assert parts[0] == FileBegin("file", shown)


@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/mixed; boundary=b", b"\xff"])
def test_what_is_no_form_is_refused(kind):
    with pytest.raises(UnsupportedMedia):
        FormReader(kind)


@pytest.mark.parametrize(
    "kind", [b"multipart/form-data", KIND + b"x" * 70, b'multipart/form-data; boundary=""']
)
def test_a_boundary_must_be_one(kind):
    with pytest.raises(BadRequest) as refused:
        FormReader(kind)
    assert refused.value.code == "invalid_form"


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"no form at all",
        FORM[:-8],
        part(b"x" * 10),
        part(b"x" * (MAX_FIELD_BYTES + 1)) + END,
        part(b"x", "file", "a") + part(b"y", "file", "b") + END,
        part(b"x") * (MAX_PARTS + 1) + END,
        b"--b\r\n\r\nno name\r\n" + END,
        b'--b\r\ncontent-disposition: attachment; name="x"\r\n\r\nx\r\n' + END,
        part(b"\xff\xfe") + END,
        b"--b\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n" + END,
        b"--b\r\n" + b"x: y\r\n" * 1_000 + b"\r\n" + END,
    ],
)
@pytest.mark.parametrize("step", [0, 5])
def test_a_broken_form_is_refused(form, step):
    with pytest.raises(BadRequest) as refused:
        read(form, step=step)
    assert refused.value.code == "invalid_form"


def test_a_large_file_is_not_kept():
    reader = FormReader(KIND)
    list(reader.feed(part(b"", "file", "f")[:-2]))
    for _ in range(1_000):
        (piece,) = reader.feed(bytes(10_000))
        assert len(piece.data) == 10_000
    assert repr(reader) == "<FormReader 1 parts, open>"
