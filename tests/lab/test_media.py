"""What the simulator draws, speaks, hears and ranks."""

import json
import struct
import wave
import zlib
from io import BytesIO

import pytest

from penstock.errors import BadRequest
from penstock.lab import media
from penstock.messages import Endpoint

FORM = b"multipart/form-data; boundary=b"


def asked(endpoint, content_type=b"application/json", **body):
    return media.read(endpoint, content_type, json.dumps({"model": "sim", **body}).encode())


def made(endpoint, **body):
    return media.made(asked(endpoint, **body))


def sent(answer):
    stream = answer.stream
    return stream.opening + stream.render(0, stream.total) + stream.finish + stream.terminator


def test_an_image_is_a_png_that_the_digest_decides():
    picture = media.png(b"a")
    at, chunks = 8, []
    while at < len(picture):
        (length,) = struct.unpack_from(">I", picture, at)
        kind, data = picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", picture, at + 8 + length)
        assert crc == zlib.crc32(kind + data)
        chunks.append(kind)
        at += 12 + length
    assert chunks == [b"IHDR", b"IDAT", b"IEND"]
    assert picture == media.png(b"a") != media.png(b"b")


def test_images_are_edited_by_their_addresses_too():
    two = [{"image_url": "data:image/png;base64,eA=="}, {"file_id": "file-1"}]
    assert made(Endpoint.IMAGES_EDITS, prompt="four", images=two).input_tokens == 1 + 2 * 256
    with pytest.raises(BadRequest, match="image"):
        made(Endpoint.IMAGES_EDITS, prompt="four", images=[])


def test_speech_is_as_long_as_its_words():
    answer = made(Endpoint.SPEECH, voice="v", input="one two three")
    with wave.open(BytesIO(sent(answer))) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(0.3)
    assert (answer.kind, answer.units) == (b"audio/wav", 13)
    assert sent(answer) != sent(made(Endpoint.SPEECH, voice="w", input="one two three"))


def test_a_form_is_read_and_its_file_decides_the_text():
    def heard(sound, boundary=b"b"):
        line = b"--" + boundary
        body = (
            line
            + b'\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + sound
            + b"\r\n"
            + line
            + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nsim\r\n'
            + line
            + b"--\r\n"
        )
        kind = b"multipart/form-data; boundary=" + boundary
        return json.loads(media.made(media.read(Endpoint.TRANSCRIPTIONS, kind, body)).body)["text"]

    assert heard(b"x" * 99) == heard(b"x" * 99, b"other") != heard(b"y" * 99)


def test_ranks_are_an_order_of_the_documents():
    answer = json.loads(made(Endpoint.RERANK, query="q", documents=["a", {"text": "b"}, "c"], top_n=2).body)
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len({one["index"] for one in answer["results"]}) == 2


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.SPEECH, {}),
        (Endpoint.MODERATIONS, {}),
        (Endpoint.RERANK, {"query": "q"}),
        (Endpoint.RERANK, {"query": "q", "documents": []}),
        (Endpoint.IMAGES_GENERATIONS, {"prompt": ""}),
        (Endpoint.IMAGES_EDITS, {"prompt": "x"}),
        (Endpoint.TRANSCRIPTIONS, {"file": "x"}),
        (Endpoint.SPEECH, {"model": None, "input": "x"}),
    ],
)
def test_what_the_api_wants_must_be_there(endpoint, body):
    with pytest.raises(BadRequest):
        made(endpoint, **body)


def test_what_is_no_form_is_refused_or_empty():
    with pytest.raises(BadRequest):
        media.read(Endpoint.TRANSCRIPTIONS, FORM, b"nothing of the kind")
