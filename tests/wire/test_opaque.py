"""What is read of requests and answers that go through as bytes."""

import json

import pytest

from penstock.errors import BadRequest, PenstockError, UpstreamBroken
from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.wire import opaque
from penstock.wire.usage import MAX_TOKENS

FORM = {b"content-type": b"multipart/form-data; boundary=b"}


def read(endpoint, body, headers=()):
    return opaque.read(
        endpoint, dict(headers), body if isinstance(body, bytes) else json.dumps(body).encode()
    )


def a_call(endpoint, body):
    found = read(endpoint, body)
    return Call("gen_0", endpoint, found.model, False, found.fields, found.body, {}, 0.0, Tenant())


def test_a_moderation_may_come_without_a_model():
    found = read(Endpoint.MODERATIONS, {"input": "x"})
    assert found.model == opaque.DEFAULT_MODERATION
    assert json.loads(found.body) == {"input": "x", "model": opaque.DEFAULT_MODERATION}


@pytest.mark.parametrize("endpoint", [each for each in Endpoint if each.opaque])
def test_json_goes_on_as_it_came(endpoint):
    body = b'{ "input" : "a\\u0041", "model":"m", "prompt": 1.0 }'
    found = read(endpoint, body)
    assert (found.model, found.body) == ("m", body)
    call = a_call(endpoint, body)
    assert opaque.renamed(call, "other") == b'{"input":"a\\u0041","model":"other","prompt":1.0}'
    assert opaque.content_type(call) == b"application/json"


@pytest.mark.parametrize(
    ("endpoint", "body", "headers"),
    [
        (Endpoint.RERANK, {"query": "x"}, ()),
        (Endpoint.RERANK, {"model": 5}, ()),
        (Endpoint.RERANK, {"model": ""}, ()),
        (Endpoint.RERANK, {"model": "m" * 257}, ()),
        (Endpoint.MODERATIONS, {"model": None}, ()),
        (Endpoint.RERANK, b"[]", ()),
        (Endpoint.RERANK, b"", ()),
        (Endpoint.SPEECH, b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n', FORM),
        (Endpoint.TRANSCRIPTIONS, b"--b--\r\n", ()),
        (
            Endpoint.TRANSCRIPTIONS,
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nm\r\n--b--\r\n',
            FORM,
        ),
    ],
)
def test_what_names_no_model_is_refused(endpoint, body, headers):
    with pytest.raises(BadRequest):
        read(endpoint, body, headers)


DETAILS = {"text_tokens": 3, "image_tokens": 7}
TOLD = [
    (Endpoint.IMAGES_GENERATIONS, {"data": [{}, {}]}, Usage(units=2)),
    (
        Endpoint.IMAGES_EDITS,
        {"data": [{}], "usage": {"input_tokens": 10, "output_tokens": 272, "input_tokens_details": DETAILS}},
        Usage(10, 272, image_input_tokens=7, units=1),
    ),
    (Endpoint.TRANSCRIPTIONS, {"text": "x", "usage": {"type": "duration", "seconds": 9}}, Usage(units=9_000)),
    (
        Endpoint.TRANSCRIPTIONS,
        {
            "text": "x",
            "duration": 3.0,
            "usage": {
                "type": "tokens",
                "input_tokens": 5,
                "output_tokens": 2,
                "input_token_details": {"audio_tokens": 4},
            },
        },
        Usage(5, 2, audio_input_tokens=4),
    ),
    (Endpoint.TRANSLATIONS, {"text": "x", "duration": 8.4701}, Usage(units=8_471)),
    (Endpoint.TRANSLATIONS, {"text": "x", "duration": "8.4"}, Usage(units=8_400)),
    (Endpoint.TRANSCRIPTIONS, {"text": "x"}, None),
    (Endpoint.RERANK, {"results": [], "meta": {"billed_units": {"search_units": 2}}}, Usage(units=2)),
    (Endpoint.RERANK, {"results": [], "usage": {"total_tokens": 38}}, Usage(38)),
    (Endpoint.RERANK, {"results": [], "meta": {"billed_units": None}}, None),
    (Endpoint.MODERATIONS, {"results": []}, Usage()),
    (Endpoint.MODERATIONS, {"results": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}, Usage(9)),
    (Endpoint.RERANK, {"usage": {"total_tokens": "many"}}, None),
    (Endpoint.RERANK, {"meta": {"billed_units": {"search_units": 1e300}}}, Usage(units=opaque.MAX_UNITS)),
    (Endpoint.RERANK, {"meta": {"billed_units": {"search_units": -4}}}, None),
    (Endpoint.RERANK, {"usage": {"total_tokens": MAX_TOKENS + 1}}, None),
    (Endpoint.TRANSCRIPTIONS, {"usage": {"input_tokens": 1, "output_tokens": 10**18}}, None),
    (Endpoint.IMAGES_GENERATIONS, {"data": [{}], "usage": {"input_tokens": 10**18}}, Usage(units=1)),
]


@pytest.mark.parametrize("model", [5, None, ["a"], {}])
def test_a_model_of_another_type_is_named_as_what_is_wrong(model):
    with pytest.raises(BadRequest, match="model must be a string") as refused:
        read(Endpoint.SPEECH, {"model": model, "input": "x"})
    assert (refused.value.param, refused.value.code) == ("model", "invalid_type")


@pytest.mark.parametrize(("endpoint", "body", "usage"), TOLD)
def test_what_an_answer_says_that_it_used(endpoint, body, usage):
    assert opaque.usage_of(endpoint, json.dumps(body).encode()) == usage


def test_the_characters_of_speech_are_counted_not_its_bytes():
    body = json.dumps({"model": "m", "input": "süß 🎵"}).encode()
    assert opaque.characters(a_call(Endpoint.SPEECH, body)) == 5
    assert opaque.characters(a_call(Endpoint.SPEECH, b'{"model":"m"}')) == 0
    assert opaque.characters(a_call(Endpoint.SPEECH, b'{"model":"m","input":[1]}')) == 0


@pytest.mark.parametrize(
    ("endpoint", "kind", "whole"),
    [
        (Endpoint.RERANK, b"application/json", True),
        (Endpoint.RERANK, b"", True),
        (Endpoint.SPEECH, b"audio/mpeg", False),
        (Endpoint.SPEECH, b"application/octet-stream", False),
        (Endpoint.SPEECH, b"", False),
        (Endpoint.SPEECH, b"application/json; charset=utf-8", True),
        (Endpoint.TRANSCRIPTIONS, b"text/plain; charset=utf-8", True),
        (Endpoint.TRANSCRIPTIONS, b"text/vtt", True),
        (Endpoint.TRANSCRIPTIONS, b"application/x-subrip", True),
    ],
)
def test_which_answers_wait_until_they_are_whole(endpoint, kind, whole):
    assert opaque.is_whole(endpoint, kind) is whole


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        (Endpoint.RERANK, b"text/plain"),
        (Endpoint.SPEECH, b"text/html"),
        (Endpoint.TRANSCRIPTIONS, b"text/html"),
    ],
)
def test_somebodys_web_page_is_no_answer(endpoint, kind):
    with pytest.raises(UpstreamBroken):
        opaque.is_whole(endpoint, kind)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b'{"error":{"message":"no"}}', b'{"error":"no"}'])
def test_an_answer_without_substance_is_none(body):
    with pytest.raises(PenstockError):
        opaque.check_substance(Endpoint.RERANK, body, "up")


def test_an_answer_with_substance_is_one():
    opaque.check_substance(Endpoint.MODERATIONS, b'{"results":[],"error":null}', "up")
    opaque.check_substance(Endpoint.TRANSCRIPTIONS, b"plain words, called JSON", "up")


def frame(value):
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def test_a_stream_is_complete_with_the_last_of_its_closing_events():
    watch = opaque.Watch(Endpoint.IMAGES_GENERATIONS, "up", answers=2)
    kept = []
    one = {"type": "image_generation.completed", "usage": {"input_tokens": 4, "output_tokens": 6}}
    watch.take([b": hb\n\n", frame({"type": "image_generation.partial_image"}), frame(one)], kept)
    assert not watch.complete
    assert watch.usage == Usage(4, 6, units=1)
    watch.take([b"id: 7\n" + frame(one)], kept)
    assert watch.complete
    assert watch.usage == Usage(8, 12, units=2)
    assert kept[1:] == [frame(one)] * 2


def test_a_transcription_that_streams_like_a_chat_is_complete_with_done():
    watch = opaque.Watch(Endpoint.TRANSCRIPTIONS, "up")
    chunk = {"object": "transcription.chunk", "choices": [{"delta": {"content": "x"}}], "usage": None}
    last = {
        "object": "transcription.chunk",
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    }
    watch.take([frame(chunk), frame(last)], [])
    assert not watch.complete
    watch.take([frame(b"[DONE]")], [])
    assert watch.complete
    assert watch.usage == Usage(9, 3)


@pytest.mark.parametrize(
    "event", [{"type": "error", "message": "no"}, {"error": {"message": "no"}}, b'{"type": "transcr', b"[]"]
)
def test_an_event_that_tells_of_an_error_or_makes_no_sense_ends_the_stream(event):
    with pytest.raises(PenstockError):
        opaque.Watch(Endpoint.SPEECH, "up").take([frame(event)], [])


def test_how_many_images_a_stream_holds():
    assert opaque.wanted(a_call(Endpoint.IMAGES_GENERATIONS, b'{"model":"m","n":3}')) == 3
    assert opaque.wanted(a_call(Endpoint.IMAGES_GENERATIONS, b'{"model":"m","n":"many"}')) == 1
    assert opaque.wanted(a_call(Endpoint.SPEECH, b'{"model":"m","n":3}')) == 1
