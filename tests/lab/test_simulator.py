"""The simulator without a network, in time that is turned by hand."""

from __future__ import annotations

import asyncio
import json

import pytest
from lab_doubles import Stage

from penstock.lab.scenario import parse
from penstock.net.wheel import RESOLUTION
from penstock.testing import expected_text

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SAID = [{"role": "user", "content": "twelve bytes"}]  # 3 tokens
TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def body_of(path, model="sim", **more):
    body = {"model": model, **more}
    if path == RESPONSES:
        body["input"] = "twelve bytes"
    elif path == "/v1/completions":
        body["prompt"] = "twelve bytes"
    else:
        body["messages"] = SAID
    if path == MESSAGES:
        body.setdefault("max_tokens", 1_000)
    return json.dumps(body).encode()


def run(scene, *args, **options):
    async def main():
        stage = Stage(*args, **options)
        try:
            await scene(stage)
        finally:
            stage.close()

    asyncio.run(main())


def frames(exchange):
    return [frame for frame in exchange.answer.split(b"\n\n") if frame]


def payloads(exchange):
    found = [frame.rpartition(b"data: ")[2] for frame in frames(exchange)]
    return [json.loads(payload) for payload in found if payload != b"[DONE]"]


def text_of(exchange):
    text = ""
    for event in payloads(exchange):
        for choice in event.get("choices", ()):
            text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        delta = event.get("delta")
        if isinstance(delta, dict):
            text += delta.get("text", "")
        elif event.get("type") == "response.output_text.delta":
            text += delta
    return text


PATHS = [CHAT, MESSAGES, RESPONSES, "/v1/completions"]
CHATS = [CHAT, MESSAGES, RESPONSES]


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_says_what_the_prompt_decides_and_bills_it(path):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, "sim:tokens=200", stream=True, max_tokens=500))
        assert exchange.status == 200
        assert exchange.answer_headers[b"content-type"].startswith(b"text/event-stream")
        assert exchange.ended
        assert text_of(exchange) == expected_text(json.loads(body_of(path)), path, 200)
        item = stage.bill["by_request"][0]
        assert (item["input_tokens"], item["output_tokens"], item["state"]) == (3, 200, "completed")
        assert (stage.bill["input_tokens"], stage.bill["output_tokens"]) == (3, 200)
        assert stage.bill["in_flight"] == 0

    run(scene)


@pytest.mark.parametrize("prompts", [["twelve bytes", "another"], [[5, 6, 7], [8]]])
def test_several_prompts_are_answered_as_each_would_be_alone(prompts):
    path = "/v1/completions"

    async def scene(stage):
        together = await stage.ask(path, json.dumps({"model": "sim", "n": 2, "prompt": prompts}).encode())
        texts = [choice["text"] for choice in json.loads(together.answer)["choices"]]
        tokens = stage.bill["input_tokens"]
        alone = [
            await stage.ask(path, json.dumps({"model": "sim", "n": 2, "prompt": one}).encode())
            for one in prompts
        ]
        assert texts == [choice["text"] for one in alone for choice in json.loads(one.answer)["choices"]]
        assert stage.bill["input_tokens"] == 2 * tokens

    run(scene)


@pytest.mark.parametrize("path", PATHS)
def test_a_plain_answer_and_a_stream_say_the_same(path):
    async def scene(stage):
        plain = await stage.ask(path, body_of(path, "sim:tokens=9"))
        answer = json.loads(plain.answer)
        if path == MESSAGES:
            text = answer["content"][0]["text"]
        elif path == RESPONSES:
            text = answer["output"][0]["content"][0]["text"]
        else:
            text = answer["choices"][0].get("text") or answer["choices"][0]["message"]["content"]
        stream = await stage.ask(path, body_of(path, "sim:tokens=9", stream=True))
        assert text == text_of(stream)
        assert stage.bill["output_tokens"] == 18

    run(scene)


def test_one_token_is_one_frame():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=5", stream=True))
        # role, five tokens, finish reason, [DONE]
        assert len(frames(exchange)) == 8
        assert frames(exchange)[-1] == b"data: [DONE]"

    run(scene)


def test_usage_is_told_when_asked_for_and_null_before():
    async def scene(stage):
        options = {"include_usage": True}
        exchange = await stage.ask(
            CHAT, body_of(CHAT, "sim:tokens=5,cached=2", stream=True, stream_options=options)
        )
        *before, last = payloads(exchange)
        assert [event["usage"] for event in before] == [None] * len(before)
        assert last["choices"] == []
        assert last["usage"]["prompt_tokens"] == 3
        assert last["usage"]["completion_tokens"] == 5
        assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
        assert stage.bill["cached_input_tokens"] == 2

    run(scene)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_running_usage_counts_the_tokens_that_came(path):
    async def scene(stage):
        options = {"include_usage": True, "continuous_usage_stats": True}
        exchange = await stage.ask(path, body_of(path, "sim:tokens=4", stream=True, stream_options=options))
        counts = [event["usage"]["completion_tokens"] for event in payloads(exchange)]
        opening = [0] if path == CHAT else []
        assert counts == [*opening, 1, 2, 3, 4, 4, 4]
        assert {event["usage"]["prompt_tokens"] for event in payloads(exchange)} == {3}

    run(scene)


def test_several_choices_are_interleaved_and_all_billed():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=3", stream=True, n=2))
        indices = [event["choices"][0]["index"] for event in payloads(exchange)]
        assert indices == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
        assert stage.bill["output_tokens"] == 6
        plain = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=3", n=2))
        answer = json.loads(plain.answer)
        assert answer["usage"]["completion_tokens"] == 6
        assert len({choice["message"]["content"] for choice in answer["choices"]}) == 2

    run(scene)


def test_the_models_limit_is_the_callers():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, max_completion_tokens=3))
        choice = json.loads(exchange.answer)["choices"][0]
        assert choice["finish_reason"] == "length"
        assert len(choice["message"]["content"].split(" ")) == 3
        exchange = await stage.ask(MESSAGES, body_of(MESSAGES, max_tokens=3))
        assert json.loads(exchange.answer)["stop_reason"] == "max_tokens"
        exchange = await stage.ask(RESPONSES, body_of(RESPONSES, max_output_tokens=3))
        answer = json.loads(exchange.answer)
        assert (answer["status"], answer["incomplete_details"]) == (
            "incomplete",
            {"reason": "max_output_tokens"},
        )

    run(scene)


# ---- pace ----


def test_the_first_token_waits_and_the_others_follow_at_their_pace():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:ttft=200,tps=50,tokens=10", stream=True))
        await stage.advance(0.19)
        assert not exchange.started
        assert stage.bill["input_tokens"] == 0
        began = stage.time - 0.19
        came = {}
        while not exchange.ended:
            await stage.advance(0.001)
            came.setdefault(stage.bill["output_tokens"], stage.time - began)
        assert stage.bill["input_tokens"] == 3
        assert sorted(came) == list(range(11))
        for token in range(1, 11):
            due = 0.2 + (token - 1) / 50
            assert due <= came[token] <= due + 2 * RESOLUTION + 0.002

    run(scene)


def test_a_late_wheel_catches_up():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tps=100,tokens=1000", stream=True))
        await stage.advance(5)
        assert stage.bill["output_tokens"] == 501
        assert len(exchange.writes) < 10
        await stage.advance(5)
        assert exchange.ended

    run(scene)


def test_a_plain_answer_takes_as_long_as_its_stream():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:ttft=500,tps=10,tokens=10"))
        await stage.advance(1.45)
        assert not exchange.started
        assert stage.bill["output_tokens"] == 0
        await stage.advance(0.1)
        assert exchange.ended
        assert stage.bill["output_tokens"] == 10

    run(scene)


def test_the_time_to_the_first_token_can_vary_by_chance_and_is_the_same_in_every_run():
    taken = []

    async def scene(stage):
        for _ in range(64):
            exchange = await stage.ask(CHAT, body_of(CHAT, "sim:ttft=100,spread=1", stream=True))
            seconds = 0.0
            while not exchange.started:
                await stage.advance(0.01)
                seconds += 0.01
            taken.append(seconds)

    run(scene)
    first, taken = taken, []
    run(scene)
    assert first == taken
    assert 0.05 < sorted(taken)[32] < 0.2
    assert max(taken) > 4 * sorted(taken)[32]


def test_an_early_head_goes_out_before_the_first_token():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:ttft=200,early-head", stream=True))
        assert exchange.started
        assert exchange.writes == []

    run(scene)


def test_a_client_that_reads_slowly_is_waited_for():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=100000", stream=True), room=3)
        sent = stage.bill["output_tokens"]
        assert 0 < sent < 1_000
        await stage.advance(10)
        assert stage.bill["output_tokens"] == sent
        exchange.drain()
        assert stage.bill["output_tokens"] == 100_000
        assert exchange.ended
        assert text_of(exchange).count(" ") == 99_999

    run(scene)


# ---- the client leaves ----


@pytest.mark.parametrize("path", CHATS)
def test_nothing_is_sent_or_billed_after_the_client_has_left(path):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, "sim:tps=10,tokens=100", stream=True))
        await stage.advance(1)
        billed = stage.bill["output_tokens"]
        assert 0 < billed < 20
        exchange.leave()
        written = exchange.answer
        await stage.advance(60)
        assert exchange.answer == written
        assert stage.bill["output_tokens"] == billed
        assert (stage.bill["cancelled"], stage.bill["in_flight"]) == (1, 0)

    run(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_before_the_first_token_pays_nothing(stream):
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:ttft=1000", stream=stream))
        exchange.leave()
        await stage.advance(60)
        assert (stage.bill["input_tokens"], stage.bill["output_tokens"], stage.bill["cancelled"]) == (0, 0, 1)
        assert not exchange.started

    run(scene)


# ---- failures ----

STATUSES = ["400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "504", "529"]


@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize("scenario", [*STATUSES, "400-context-length", "400-content-filter"])
def test_refusals_are_in_the_dialects_own_form_and_cost_nothing(path, scenario):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, f"sim:{scenario},retry-after=7", stream=True))
        assert exchange.status == int(scenario[:3])
        assert exchange.answer_headers[b"retry-after"] == b"7"
        answer = json.loads(exchange.answer)
        if path == MESSAGES:
            assert answer["type"] == "error"
            assert set(answer["error"]) == {"type", "message"}
        else:
            assert set(answer["error"]) == {"message", "type", "param", "code"}
        if scenario == "400-context-length" and path != MESSAGES:
            assert answer["error"]["code"] == "context_length_exceeded"
        assert (stage.bill["input_tokens"], stage.bill["failed"], stage.bill["in_flight"]) == (0, 1, 0)

    run(scene)


def test_a_429_has_no_retry_after_unless_told():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:429"))
        assert exchange.status == 429
        assert b"retry-after" not in exchange.answer_headers

    run(scene)


def test_500_once_strikes_each_key_once():
    async def scene(stage):
        async def status(**options):
            return (await stage.ask(CHAT, body_of(CHAT, "sim:500-once"), **options)).status

        assert [await status(), await status(), await status()] == [500, 200, 200]
        named = {"headers": [(b"x-sim-key", b"a")]}
        assert [await status(**named), await status(**named)] == [500, 200]

    run(scene)


def test_503_for_a_number_of_requests_and_for_a_time():
    async def scene(stage):
        async def status(model):
            return (await stage.ask(CHAT, body_of(CHAT, model))).status

        assert [await status("sim:503-for=2") for _ in range(4)] == [503, 503, 200, 200]
        timed = "sim:503-for=500ms,key=timed"
        assert await status(timed) == 503
        await stage.advance(0.4)
        assert await status(timed) == 503
        await stage.advance(0.2)
        assert await status(timed) == 200

    run(scene)


def test_a_share_of_the_requests_fails_the_same_ones_in_every_run():
    runs = []

    async def scene(stage):
        statuses = [(await stage.ask(CHAT, body_of(CHAT, "sim:500,share=0.2"))).status for _ in range(100)]
        assert 15 <= statuses.count(500) <= 25
        runs.append(statuses)

    run(scene)
    run(scene)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("path", CHATS)
@pytest.mark.parametrize("scenario", ["cut-after=4", "close-after=4"])
def test_a_cut_comes_after_its_tokens(path, scenario):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, f"sim:tokens=10,{scenario}", stream=True))
        await stage.advance(0.1)
        assert exchange.aborted
        assert not exchange.ended
        assert text_of(exchange) == expected_text(json.loads(body_of(path)), path, 4)
        assert (stage.bill["output_tokens"], stage.bill["failed"], stage.bill["in_flight"]) == (4, 1, 0)

    run(scene)


def test_a_cut_beyond_the_end_does_not_strike():
    async def scene(stage):
        for stream in (True, False):
            exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=3,cut-after=4", stream=stream))
            await stage.advance(1)
            assert exchange.ended
        assert stage.bill["failed"] == 0

    run(scene)


@pytest.mark.parametrize("scenario", ["cut-after=4", "close-after=0", "stall-after=10"])
def test_a_plain_answer_is_cut_within_its_body(scenario):
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, f"sim:tokens=10,{scenario}"))
        await stage.advance(0.1)
        assert exchange.started
        assert not exchange.ended
        assert exchange.aborted == (not scenario.startswith("stall"))
        with pytest.raises(json.JSONDecodeError):
            json.loads(exchange.answer)
        assert stage.bill["output_tokens"] == int(scenario.partition("=")[2])

    run(scene)


def test_a_stall_lasts_until_the_client_leaves():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=10,stall-after=4", stream=True))
        await stage.advance(3_600)
        assert not exchange.ended
        assert not exchange.aborted
        assert stage.bill["in_flight"] == 1
        exchange.leave()
        assert (stage.bill["output_tokens"], stage.bill["in_flight"]) == (4, 0)

    run(scene)


@pytest.mark.parametrize("path", CHATS)
def test_a_malformed_event_stands_between_good_ones(path):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, "sim:tokens=10,malformed-event=4", stream=True))
        await stage.advance(0.1)
        assert exchange.ended
        bad = []
        for frame in frames(exchange):
            payload = frame.rpartition(b"data: ")[2]
            try:
                payload == b"[DONE]" or json.loads(payload)
            except json.JSONDecodeError:
                bad.append(frame)
        assert len(bad) == 1
        assert stage.bill["output_tokens"] == 10

    run(scene)


@pytest.mark.parametrize(
    ("path", "terminator"),
    [(CHAT, b"data: [DONE]"), (MESSAGES, b"event: message_stop"), (RESPONSES, b"event: response.completed")],
)
def test_an_end_that_is_missing(path, terminator):
    async def scene(stage):
        whole = await stage.ask(path, body_of(path, stream=True))
        assert terminator in whole.answer
        done = await stage.ask(path, body_of(path, "sim:no-done", stream=True))
        assert done.ended
        assert terminator not in done.answer
        neither = await stage.ask(path, body_of(path, "sim:no-terminator", stream=True))
        assert neither.ended
        assert terminator not in neither.answer
        for finish in (b'"finish_reason":"stop"', b'"stop_reason":"end_turn"'):
            assert finish not in neither.answer
        assert text_of(neither) == text_of(whole)

    run(scene)


@pytest.mark.parametrize("path", CHATS)
def test_an_error_event_ends_the_stream_in_the_dialects_form(path):
    async def scene(stage):
        exchange = await stage.ask(path, body_of(path, "sim:error-event=4", stream=True))
        assert exchange.ended
        errors = [event for event in payloads(exchange) if event.get("error") or event.get("type") == "error"]
        assert len(errors) == 1
        if path == RESPONSES:
            numbers = [event["sequence_number"] for event in payloads(exchange)]
            assert numbers == list(range(len(numbers)))
        assert stage.bill["output_tokens"] == 4
        plain = await stage.ask(path, body_of(path, "sim:error-event=4"))
        assert plain.status == 500

    run(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_a_trickle_is_the_same_answer_a_byte_at_a_time(stream):
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:tokens=2,slow-trickle=10", stream=stream))
        await stage.advance(0.1)
        assert 5 < len(exchange.writes) < 15
        assert stage.bill["input_tokens"] == 3
        while not exchange.ended:
            await stage.advance(1)
        assert {len(write) for write in exchange.writes} == {1}
        if stream:
            assert text_of(exchange) == expected_text(json.loads(body_of(CHAT)), CHAT, 2)
        else:
            assert json.loads(exchange.answer)["usage"]["completion_tokens"] == 2
        assert (stage.bill["output_tokens"], stage.bill["in_flight"]) == (2, 0)

    run(scene)


def test_a_web_page_instead_of_an_answer():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "sim:html", stream=True))
        assert (exchange.status, exchange.answer_headers[b"content-type"]) == (
            200,
            b"text/html; charset=utf-8",
        )

    run(scene)


def test_silence_and_resets_and_garbage_bill_nothing():
    async def scene(stage):
        silent = await stage.ask(CHAT, body_of(CHAT, "sim:no-answer"))
        await stage.advance(3_600)
        assert not silent.started
        silent.leave()
        for scenario in ("reset-before-headers", "garbage"):
            cut = await stage.ask(CHAT, body_of(CHAT, f"sim:{scenario}"))
            assert cut.aborted
            assert not cut.started
        assert (stage.bill["input_tokens"], stage.bill["failed"], stage.bill["in_flight"]) == (0, 3, 0)

    run(scene)


def test_headers_steer_one_request():
    async def scene(stage):
        headers = [(b"x-sim-output-tokens", b"5"), (b"x-sim-ttft-ms", b"100")]
        exchange = await stage.ask(CHAT, body_of(CHAT), headers=headers)
        assert not exchange.started
        await stage.advance(0.11)
        assert json.loads(exchange.answer)["usage"]["completion_tokens"] == 5

    run(scene)


def test_defaults_hold_where_nobody_says_otherwise():
    async def scene(stage):
        exchange = await stage.ask(CHAT, body_of(CHAT, "my-own-name:7b"))
        assert json.loads(exchange.answer)["usage"]["completion_tokens"] == 7

    run(scene, parse("tokens=7"))


# ---- bad requests ----


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model":"sim","messages":"hi"}',
        b"\xff\xfe",
        b'{"model":"sim","messages":[{"role":"user","content":"\xff"}]}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("path", CHATS)
def test_what_is_no_request_is_refused(path, body):
    async def scene(stage):
        exchange = await stage.ask(path, body)
        assert exchange.status == 400
        assert "message" in json.loads(exchange.answer)["error"]

    run(scene)


def test_an_unknown_model_or_option_is_named():
    async def scene(stage):
        for model in ("sim-huge", "sim:fly=5"):
            exchange = await stage.ask(CHAT, body_of(CHAT, model))
            assert exchange.status == 404
            assert model.partition(":")[2] in json.loads(exchange.answer)["error"]["message"]

    run(scene)


def test_a_schema_that_nothing_fits_is_refused():
    async def scene(stage):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#", "enum": 5}}}
        exchange = await stage.ask(CHAT, body_of(CHAT, response_format=form))
        assert exchange.status == 400

    run(scene)


def test_only_the_given_key_is_accepted():
    async def scene(stage):
        for headers, status in (
            ([], 401),
            ([(b"authorization", b"Bearer wrong")], 401),
            ([(b"authorization", b"Bearer right")], 200),
            ([(b"x-api-key", b"right")], 200),
        ):
            assert (await stage.ask(CHAT, body_of(CHAT), headers=headers)).status == status

    run(scene, key="right")


# ---- what else is served ----


def test_the_bill_can_be_read_and_begun_anew():
    async def scene(stage):
        await stage.ask(CHAT, body_of(CHAT, "sim:tokens=5"))
        bill = json.loads((await stage.ask("/bill", method="GET")).answer)
        assert (bill["requests"], bill["output_tokens"]) == (1, 5)
        assert bill["by_model"]["sim:tokens=5"]["output_tokens"] == 5
        old = json.loads((await stage.ask("/bill/reset")).answer)
        assert old["output_tokens"] == 5
        new = json.loads((await stage.ask("/bill", method="GET")).answer)
        assert (new["requests"], new["output_tokens"], new["by_request"]) == (0, 0, [])

    run(scene)


def test_a_call_that_spans_a_reset_is_billed_on_both_sides():
    async def scene(stage):
        await stage.ask(CHAT, body_of(CHAT, "sim:tps=10,tokens=10", stream=True))
        await stage.advance(0.45)
        old = json.loads((await stage.ask("/bill/reset")).answer)
        await stage.advance(1)
        assert old["output_tokens"] + stage.bill["output_tokens"] == 10
        assert old["output_tokens"] == 5

    run(scene)


def test_the_last_requests_can_be_read_as_they_came():
    async def scene(stage):
        headers = [(b"authorization", b"Bearer x")]
        await stage.ask(CHAT, body_of(CHAT), headers=headers)
        await stage.ask(CHAT, b"\xff")
        first, second = json.loads((await stage.ask("/requests", method="GET")).answer)
        assert first["body"].encode() == body_of(CHAT)
        assert first["headers"] == {"authorization": "Bearer x"}
        assert second["body_base64"] == "/w=="

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/sim", 200),
        ("GET", "/v1/models/sim:tps=5", 200),
        ("GET", "/v1/models/gpt", 404),
        ("GET", CHAT, 405),
        ("DELETE", MESSAGES, 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/", 404),
    ],
)
def test_other_paths(method, path, status):
    async def scene(stage):
        exchange = await stage.ask(path, method=method)
        assert exchange.status == status
        json.loads(exchange.answer)

    run(scene)


def test_counting_tokens_is_free():
    async def scene(stage):
        exchange = await stage.ask("/v1/messages/count_tokens", body_of("/v1/messages/count_tokens"))
        assert json.loads(exchange.answer) == {"input_tokens": 3}
        assert stage.bill["input_tokens"] == 0

    run(scene)


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_are_unit_vectors_of_their_texts(form):
    async def scene(stage):
        async def ask(value):
            body = {"model": "sim", "input": value, "dimensions": 8, "encoding_format": form}
            return json.loads((await stage.ask("/v1/embeddings", json.dumps(body).encode())).answer)

        both = await ask(["a", "b"])
        assert [entry["index"] for entry in both["data"]] == [0, 1]
        assert both["data"][0]["embedding"] != both["data"][1]["embedding"]
        assert (await ask("a"))["data"][0]["embedding"] == both["data"][0]["embedding"]
        if form == "float":
            assert abs(sum(x * x for x in both["data"][0]["embedding"]) - 1) < 1e-6
        assert (await ask([1, 2, 3]))["usage"]["prompt_tokens"] == 3

    run(scene)


@pytest.mark.parametrize("path", CHATS)
def test_tool_calls_are_streamed_in_pieces_that_join_to_json(path):
    async def scene(stage):
        if path == CHAT:
            tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]
        elif path == MESSAGES:
            tools = [{"name": "weather", "input_schema": TOOL}]
        else:
            tools = [{"type": "function", "name": "weather", "parameters": TOOL}]
        exchange = await stage.ask(path, body_of(path, "sim-tool:parallel=2", stream=True, tools=tools))
        joined = {}
        for event in payloads(exchange):
            for choice in event.get("choices", ()):
                for call in choice["delta"].get("tool_calls", ()):
                    joined.setdefault(call["index"], []).append(call["function"]["arguments"])
            if event.get("type") == "response.function_call_arguments.delta":
                joined.setdefault(event["output_index"], []).append(event["delta"])
            elif event.get("type") == "content_block_delta":
                joined.setdefault(event["index"], []).append(event["delta"]["partial_json"])
        assert len(joined) == 2
        for pieces in joined.values():
            assert len([piece for piece in pieces if piece]) >= 2
            assert set(json.loads("".join(pieces))) == {"city"}
        assert stage.bill["output_tokens"] == sum(len([p for p in pieces if p]) for pieces in joined.values())

    run(scene)


@pytest.mark.parametrize("path", CHATS)
def test_a_limit_inside_a_tool_call_breaks_nothing(path):
    async def scene(stage):
        tool = {"name": "weather", "input_schema": TOOL, "parameters": TOOL, "type": "function"}
        tools = [{"type": "function", "function": tool}] if path == CHAT else [tool]
        limit = {CHAT: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}[path]
        for stream in (True, False):
            body = body_of(path, "sim-tool", stream=stream, tools=tools, **{limit: 1})
            exchange = await stage.ask(path, body)
            assert exchange.status == 200
            assert payloads(exchange) if stream else json.loads(exchange.answer)
        assert stage.bill["output_tokens"] == 2

    run(scene)
