"""Forms that are relayed: read once, written in one way, and never to be read in two."""

import email.parser
import email.policy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BadRequest, UnsupportedMedia
from penstock.wire import form

TYPE = b"multipart/form-data; boundary=b"
WAV = b"RIFF\r\n--not the boundary\r\n\0\xff"


def part(name, content, *, filename=None, kind=None, more=()):
    head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    lines = [head, *([f"Content-Type: {kind}"] if kind else []), *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


MODEL = part("model", b"whisper-1")
FILE = part("file", WAV, filename="said.wav", kind="audio/wav")


def a_form(*parts, boundary=b"b"):
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, one) for one in parts) + b"--" + boundary + b"--\r\n"


def parts_of(body):
    """As Python's own reader understands a form that was written here: name, file's name, type, content."""
    head = b"Content-Type: " + form.content_type(body) + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    return [
        (
            one.get_param("name", header="content-disposition"),
            one.get_filename(),
            one.get("content-type", None),
            one.get_payload(decode=True),
        )
        for one in message.iter_parts()
    ]


def test_the_model_comes_first_and_the_others_stay_as_they_are():
    found = form.read(TYPE, a_form(part("prompt", "wörd".encode()), FILE, MODEL))
    assert found.model == "whisper-1"
    assert parts_of(found.body) == [
        ("model", None, None, b"whisper-1"),
        ("prompt", None, None, "wörd".encode()),
        ("file", "said.wav", "audio/wav", WAV),
    ]
    assert json.loads(bytes(found.fields["prompt"])) == "wörd"


def test_the_boundary_does_not_count():
    one = form.read(TYPE, a_form(MODEL, FILE))
    other = form.read(
        b'Multipart/Form-Data; charset=utf-8; boundary="a b:c"', a_form(FILE, MODEL, boundary=b"a b:c")
    )
    assert one == other


@pytest.mark.parametrize(
    "other",
    [
        a_form(MODEL, part("file", WAV + b"\0", filename="said.wav", kind="audio/wav")),
        a_form(MODEL, part("file", WAV, filename="said.mp3", kind="audio/wav")),
        a_form(MODEL, part("file", WAV, filename="said.wav", kind="audio/mpeg")),
        a_form(MODEL, FILE, part("prompt", b"")),
        a_form(part("model", b"whisper-2"), FILE),
    ],
)
def test_whatever_else_differs_makes_another_form(other):
    one, another = form.read(TYPE, a_form(MODEL, FILE)), form.read(TYPE, other)
    assert one.body != another.body
    assert {name: bytes(value) for name, value in one.fields.items()} != {
        name: bytes(value) for name, value in another.fields.items()
    }


def test_the_model_can_be_replaced():
    body = form.read(TYPE, a_form(FILE, MODEL)).body
    renamed = form.renamed(body, "openai/whisper-large-v3")
    assert parts_of(renamed) == [("model", None, None, b"openai/whisper-large-v3"), *parts_of(body)[1:]]
    assert form.renamed(body, "whisper-1") is body
    assert form.is_form(renamed)
    assert not form.is_form(b'{"model":"m"}')


def test_what_is_written_here_is_read_as_itself():
    body = form.read(TYPE, a_form(FILE, MODEL)).body
    again = form.read(form.content_type(body), body)
    assert again.body == body


def test_parts_of_one_name_are_all_kept():
    pictures = [part("image[]", b"%d" % n, filename=f"{n}.png", kind="image/png") for n in range(3)]
    found = form.read(TYPE, a_form(*pictures, part("t[]", b"word"), part("t[]", b"segment"), MODEL))
    assert [one[3] for one in parts_of(found.body)] == [b"whisper-1", b"0", b"1", b"2", b"word", b"segment"]
    assert json.loads(bytes(found.fields["t[]"])) == ["word", "segment"]


def test_a_form_without_a_model_says_so():
    assert form.read(TYPE, a_form(FILE)).model is None


def test_a_name_that_the_standard_forbids_and_clients_send():
    disposition = b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''s%C3%A4ge.wav\r\n\r\nx"
    found = form.read(TYPE, a_form(MODEL, disposition))
    assert 'filename="säge.wav"'.encode() in found.body


def test_quotes_in_a_name_cannot_end_it():
    odd = b'Content-Disposition: form-data; name="file"; filename="a\\"; name=\\"model"\r\n\r\nx'
    found = form.read(TYPE, a_form(MODEL, odd))
    assert found.model == "whisper-1"
    assert [one[0] for one in parts_of(found.body)] == ["model", "file"]


def test_nothing_of_a_part_goes_on_but_what_was_understood():
    odd = part("prompt", b"x", more=("X-Injected: 1", "Content-Length: 5"))
    assert b"X-Injected" not in form.read(TYPE, a_form(MODEL, odd)).body


REFUSED = {
    "two models": a_form(MODEL, FILE, part("model", b"gpt-5")),
    "a model that is a file": a_form(part("model", b"whisper-1", filename="m"), FILE),
    "a model of two lines": a_form(part("model", b"a\r\n--x"), FILE),
    "a model that is no text": a_form(part("model", b"\xff\xfe"), FILE),
    "a coded model": a_form(
        part("model", b"d2hpc3Blci0x", more=("Content-Transfer-Encoding: base64",)), FILE
    ),
    "a part without a name": a_form(MODEL, b"Content-Disposition: form-data\r\n\r\nx"),
    "a part without a disposition": a_form(MODEL, b"Content-Type: text/plain\r\n\r\nx"),
    "a part with two": a_form(
        MODEL, FILE.replace(b"\r\n", b'\r\nContent-Disposition: form-data; name="model"\r\n', 1)
    ),
    "a part that is no form's": a_form(MODEL, b'Content-Disposition: attachment; name="x"\r\n\r\nx'),
    "another boundary": a_form(MODEL, FILE, boundary=b"c"),
    "no last boundary": a_form(MODEL, FILE)[:-6],
    "cut in a head": a_form(MODEL, FILE)[:-80],
    "bare line feeds": a_form(MODEL, FILE).replace(b"\r\n", b"\n"),
    "nothing": b"",
    "JSON": b'{"model":"whisper-1"}',
    "too many parts": a_form(MODEL, *[part("x", b"")] * form.MAX_PARTS),
    "too much text": a_form(MODEL, part("prompt", b"x" * form.MAX_TEXT_BYTES)),
    "a long name": a_form(MODEL, part("n" * 300, b"x")),
    "a media type that is none": a_form(MODEL, part("file", b"x", filename="f", kind="audio/\x01wav")),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(body):
    with pytest.raises(BadRequest) as refused:
        form.read(TYPE, body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (b"multipart/form-data", BadRequest),
        (b"multipart/form-data; boundary=", BadRequest),
        (b"multipart/form-data; boundary=" + b"b" * 71, BadRequest),
        (b"multipart/mixed; boundary=b", UnsupportedMedia),
    ],
)
def test_a_type_that_is_no_forms(kind, error):
    with pytest.raises(error):
        form.read(kind, a_form(MODEL, FILE))


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20))
def test_any_content_and_any_model_come_back(content, name):
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name) or b"\r\n--b" in b"\r\n" + content:
        return
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return
    body = a_form(part("file", content, filename="f", kind="x/y"), part("model", encoded))
    found = form.read(TYPE, body)
    assert found.model == name
    assert found.body.count(content) >= 1
    again = form.read(form.content_type(found.body), form.renamed(found.body, "other"))
    assert again.model == "other"
    assert {**again.fields, "model": None}.keys() == found.fields.keys()
    assert bytes(again.fields["file"]) == bytes(found.fields["file"])


@given(st.binary(max_size=300))
def test_no_bytes_are_a_defect(data):
    for body in (data, a_form(MODEL, data), a_form(data, MODEL)):
        try:
            form.read(TYPE, body)
        except BadRequest:
            continue
