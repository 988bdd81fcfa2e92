"""The same question through every SDK, synchronous or not, streamed or plain."""

from __future__ import annotations

import asyncio
import contextlib

import anthropic
import openai

import penstock
from penstock.testing import expected_text

QUESTION = [{"role": "user", "content": "What is a penstock?"}]
WAYS = ("chat", "chat-async", "chat-httpx", "responses", "messages", "messages-async")
"""By which API, and how the SDK waits; ``httpx``: with the library that it was built on before."""


def expected(way, tokens, model="sim", question=QUESTION):
    if way.startswith("responses"):
        return expected_text({"model": model, "input": question}, "/v1/responses", tokens)
    if way.startswith("messages"):
        body = {"model": model, "messages": question, "max_tokens": tokens}
        return expected_text(body, "/v1/messages", tokens)
    return expected_text({"model": model, "messages": question}, "/v1/chat/completions", tokens)


def ask(way, url, *, tokens=12, stream=True, model="sim", question=QUESTION, sdk=None, call=None, **settings):
    """The text, and the client's figures.

    :param sdk: more arguments for the SDK's client
    :param call: more arguments for the call
    """
    asked = {"tokens": tokens, "stream": stream, "model": model, "question": question, "call": call or {}}
    if way.endswith("-async"):
        return asyncio.run(_ask_async(way, url, asked, sdk or {}, settings))
    library = "httpx" if way.endswith("-httpx") else "httpx2"
    with penstock.http_client(library=library, trust_env=False, **settings) as http:
        text = _text(way, _client(way, url, http, sdk or {}), **asked)
        return text, http.statistics()


def _client(way, url, http, sdk):
    if way.startswith("messages"):
        return anthropic.Anthropic(base_url=url, api_key="any", http_client=http, **sdk)
    return openai.OpenAI(base_url=url + "/v1", api_key="any", http_client=http, **sdk)


def _text(way, client, *, tokens, stream, model, question, call):
    if way.startswith("messages"):
        asked = {"model": model, "messages": question, "max_tokens": tokens, **call}
        if not stream:
            return client.messages.create(**asked).content[0].text
        with client.messages.stream(**asked) as events:
            return events.get_final_text()
    if way.startswith("responses"):
        # Not by a limit, after which an answer would be incomplete.
        model += f"{',' if ':' in model else ':'}tokens={tokens}"
        asked = {"model": model, "input": question, **call}
        if not stream:
            return client.responses.create(**asked).output_text
        with client.responses.stream(**asked) as events:
            return events.get_final_response().output_text
    asked = {"model": model, "messages": question, "max_tokens": tokens, **call}
    if not stream:
        return client.chat.completions.create(**asked).choices[0].message.content
    return "".join(
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices
    )


async def _ask_async(way, url, asked, sdk, settings):
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(penstock.async_http_client(trust_env=False, **settings))
        call = asked["call"]
        told = {"model": asked["model"], "messages": asked["question"], "max_tokens": asked["tokens"], **call}
        if way.startswith("messages"):
            client = anthropic.AsyncAnthropic(base_url=url, api_key="any", http_client=http, **sdk)
            if not asked["stream"]:
                return (await client.messages.create(**told)).content[0].text, http.statistics()
            async with client.messages.stream(**told) as events:
                return await events.get_final_text(), http.statistics()
        client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", http_client=http, **sdk)
        if not asked["stream"]:
            answer = await client.chat.completions.create(**told)
            return answer.choices[0].message.content, http.statistics()
        text = ""
        async for chunk in await client.chat.completions.create(**told, stream=True):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
        return text, http.statistics()
