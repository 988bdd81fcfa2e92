"""Moderations, images, speech, transcriptions and rerank by OpenAI's SDK, through a gateway, to the simulator."""

import asyncio
import base64
import hashlib
import io
import json
import wave
import zlib

import openai
import pytest
from continuing import simulated
from serving import call, on_uvloop, until

from penstock.lab import media
from penstock.lab.text import tokens

# The SDK warns of what few use any more.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

SOUND = media.wav(b"\7", 40)  # 4 s, 32 KB: two seconds for the simulator
PICTURE = ("cat.png", media.png(b"cat"), "image/png")
TEXT = "twelve small words are spoken here and each has its own tone"


def spoken(data):
    """What the simulator hears in a file."""
    digest = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    return b"".join(tokens(digest, 0, 12)).decode()


def is_png(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at = data.index(b"IDAT")
    assert len(zlib.decompress(data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")])) == 8 * 25
    return True


def seconds_of(sound):
    with wave.open(io.BytesIO(sound)) as read:
        return read.getnframes() / read.getframerate()


def asked(use, *scripts, **more):
    """What ``use`` makes of a client and of the gateway that it calls; and that the bill is the ledger's."""

    async def main():
        async with simulated(*(scripts or ("tokens=4",)), **more) as (gateway, port, simulators):
            options = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none", "max_retries": 0}
            async with openai.AsyncOpenAI(**options) as client:
                with openai.OpenAI(**options) as plain:
                    found = await use(client, plain)
            await until(lambda: not gateway.pipeline.productions)
            rows = gateway.recorder.ledger.recent()
            for figure in ("input_tokens", "output_tokens", "units"):
                billed = sum(simulator.bill.report()[figure] for simulator in simulators)
                assert sum(getattr(row.usage, figure) for row in rows) == billed, figure
            return found, rows

    return on_uvloop(main)


def test_moderations_with_a_model_and_without():
    async def use(client, plain):
        flagged = await client.moderations.create(model="m", input=["a violent text", "a text"])
        again = await asyncio.to_thread(plain.moderations.create, model="m", input="a text")
        return flagged, again

    (flagged, again), rows = asked(use)
    assert [one.flagged for one in flagged.results] == [True, False]
    assert not again.results[0].flagged
    assert {row.endpoint for row in rows} == {"moderations"}
    assert all(row.cost == 0 and not row.usage.estimated for row in rows)


def test_images_are_generated():
    async def use(client, plain):
        two = await client.images.generate(model="m", prompt="a cat", n=2)
        one = await asyncio.to_thread(plain.images.generate, model="m", prompt="a cat")
        return two, one

    (two, one), rows = asked(use)
    assert [is_png(base64.b64decode(each.b64_json)) for each in two.data] == [True, True]
    assert two.usage.output_tokens == 2 * media.IMAGE_OUTPUT_TOKENS
    assert is_png(base64.b64decode(one.data[0].b64_json))
    assert [(row.usage.units, row.usage.output_tokens) for row in rows] == [(1, 272), (2, 544)]


def test_images_are_streamed():
    async def use(client, plain):
        stream = await client.images.generate(model="m", prompt="a cat", n=2, stream=True)
        return [event async for event in stream]

    events, rows = asked(use)
    assert [event.type for event in events] == [
        *["image_generation.partial_image"] * 2,
        *["image_generation.completed"] * 2,
    ]
    assert rows[0].usage.units == 2


def test_images_are_edited_and_varied():
    async def use(client, plain):
        edited = await client.images.edit(
            model="m", image=[PICTURE, PICTURE], mask=PICTURE, prompt="with a hat"
        )
        again = await asyncio.to_thread(plain.images.edit, model="m", image=PICTURE, prompt="with a hat")
        varied = await client.images.create_variation(model="m", image=PICTURE)
        events = [
            event
            async for event in await client.images.edit(model="m", image=PICTURE, prompt="x", stream=True)
        ]
        return edited, again, varied, events

    (edited, again, varied, events), rows = asked(use)
    assert is_png(base64.b64decode(edited.data[0].b64_json))
    assert is_png(base64.b64decode(again.data[0].b64_json))
    assert is_png(base64.b64decode(varied.data[0].b64_json))
    assert events[-1].type == "image_edit.completed"
    assert [row.usage.image_input_tokens for row in reversed(rows)] == [768, 256, 256, 256]


def test_speech_is_sound_that_comes_as_it_is_made():
    async def use(client, plain):
        whole = await client.audio.speech.create(model="m", voice="alloy", input=TEXT, response_format="wav")
        again = await asyncio.to_thread(plain.audio.speech.create, model="m", voice="alloy", input=TEXT)
        streaming = client.audio.speech.with_streaming_response.create(model="m", voice="alloy", input=TEXT)
        async with streaming as response:
            kind = response.headers["content-type"]
            pieces = [piece async for piece in response.iter_bytes()]
        return whole.content, again.content, pieces, kind

    (whole, again, pieces, kind), rows = asked(use, "tps=200")
    assert seconds_of(whole) == 1.2
    assert len(pieces) > 1
    assert b"".join(pieces) == again
    assert kind == "audio/wav"
    assert {(row.usage.units, row.usage.estimated) for row in rows} == {(len(TEXT), True)}


def test_speech_is_streamed_as_events():
    async def use(client, plain):
        streaming = client.audio.speech.with_streaming_response.create(
            model="m", voice="alloy", input=TEXT, stream_format="sse"
        )
        async with streaming as response:
            return [json.loads(line[6:]) async for line in response.iter_lines() if line.startswith("data: ")]

    events, rows = asked(use)
    sound = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert seconds_of(sound) == 1.2
    assert events[-1]["type"] == "speech.audio.done"
    assert rows[0].usage.output_tokens == len(events) - 1
    assert not rows[0].usage.estimated


def test_sound_is_transcribed_and_translated():
    async def use(client, plain):
        file = ("said.wav", SOUND, "audio/wav")
        text = await client.audio.transcriptions.create(model="m", file=file)
        words = await client.audio.transcriptions.create(model="m", file=file, response_format="verbose_json")
        bare = await client.audio.transcriptions.create(model="m", file=file, response_format="srt")
        english = await asyncio.to_thread(plain.audio.translations.create, model="m", file=file)
        deltas = [
            event
            async for event in await client.audio.transcriptions.create(model="m", file=file, stream=True)
        ]
        return text, words, bare, english, deltas

    (text, words, bare, english, deltas), rows = asked(use)
    said = spoken(SOUND)
    assert text.text == english.text == words.text == said
    assert said in bare
    assert deltas[-1].text == "".join(event.delta for event in deltas[:-1]) == said
    assert rows[0].usage.audio_input_tokens == rows[-1].usage.audio_input_tokens == 30
    assert rows[0].usage.output_tokens == 12


def test_ranks_at_the_three_paths_where_clients_look_for_them():
    async def main():
        body = {
            "model": "m",
            "query": "q",
            "documents": [f"text {number}" for number in range(101)],
            "top_n": 3,
        }
        async with simulated("tokens=4") as (gateway, port, _):
            answers = [await call(port, body, path) for path in ("/v1/rerank", "/rerank", "/v2/rerank")]
            return answers, gateway.recorder.ledger.recent()

    answers, rows = on_uvloop(main)
    found = answers[0].json()
    scores = [one["relevance_score"] for one in found["results"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert [answer.json()["results"] for answer in answers] == [found["results"]] * 3
    assert [(row.endpoint, row.usage.units) for row in rows] == [("rerank", 2)] * 3


@pytest.mark.parametrize(
    ("script", "error"), [("429,retry-after=0", openai.RateLimitError), ("400", openai.BadRequestError)]
)
def test_errors_are_those_of_the_sdk(script, error):
    async def use(client, plain):
        with pytest.raises(error):
            await client.audio.transcriptions.create(model="m", file=("a.wav", SOUND))
        with pytest.raises(error):
            await client.images.generate(model="m", prompt="x")

    _, rows = asked(use, script)
    assert all(row.usage.units == 0 for row in rows)
