"""The SDK's ``timeout`` and ``max_retries`` mean what they mean without us: through both SDKs, sync and async."""

from __future__ import annotations

import asyncio

import anthropic
import httpx2
import openai
import pytest
from sdks import QUESTION

import penstock
from penstock.testing import ScriptedUpstream, Step

SDKS = {
    "openai": (openai.OpenAI, penstock.http_client),
    "openai-async": (openai.AsyncOpenAI, penstock.async_http_client),
    "anthropic": (anthropic.Anthropic, penstock.http_client),
    "anthropic-async": (anthropic.AsyncAnthropic, penstock.async_http_client),
}
SHORT = httpx2.Timeout(60.0, read=0.2)  # a busy machine may take its time to connect
BUSY = b"HTTP/1.1 429 Busy\r\nretry-after: 30\r\ncontent-length: 2\r\n\r\n{}"
FAILED = b"HTTP/1.1 500 Failed\r\ncontent-length: 2\r\n\r\n{}"
BEGUN = (
    b"HTTP/1.1 200 OK\r\npenstock-generation: gen_1\r\ncontent-type: text/event-stream\r\n\r\n"
    b'id: 0\nevent: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
    b'"role":"assistant","content":[],"usage":{}},"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
)


def failed(sdk, scripts, call=None, *, options=None, **settings):
    """The exception that the caller gets, the heads of the requests, and the client's figures."""
    make, client = SDKS[sdk]

    def begun(url, http):
        base = url + "/v1" if sdk.startswith("openai") else url
        made = make(base_url=base, api_key="any", http_client=http).with_options(**(options or {}))
        made._calculate_retry_timeout = lambda *_, **__: 0.0
        create = made.chat.completions.create if sdk.startswith("openai") else made.messages.create
        return create(model="m", max_tokens=9, messages=QUESTION, **(call or {}))

    async def asked(url):
        async with client(trust_env=False, gateways=[url], first_delay=0.001, **settings) as http:
            try:
                answer = await begun(url, http)
                if (call or {}).get("stream"):
                    [_ async for _ in answer]
            except Exception as error:
                return error, http.statistics()
        raise AssertionError("it did not fail")

    def asked_sync(url):
        with client(trust_env=False, gateways=[url], first_delay=0.001, **settings) as http:
            try:
                answer = begun(url, http)
                if (call or {}).get("stream"):
                    list(answer)
            except Exception as error:
                return error, http.statistics()
        raise AssertionError("it did not fail")

    async def main():
        async with ScriptedUpstream(scripts) as upstream:
            if sdk.endswith("-async"):
                error, figures = await asked(upstream.url)
            else:
                error, figures = await asyncio.to_thread(asked_sync, upstream.url)
            return error, upstream.received, figures

    return asyncio.run(main())


def is_named(error, name):
    """Of either SDK."""
    return type(error).__name__ == name


@pytest.mark.parametrize("sdk", SDKS)
def test_a_timeout_without_retries_is_one_attempt(sdk):
    """No gateway says anything; the transport would have five more attempts."""
    error, received, figures = failed(sdk, [[Step.REQUEST]], options={"timeout": SHORT, "max_retries": 0})
    assert is_named(error, "APITimeoutError")
    assert (len(received), figures.attempts, figures.failed) == (1, 1, 1)


@pytest.mark.parametrize("sdk", SDKS)
def test_with_retries_each_of_them_has_the_timeout_and_the_key(sdk):
    error, received, figures = failed(sdk, [[Step.REQUEST]], options={"timeout": SHORT, "max_retries": 2})
    assert is_named(error, "APITimeoutError")
    assert (len(received), figures.attempts) == (3, 3)
    keys = [line for each in received for line in each.lower().split(b"\r\n") if b"idempotency-key:" in line]
    assert len(keys) == 3
    assert len(set(keys)) == 1


@pytest.mark.parametrize("sdk", SDKS)
def test_what_would_come_after_the_timeout_is_the_sdks_to_wait_for(sdk):
    error, received, _ = failed(sdk, [[Step.REQUEST, BUSY]], options={"timeout": 5.0, "max_retries": 0})
    assert is_named(error, "RateLimitError")
    assert "x-should-retry" not in error.response.headers
    assert len(received) == 1


@pytest.mark.parametrize("sdk", SDKS)
def test_a_call_can_say_that_it_wants_one_attempt(sdk):
    call = {"extra_headers": {"Penstock-Attempts": "1"}}
    error, received, figures = failed(sdk, [[Step.REQUEST, FAILED]], call)
    assert is_named(error, "InternalServerError")
    assert (len(received), figures.attempts) == (1, 1)
    assert b"penstock-attempts" not in received[0].lower()


def test_a_number_of_attempts_that_is_none_is_told_to_the_application():
    with penstock.http_client(trust_env=False) as http:
        for told in ("0", "-1", "many", "²"):
            with pytest.raises(ValueError, match="Penstock-Attempts"):
                http.post("http://a/v1/chat/completions", headers={b"Penstock-Attempts": told.encode()})


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_is_not_waited_for_beyond_the_timeout(sdk):
    """It has begun, and says nothing more: the whole is over when the caller's own clock is."""
    scripts = [[Step.REQUEST, BEGUN, Step.REQUEST]]
    error, received, figures = failed(
        sdk, scripts, {"stream": True}, options={"timeout": SHORT, "max_retries": 0}
    )
    assert not isinstance(error, AssertionError)
    assert len(received) == 1
    assert (figures.attempts, figures.resumed, figures.failed) == (1, 0, 1)


@pytest.mark.parametrize("sdk", SDKS)
def test_within_the_timeout_a_silent_gateway_can_be_asked_again(sdk):
    options = {"timeout": 30.0, "max_retries": 0}
    scripts = [[Step.REQUEST], [Step.REQUEST, BUSY]]
    error, received, figures = failed(sdk, scripts, options=options, attempt_timeout=0.2)
    assert is_named(error, "RateLimitError")
    assert len(received) == figures.attempts >= 2
