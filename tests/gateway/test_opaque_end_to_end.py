"""What goes through as bytes goes the same way as everything else: broken, repeated, shared, refused, paid for."""

import asyncio
import gzip
import json
import re

import pytest
from continuing import simulated
from in_pieces import in_pieces
from serving import call, chunk, config, error, frame, on_uvloop, plain, request, rows, serving, until

from penstock.config.keys import hash_key
from penstock.config.model import (
    CandidateConfig,
    CodingsConfig,
    KeyConfig,
    LimitConfig,
    LimitsConfig,
    ListenerConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
)
from penstock.messages import Outcome, Usage
from penstock.testing import FakeClock, ScriptedUpstream, Step

SPEECH = {"model": "m", "voice": "alloy", "input": "eleven char"}
SOUND_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
QUICK = RetryConfig(first_delay=0.001, max_delay=0.001)
RANKS = {"results": [{"index": 0, "relevance_score": 1.0}], "meta": {"billed_units": {"search_units": 1}}}
ASKED = {"model": "m", "query": "q", "documents": ["d"]}
WAV = b"RIFF" + bytes(range(256)) * 40


def a_form(boundary="b", model="m", sound=WAV, **fields):
    parts = [
        f'form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in {**fields, "model": model}.items()
    ]
    parts.insert(1, b'form-data; name="file"; filename="said.wav"\r\nContent-Type: audio/wav\r\n\r\n' + sound)
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + line + b"--\r\n"
    return body, [f"content-type: multipart/form-data; boundary={boundary}"]


def asked_with(upstream, number=-1):
    """Head and body of a request that the scripted upstream got."""
    head, _, body = upstream.received[number].partition(b"\r\n\r\n")
    return head, body


# ---- on the way to the upstream --------------------------------------------------------------------


def test_each_candidate_gets_its_own_name_for_the_model_in_a_form():
    async def main():
        broken, whole = [Step.REQUEST, error("500 Oops")], [Step.REQUEST, plain({"text": "hi"})]
        async with ScriptedUpstream([broken]) as first, ScriptedUpstream([whole]) as second:
            settings = config(first.url, second.url, retry=RetryConfig(attempts=1))
            candidates = [
                CandidateConfig(upstream="up0", model="one"),
                CandidateConfig(upstream="up1", model="two", weight=0.0),
            ]
            settings.models["m"] = ModelConfig(candidates=candidates)
            async with serving(settings) as (gateway, port):
                body, headers = a_form(language="de")
                answer = await call(port, body, "/v1/audio/transcriptions", headers=headers)
                return answer, asked_with(first), asked_with(second), rows(gateway)

    answer, one, two, attempts = on_uvloop(main)
    assert answer.json() == {"text": "hi"}
    for (head, body), name in ((one, b"one"), (two, b"two")):
        assert head.startswith(b"POST /v1/audio/transcriptions HTTP/1.1")
        (boundary,) = re.findall(rb"\r\ncontent-type: multipart/form-data; boundary=(\S+)", head)
        assert body.startswith(
            b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % (boundary, name)
        )
        assert b'name="file"; filename="said.wav"\r\nContent-Type: audio/wav\r\n\r\n' + WAV + b"\r\n" in body
        assert b'name="language"\r\n\r\nde\r\n' in body
        assert body.endswith(b"--%b--\r\n" % boundary)
        assert b"content-length: %d" % len(body) in head
        assert b"application/json" not in head
    assert [(row.upstream_model, row.outcome) for row in attempts] == [
        ("one", Outcome.FAILED),
        ("two", Outcome.COMPLETED),
    ]


def test_a_moderation_without_a_model_is_asked_of_the_usual_one():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain({"results": [{"flagged": False}]})]]) as upstream:
            settings = config(upstream.url)
            settings.models["omni-moderation-latest"] = ModelConfig(
                candidates=[CandidateConfig(upstream="up0", model="mine")]
            )
            async with serving(settings) as (_, port):
                answer = await call(port, {"input": "x"}, "/v1/moderations")
                return answer, asked_with(upstream)

    answer, (_, body) = on_uvloop(main)
    assert answer.status == 200
    assert json.loads(body) == {"input": "x", "model": "mine"}


def test_a_large_form_goes_through():
    sound = bytes(range(256)) * 40_000  # 10 MB

    async def main():
        async with simulated("tokens=4") as (gateway, port, _):
            body, headers = a_form(sound=sound)
            return await call(port, body, "/v1/audio/transcriptions", headers=headers), rows(gateway)

    answer, attempts = on_uvloop(main)
    assert answer.status == 200
    assert attempts[0].usage.audio_input_tokens == 640 * 10
    assert 0 < attempts[0].reserved.input_tokens < 100


def test_a_body_beyond_the_limit_is_refused():
    async def main():
        async with simulated("tokens=4", listener=ListenerConfig(max_body_bytes=5_000)) as (_, port, _):
            body, headers = a_form()
            return await call(port, body, "/v1/audio/transcriptions", headers=headers)

    assert on_uvloop(main).status == 413


HOSTILE = {
    "no boundary": (a_form()[0], ["content-type: multipart/form-data"], 400),
    "another boundary": (a_form()[0], ["content-type: multipart/form-data; boundary=c"], 400),
    "two models": (a_form(mode="x")[0].replace(b'"mode"', b'"model"'), a_form()[1], 400),
    "cut short": (a_form()[0][:-9], a_form()[1], 400),
    "no model": (a_form()[0].replace(b'name="model"', b'name="mode"'), a_form()[1], 400),
    "a model that nobody has": (*a_form(model="x"), 404),
    "a form that says it is JSON": (a_form()[0], ["content-type: application/json"], 400),
    "another kind of parts": (a_form()[0], ["content-type: multipart/mixed; boundary=b"], 415),
}


@pytest.mark.parametrize(("body", "headers", "status"), HOSTILE.values(), ids=HOSTILE)
def test_forms_that_are_none_ask_nobody(body, headers, status):
    async def main():
        async with simulated("tokens=4") as (_, port, simulators):
            answer = await call(port, body, "/v1/audio/transcriptions", headers=headers)
            return answer, simulators[0].bill.report()["requests"]

    answer, requests = on_uvloop(main)
    assert answer.status == status
    assert answer.json()["error"]["message"]
    assert requests == 0


def test_an_upstream_that_speaks_another_api_is_refused():
    async def main():
        async with simulated("tokens=4", kinds=["anthropic"]) as (_, port, _):
            return [
                await call(port, ASKED, "/v1/rerank"),
                await call(port, SPEECH, "/v1/audio/speech"),
                await call(port, a_form()[0], "/v1/audio/translations", headers=a_form()[1]),
            ]

    for answer in on_uvloop(main):
        assert answer.status == 400
        assert answer.json()["error"]["code"] == "untranslatable"


# ---- on the way back -------------------------------------------------------------------------------


def test_sound_goes_out_before_its_upstream_has_made_all_of_it():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, SOUND_HEAD, chunk(b"first"), go_on, chunk(b"second") + END]
        async with ScriptedUpstream([script]) as upstream, serving(config(upstream.url)) as (gateway, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(SPEECH, "/v1/audio/speech"))
            head = await reader.readuntil(b"\r\n\r\n")
            first = await reader.readuntil(b"first\r\n")
            go_on.set()
            rest = await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.close()
            return head, first, rest, rows(gateway)

    head, first, rest, attempts = on_uvloop(main)
    assert b"content-type: audio/mpeg" in head
    assert b"penstock-generation: gen_" in head
    assert first == b"5\r\nfirst\r\n"
    assert b"second" in rest
    assert [row.usage for row in attempts] == [Usage(units=11, estimated=True)]


@pytest.mark.parametrize("headers", [[], ["accept-encoding: gzip"]], ids=["plain", "coded"])
def test_sound_that_breaks_is_cut_so_that_nobody_takes_it_for_whole(headers):
    async def main():
        script = [Step.REQUEST, SOUND_HEAD, chunk(b"first"), Step.RESET]
        coded = CodingsConfig(answers=["gzip"])
        async with ScriptedUpstream([script, script]) as upstream:
            async with serving(config(upstream.url, retry=QUICK, codings=coded)) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request(SPEECH, "/v1/audio/speech", headers=headers))
                received = await reader.read()
                writer.close()
                return received, rows(gateway), len(upstream.received)

    received, attempts, requests = on_uvloop(main)
    assert (b"first" in received) == (not headers)
    assert b"audio/mpeg" in received
    assert not received.endswith(END)
    assert requests == 1  # whoever has the beginning of one voice cannot be given the end of another
    assert [(row.outcome, row.usage.units) for row in attempts] == [(Outcome.PARTIAL, 11)]


@pytest.mark.parametrize(
    "fault", ["500-once", "reset-before-headers,once", "429,retry-after=0,once", "garbage,once"]
)
def test_what_fails_before_the_first_byte_is_asked_again(fault):
    async def main():
        async with simulated(fault, retry=QUICK) as (gateway, port, _):
            body, headers = a_form()
            heard = await call(port, body, "/v1/audio/transcriptions", headers=headers)
            spoken = await call(port, SPEECH, "/v1/audio/speech")
            return heard, spoken, rows(gateway)

    heard, spoken, attempts = on_uvloop(main)
    assert heard.status == spoken.status == 200
    assert spoken.body.startswith(b"RIFF")
    # A reset of a connection that was used before is sent again at once, and is no attempt.
    outcomes = [row.outcome for row in attempts]
    assert outcomes[:2] == [Outcome.FAILED, Outcome.COMPLETED]
    assert outcomes[-1] is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("head", "piece", "rest", "path"),
    [
        (SOUND_HEAD, chunk(b"data: {first"), chunk(b"second"), "/v1/audio/speech"),
        (
            EVENTS_HEAD,
            frame({"type": "speech.audio.delta", "audio": "eA=="}),
            frame({"type": "speech.audio.done"}),
            "/v1/audio/speech",
        ),
    ],
    ids=["sound", "events"],
)
def test_what_has_begun_stays_at_an_upstream_that_goes_away(head, piece, rest, path):
    async def main():
        clock, go_on = FakeClock(), asyncio.Event()
        script = [Step.REQUEST, head, piece, go_on, rest + END]
        async with ScriptedUpstream([script]) as upstream, ScriptedUpstream([[Step.REQUEST]]) as other:
            async with serving(config(upstream.url, other.url), clock) as (gateway, port):
                asked = asyncio.ensure_future(call(port, SPEECH, path))
                await until(lambda: any(each.events for each in gateway.pipeline.in_flight()))
                gateway.leaving.announce("up0", 1.0)
                clock.advance(2.0)
                go_on.set()
                return await asked, len(other.received)

    answer, others = on_uvloop(main)
    assert answer.status == 200
    assert b"error" not in answer.body
    assert others == 0


def test_an_image_that_breaks_off_is_asked_for_again():
    async def main():
        whole = plain({"data": [{"b64_json": "eA=="}]})
        broken = whole.replace(b"content-length: ", b"content-length: 1")  # longer than what comes
        async with ScriptedUpstream([[Step.REQUEST, broken, Step.CLOSE], [Step.REQUEST, whole]]) as upstream:
            async with serving(config(upstream.url, retry=QUICK)) as (gateway, port):
                answer = await call(port, {"model": "m", "prompt": "x"}, "/v1/images/generations")
                return answer, rows(gateway)

    answer, attempts = on_uvloop(main)
    assert answer.json() == {"data": [{"b64_json": "eA=="}]}
    assert [row.outcome for row in attempts] == [Outcome.PARTIAL, Outcome.COMPLETED]
    assert attempts[1].usage == Usage(units=1)


def test_who_asks_for_a_stream_and_gets_none_gets_what_there_is():
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, plain({"text": "hi"})]]) as upstream:
            async with serving(config(upstream.url)) as (_, port):
                body, headers = a_form(stream="true")  # whisper-1 takes no notice of it
                return await call(port, body, "/v1/audio/transcriptions", headers=headers), len(
                    upstream.received
                )

    answer, requests = on_uvloop(main)
    assert (answer.status, answer.json(), requests) == (200, {"text": "hi"}, 1)
    assert answer.headers["content-type"] == "application/json"


def test_a_stream_can_be_read_again_from_any_event():
    async def main():
        events = [frame({"type": "transcript.text.delta", "delta": word}) for word in ("a", "b")]
        end = frame(
            {"type": "transcript.text.done", "text": "ab", "usage": {"input_tokens": 5, "output_tokens": 2}}
        )
        async with ScriptedUpstream([[Step.REQUEST, EVENTS_HEAD, *events, end + END]]) as upstream:
            async with serving(config(upstream.url)) as (gateway, port):
                body, headers = a_form(stream="true")
                whole = await call(port, body, "/v1/audio/transcriptions", headers=headers)
                path = f"/v1/generations/{whole.headers['penstock-generation']}/events?starting_after=0"
                return whole, await call(port, b"", path, "GET"), rows(gateway)

    whole, rest, attempts = on_uvloop(main)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [line for line in whole.body.split(b"\n") if line.startswith(b"id: ")] == [
        b"id: 0",
        b"id: 1",
        b"id: 2",
    ]
    assert rest.body == whole.body[whole.body.index(b"id: 1\n") :]
    assert rest.headers["penstock-status"] == "resumed"
    assert attempts[0].usage == Usage(5, 2)


def test_a_stream_of_fewer_images_than_were_asked_for_is_one_of_large_ones():
    async def main():
        one = frame(
            {"type": "image_generation.completed", "b64_json": "A" * 9_000_000, "usage": {"input_tokens": 1}}
        )
        async with ScriptedUpstream([[Step.REQUEST, EVENTS_HEAD, one, END]]) as upstream:
            async with serving(config(upstream.url, retry=QUICK)) as (gateway, port):
                body = {"model": "m", "prompt": "x", "n": 2, "stream": True}
                return await call(port, body, "/v1/images/generations"), rows(gateway)

    answer, attempts = on_uvloop(main)
    assert len(answer.body) > 9_000_000
    assert b'"error"' not in answer.body
    assert [(row.outcome, row.usage) for row in attempts] == [(Outcome.COMPLETED, Usage(1, units=1))]


def test_a_stream_that_breaks_ends_in_an_error_event():
    async def main():
        one = frame({"type": "image_generation.partial_image", "b64_json": "eA=="})
        async with ScriptedUpstream([[Step.REQUEST, EVENTS_HEAD, one, END]] * 2) as upstream:
            async with serving(config(upstream.url, retry=QUICK)) as (gateway, port):
                body = {"model": "m", "prompt": "x", "stream": True}
                return await call(port, body, "/v1/images/generations"), len(upstream.received), rows(gateway)

    answer, requests, attempts = on_uvloop(main)
    last = answer.body.rstrip().rpartition(b"data: ")[2]
    assert json.loads(last)["error"]["code"] == "upstream_broken"
    assert requests == 1
    assert [row.outcome for row in attempts] == [Outcome.PARTIAL]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/rerank", plain(b"<html></html>").replace(b"application/json", b"text/html")),
        ("/v1/rerank", plain({"error": {"message": "out of order"}})),
        ("/v1/rerank", plain(b"[1]")),
        ("/v1/audio/speech", plain({"error": "no voice"})),
        ("/v1/audio/speech", SOUND_HEAD + END),
    ],
)
def test_what_is_no_answer_is_the_upstreams_fault(path, answer):
    async def main():
        async with ScriptedUpstream([[Step.REQUEST, answer]]) as upstream:
            async with serving(config(upstream.url, retry=RetryConfig(attempts=1))) as (gateway, port):
                return await call(port, {**ASKED, **SPEECH}, path), rows(gateway)

    refused, attempts = on_uvloop(main)
    assert refused.status == 502
    assert "out of order" not in refused.headers
    assert attempts[0].outcome in {Outcome.FAILED, Outcome.PARTIAL}


# ---- repeated, shared, kept, left ------------------------------------------------------------------


def test_the_same_key_with_another_boundary_is_the_same_call():
    async def main():
        async with simulated("tokens=4") as (_, port, simulators):
            answers = []
            for boundary in ("one", "two"):
                body, headers = a_form(boundary)
                headers.append("idempotency-key: k")
                answers.append(await call(port, body, "/v1/audio/transcriptions", headers=headers))
            body, headers = a_form("one", sound=WAV + b"\0")
            headers.append("idempotency-key: k")
            other = await call(port, body, "/v1/audio/transcriptions", headers=headers)
            return answers, other, simulators[0].bill.report()["requests"]

    (first, again), other, requests = on_uvloop(main)
    assert first.json() == again.json()
    assert [first.headers["penstock-status"], again.headers["penstock-status"]] == ["created", "replayed"]
    assert other.status == 422
    assert requests == 1


def test_sound_is_replayed_whole_with_its_type():
    async def main():
        async with simulated("tps=400") as (_, port, simulators):
            headers = ["idempotency-key: k"]
            first = await call(port, SPEECH, "/v1/audio/speech", headers=headers)
            again = await call(port, SPEECH, "/v1/audio/speech", headers=headers)
            return first, again, simulators[0].bill.report()["requests"]

    first, again, requests = on_uvloop(main)
    assert first.body == again.body
    assert again.headers["content-type"] == "audio/wav"
    assert again.headers["content-length"] == str(len(first.body))
    assert requests == 1


def test_identical_ranks_are_joined_and_identical_images_are_not():
    async def main():
        go_on = asyncio.Event()
        script = [Step.REQUEST, go_on, plain({**RANKS, "data": []})]
        async with (
            ScriptedUpstream([script] * 3) as upstream,
            serving(config(upstream.url)) as (gateway, port),
        ):
            image = {"model": "m", "prompt": "x"}
            asked = [*[(ASKED, "/v1/rerank")] * 3, *[(image, "/v1/images/generations")] * 2]
            calls = asyncio.gather(*(call(port, *each) for each in asked))
            await until(lambda: len(gateway.pipeline.readings) == 5)
            go_on.set()
            return await calls, len(upstream.received)

    answers, requests = on_uvloop(main)
    statuses = [answer.headers["penstock-status"] for answer in answers]
    assert sorted(statuses[:3]) == ["created", "joined", "joined"]
    assert statuses[3:] == ["created", "created"]
    assert requests == 3


def test_ranks_and_moderations_are_kept_and_nothing_else_is():
    async def main():
        kept = ModelConfig(candidates=[CandidateConfig(upstream="up0")], cache=ModelCacheConfig(calls="all"))
        async with simulated("tokens=4", models={"m": kept}) as (_, port, _):
            statuses = []
            for path, body in (
                ("/v1/rerank", ASKED),
                ("/v1/moderations", {"model": "m", "input": "x"}),
                ("/v1/audio/speech", SPEECH),
                ("/v1/images/generations", {"model": "m", "prompt": "x", "seed": 1}),
            ):
                first, again = await call(port, body, path), await call(port, body, path)
                assert first.body == again.body
                assert first.headers["content-type"] == again.headers["content-type"]
                statuses.append(again.headers["penstock-status"])
            return statuses

    assert on_uvloop(main) == ["cached", "cached", "created", "created"]


def test_a_caller_who_leaves_takes_the_upstream_with_him():
    async def main():
        script = [Step.REQUEST, SOUND_HEAD, chunk(b"first"), Step.GONE]
        async with ScriptedUpstream([script]) as upstream, serving(config(upstream.url)) as (gateway, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(SPEECH, "/v1/audio/speech"))
            await reader.readuntil(b"first")
            writer.transport.abort()
            await until(lambda: not gateway.pipeline.productions)
            return rows(gateway)

    (row,) = on_uvloop(main)
    assert (row.outcome, row.usage.units) == (Outcome.CANCELLED, 11)


# ---- by other ways ---------------------------------------------------------------------------------


def test_a_form_may_be_compressed():
    async def main():
        async with simulated("tokens=4") as (_, port, _):
            body, headers = a_form()
            packed = [*headers, "content-encoding: gzip"]
            one = await call(port, gzip.compress(body), "/v1/audio/transcriptions", headers=packed)
            return one, await call(port, body, "/v1/audio/transcriptions", headers=headers)

    one, other = on_uvloop(main)
    assert one.json()["text"] == other.json()["text"]


def test_a_form_may_come_in_pieces(tmp_path):
    async def main():
        async with in_pieces(tmp_path) as (ask, model, _):
            model.answer = plain({"text": "hi"})
            body, (kind,) = a_form()
            kind = kind.removeprefix("content-type: ")
            where = (await ask.create("/v1/audio/transcriptions", body[:5_000], content_type=kind)).headers[
                "location"
            ]
            return await ask.append(where, 5_000, body[5_000:], complete=True), model

    answer, model = on_uvloop(main)
    assert answer.json() == {"text": "hi"}
    assert WAV in model.bodies[0]
    assert model.heads[0]["content-type"].startswith("multipart/form-data; boundary=penstock-")


def test_a_key_may_use_its_models_only():
    keys = [KeyConfig(name="k", hash=hash_key("secret"), tenant="t", models=["rank-*"])]

    async def main():
        async with simulated("tokens=4", keys=keys) as (gateway, port, _):
            model = gateway.pipeline.snapshot.config.models["m"]
            gateway.pipeline.snapshot.config.models["rank-m"] = model
            body, headers = a_form()
            key = "authorization: Bearer secret"
            return [
                await call(port, body, "/v1/audio/transcriptions", headers=headers),
                await call(port, body, "/v1/audio/transcriptions", headers=[*headers, key]),
            ]

    assert [answer.status for answer in on_uvloop(main)] == [401, 403]


def test_limits_count_what_was_used_and_reserve_little_for_a_file():
    limits = LimitsConfig(tenants={"*": LimitConfig(tokens_per_minute=100)})

    async def main():
        async with simulated("tokens=4", limits=limits) as (_, port, _):
            body, headers = a_form(sound=bytes(320_000))  # 20 s: 200 tokens, and 12 of the text
            return [await call(port, body, "/v1/audio/transcriptions", headers=headers) for _ in range(2)]

    assert [answer.status for answer in on_uvloop(main)] == [200, 429]


def test_the_cost_is_told_where_it_is_known(tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodels = ["m"]\ninput = 0\nsearch = 0.002\n')

    async def main():
        async with simulated("tokens=4", kinds=["openai"], prices=str(prices)) as (_, port, _):
            return await call(port, ASKED, "/v1/rerank")

    assert on_uvloop(main).headers["penstock-cost"] == "0.002"
