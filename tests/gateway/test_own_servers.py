"""``examples/own-servers.yaml``, against what each of its servers says in its own form.

The forms are those of SGLang (``python/sglang/srt/entrypoints/openai``), Text Generation Inference
(``router/src/server.rs``), Ollama (``openai/openai.go``) and llama.cpp (``tools/server``).  The real vLLM is asked by
``make vllm``.
"""

import asyncio
import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from serving import chunk, on_uvloop, plain, request, rows, serving

from penstock import cli
from penstock.config.load import parse
from penstock.config.model import LogConfig, RetryConfig
from penstock.config.remarks import remarks
from penstock.messages import Outcome
from penstock.testing import ScriptedUpstream, Step

FILE = Path(__file__).resolve().parents[2] / "examples" / "own-servers.yaml"
CONFIG = parse(FILE.read_text(encoding="utf-8"))
PROMPT = [{"role": "user", "content": "hello"}]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def test_the_example_is_right_and_leaves_nothing_to_remark():
    assert remarks(CONFIG) == []
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(FILE)])
    assert not ended.value.code


def test_each_server_is_told_here_or_computes_here():
    servers = {name for name, upstream in CONFIG.upstreams.items() if upstream.kind == "openai"}
    assert servers == set(STREAMS) | {"vllm"}
    assert set(BEGINNINGS) == set(STREAMS)


def leading_to(name, url, **more):
    """The example with only this server, which is elsewhere, and without its alternatives."""
    upstream = CONFIG.upstreams[name]
    assistant = CONFIG.models["assistant"]
    (candidate,) = (one for one in assistant.candidates if one.upstream == name)
    base_url = re.sub(r"^https?://[^/]+", url, upstream.base_url)
    return replace(
        CONFIG,
        upstreams={name: replace(upstream, base_url=base_url)},
        models={"assistant": replace(assistant, candidates=[candidate], fallbacks=[])},
        retry=RetryConfig(first_delay=0),
        log=LogConfig(requests=False),
        **more,
    )


def ask(name, plan, **body):
    """What the caller got, what the server was asked, and what the ledger has of it, call by call."""

    async def main():
        scripts = [[Step.REQUEST, *(each if isinstance(each, list) else [each])] for each in plan]
        (shown,) = [step for script in scripts for step in script if isinstance(step, asyncio.Event)] or [
            None
        ]
        async with ScriptedUpstream(scripts) as server:
            async with serving(leading_to(name, server.url)) as (gateway, port):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                wanted = {"model": "assistant", "messages": PROMPT, "max_tokens": 9, **body}
                writer.write(request(wanted, headers=["connection: close"]))
                told = b""
                if shown is not None:
                    told = await reader.readuntil(b"Hello")
                    shown.set()
                head, _, told = (told + await reader.read()).partition(b"\r\n\r\n")
                writer.close()
                booked = rows(gateway)
            asked = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in server.received]
            return Told(int(head.split()[1]), told), asked, booked

    return on_uvloop(main)


class Told:
    """Status and body, whose chunks stay as they are."""

    def __init__(self, status, body):
        self.status = status
        self.body = body

    def error(self):
        return json.loads(self.body)["error"]


def chat(delta, finish=None, **more):
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} | {
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }


def closing(prompt, output, **more):
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return {**chat({}), "choices": [], "usage": usage, **more}


def sse(*events, lead=b"data: "):
    return b"".join(
        lead + (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n\n" for each in events
    )


def stream(*frames):
    return HEAD + b"".join(map(chunk, frames)) + b"0\r\n\r\n"


# How each begins, says "Hello there" and ends; as its own code writes it.
BEGINNINGS = {
    # An event with the role alone, and the usage so far in all of them where that is asked for.
    "sglang": sse(
        chat(
            {"role": "assistant", "content": "", "reasoning_content": None, "tool_calls": None},
            usage={"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4},
        ),
        chat(
            {"role": None, "content": "Hello", "reasoning_content": None, "tool_calls": None},
            matched_stop=None,
            usage={"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5},
        ),
    ),
    # No name for the answer, and the role in each event.
    "tgi": sse(
        chat({"role": "assistant", "content": "Hello"}, id="", system_fingerprint="3.0-native", usage=None)
    ),
    "ollama": sse(chat({"role": "assistant", "content": "Hello"}, system_fingerprint="fp_ollama")),
    # No text where the role is told.
    "llamacpp": sse(chat({"role": "assistant", "content": None}), chat({"content": "Hello"})),
}
STREAMS = {
    "sglang": sse(
        chat({"content": " there"}, usage={"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}),
        chat(
            {"content": None}, "stop", usage={"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        ),
        closing(4, 2),
        b"[DONE]",
    ),
    # Its own finish reason, if it ends by itself.
    "tgi": sse(
        chat({"role": "assistant", "content": " there"}, id="", usage=None),
        chat({"role": "assistant", "content": ""}, "eos_token", id="", usage=None),
        closing(4, 2, id=""),
        b"[DONE]",
    ),
    "ollama": sse(
        chat({"role": "assistant", "content": " there"}),
        chat({"role": "assistant", "content": ""}, "stop"),
        closing(4, 2, system_fingerprint="fp_ollama"),
        b"[DONE]",
    ),
    # Its own clock beside the usage.
    "llamacpp": sse(
        chat({"content": " there"}),
        chat({}, "stop"),
        closing(4, 2, timings={"prompt_n": 4, "predicted_n": 2, "predicted_ms": 1.5}),
        b"[DONE]",
    ),
}


def the_rest(name):
    """As a server answers whom it was told to go on for."""
    return stream(
        BEGINNINGS[name].replace(b'"Hello"', b'" there"'), STREAMS[name].replace(b'" there"', b'""')
    )


def text_of(answer):
    events = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())
    )


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_whole_and_billed_by_what_the_server_counts(name):
    answer, (asked,), (row,) = ask(name, [stream(BEGINNINGS[name], STREAMS[name])], stream=True)
    assert answer.status == 200
    assert text_of(answer) == "Hello there"
    assert b"data: [DONE]" in answer.body
    assert (row.outcome, row.usage.input_tokens, row.usage.output_tokens) == (Outcome.COMPLETED, 4, 2)
    assert asked["model"] == CONFIG.models["assistant"].candidates[list(CONFIG.upstreams).index(name)].model
    wanted = {"include_usage": True}
    if CONFIG.upstreams[name].running_usage:
        wanted["continuous_usage_stats"] = True
    assert asked["stream_options"] == wanted
    assert "return_token_ids" not in asked


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_breaks_is_gone_on_with_as_the_server_takes_it(name):
    """By the beginning of the answer where it takes one; else only its first words are there, and an error."""
    cut = [HEAD + chunk(BEGINNINGS[name]), asyncio.Event(), Step.CLOSE]
    answer, asked, booked = ask(name, [cut, the_rest(name)], stream=True, temperature=0.7)
    if CONFIG.upstreams[name].capabilities.prefill is None:
        assert [row.outcome for row in booked] == [Outcome.PARTIAL]
        assert text_of(answer) == "Hello"
        assert b'"error"' in answer.body
        return
    assert [row.outcome for row in booked] == [Outcome.PARTIAL, Outcome.CONTINUED]
    assert text_of(answer) == "Hello there"
    assert asked[1]["messages"][-1] == {"role": "assistant", "content": "Hello"}
    assert (asked[1]["continue_final_message"], asked[1]["add_generation_prompt"]) == (True, False)


TOO_LONG = {
    "sglang": (
        "400 Bad Request",
        {
            "object": "error",
            "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "tgi": (
        "422 Unprocessable Entity",
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 and 9",
            "error_type": "validation",
        },
    ),
    "llamacpp": (
        "400 Bad Request",
        {
            "error": {
                "code": 400,
                "message": "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 4096,
            }
        },
    ),
}


@pytest.mark.parametrize("name", TOO_LONG)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_that_is_too_long_is_told_by_its_code(name, streamed):
    status, body = TOO_LONG[name]
    answer, asked, _ = ask(name, [plain(body, status)], stream=streamed)
    assert answer.error()["code"] == "context_length_exceeded"
    assert 400 <= answer.status < 500
    assert len(asked) == 1


BUSY = {
    "sglang": ("503 Service Unavailable", {"object": "error", "message": "The server is busy.", "code": 503}),
    "tgi": ("429 Too Many Requests", {"error": "Model is overloaded", "error_type": "overloaded"}),
    "ollama": (
        "503 Service Unavailable",
        {"error": {"message": "server busy, please try again.", "type": "api_error", "code": None}},
    ),
    "llamacpp": (
        "503 Service Unavailable",
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    ),
}
FAILED = {
    "tgi": (
        "424 Failed Dependency",
        {"error": "Request failed during generation", "error_type": "generation"},
    )
}


@pytest.mark.parametrize(
    ("name", "status", "body"), [(name, *told) for each in (BUSY, FAILED) for name, told in each.items()]
)
def test_a_server_that_cannot_now_is_asked_again(name, status, body):
    refused = plain(body, status, ["connection: close"])
    plan = [[refused, Step.CLOSE], stream(BEGINNINGS[name], STREAMS[name])]
    answer, asked, booked = ask(name, plan, stream=True)
    assert text_of(answer) == "Hello there"
    assert len(asked) == 2
    assert [row.outcome for row in booked] == [Outcome.FAILED, Outcome.COMPLETED]


IN_MID_STREAM = {
    "sglang": sse(
        {"error": {"object": "error", "message": "Out of pages.", "type": "InternalServerError", "code": 500}}
    ),
    "tgi": sse({"error": "Request failed during generation: Server error", "error_type": "generation"}),
    "ollama": sse({"error": {"message": "an error was encountered", "type": "api_error", "code": None}}),
    "llamacpp": sse({"error": {"code": 500, "message": "Compute error.", "type": "server_error"}}),
    # As it said it before 2025: in a field that Server-Sent Events do not have.
    "llamacpp, before": sse(
        {"code": 500, "message": "Compute error.", "type": "server_error"}, lead=b"error: "
    ),
}


@pytest.mark.parametrize("case", IN_MID_STREAM)
def test_a_failure_in_mid_stream_is_no_end(case):
    name = case.partition(",")[0]
    failure = chunk(IN_MID_STREAM[case]) + chunk(sse(b"[DONE]")) + b"0\r\n\r\n"
    failing = [HEAD + chunk(BEGINNINGS[name]), asyncio.Event(), failure, Step.CLOSE]
    answer, asked, booked = ask(name, [failing, the_rest(name)], stream=True, temperature=0.7)
    assert booked[0].outcome is Outcome.PARTIAL
    if CONFIG.upstreams[name].capabilities.prefill is None:
        assert text_of(answer) == "Hello"
        assert b'"error"' in answer.body
        assert len(asked) == 1
    else:
        assert text_of(answer) == "Hello there"
        assert b'"error"' not in answer.body
        assert asked[1]["continue_final_message"] is True
