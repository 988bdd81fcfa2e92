"""Answers kept on the caller's side: the same question is not asked twice, another one always is."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import threading

import anthropic
import httpx2
import openai
import pytest
from sdks import QUESTION, WAYS, ask, expected

import penstock
from penstock.client import CacheOptions
from penstock.client._disk import Disk
from penstock.testing import ScriptedUpstream, Step


def billed(provider):
    return provider.bill()["requests"]


@pytest.fixture
def asking(provider):
    """An OpenAI client with a cache in memory, and a function that asks it the usual question."""
    with penstock.http_client(trust_env=False, cache=CacheOptions()) as http:
        client = openai.OpenAI(base_url=provider.base_url, api_key="any", http_client=http)

        def asked(**members):
            told = {"model": "sim", "messages": QUESTION, "max_tokens": 12, "temperature": 0, **members}
            return client.chat.completions.create(**told)

        asked.http = http
        asked.client = client
        yield asked


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_streams_and_plain_answers_share_what_is_kept(provider, asking, first, second):
    for stream in (first, second):
        answer = asking(stream=stream)
        text = text_of(answer) if stream else answer.choices[0].message.content
        assert text == expected("chat", 12)
    assert billed(provider) == 1
    figures = asking.http.statistics()
    assert (figures.calls, figures.succeeded, figures.cached, figures.attempts) == (2, 2, 1, 1)
    assert figures.bytes_saved > 200


def test_a_usage_chunk_comes_to_those_who_asked_for_it(provider, asking):
    asked = {"include_usage": True}
    assert all(chunk.choices for chunk in asking(stream=True))
    *_, last = asking(stream=True, stream_options=asked)
    first_usage = asking(stream=True, stream_options=asked)
    assert [bool(chunk.choices) for chunk in first_usage][-1] is False
    assert not last.choices
    assert last.usage is not None


def test_what_could_change_the_answer_is_another_question(provider, asking):
    asking()
    asking(seed=1)
    asking(max_tokens=11)
    asking(messages=[{"role": "user", "content": "Else?"}])
    asking(user="somebody")  # who asks changes nothing
    assert billed(provider) == 4


def test_only_calls_that_want_one_answer_are_kept(provider, asking):
    asking(temperature=0.7)
    asking(temperature=0.7)
    assert billed(provider) == 2


def test_unless_all_shall_be(provider):
    with penstock.http_client(trust_env=False, cache=CacheOptions(every_call=True)) as http:
        client = openai.OpenAI(base_url=provider.base_url, api_key="any", http_client=http)
        for _ in range(2):
            client.chat.completions.create(model="sim", messages=QUESTION)
    assert billed(provider) == 1


def test_the_caller_can_do_without(provider, asking):
    asking()
    asking(extra_headers={"Cache-Control": "no-cache"})
    assert billed(provider) == 2


def test_keys_do_not_share(provider, asking):
    asking()
    asking.client.with_options(api_key="other").chat.completions.create(
        model="sim", messages=QUESTION, max_tokens=12, temperature=0
    )
    assert billed(provider) == 2


def test_what_broke_or_failed_is_not_kept(provider, asking):
    for _ in range(2):
        with pytest.raises(openai.BadRequestError):
            asking(model="sim:400")
    asking(model="sim:cut-after=3,once", stream=True).close()
    assert text_of(asking(model="sim:cut-after=3,once", stream=True)) == expected("chat", 12)
    assert asking.http.statistics().cached == 0


def test_a_compressed_answer_is_kept_as_what_it_says():
    packed = gzip.compress(b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"yes"}}]}')
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(packed), packed)
    )

    async def main():
        async with ScriptedUpstream([[Step.REQUEST, answer]]) as upstream:
            async with penstock.async_http_client(trust_env=False, cache=CacheOptions()) as http:
                body = {"model": "m", "messages": QUESTION, "temperature": 0}
                url = upstream.url + "/v1/chat/completions"
                return [(await http.post(url, json=body)).json() for _ in range(2)]

    first, second = asyncio.run(main())
    assert first == second


def test_an_answer_is_good_for_its_time(provider):
    with penstock.http_client(trust_env=False, cache=CacheOptions(ttl=0.0)) as http:
        client = openai.OpenAI(base_url=provider.base_url, api_key="any", http_client=http)
        for _ in range(2):
            client.chat.completions.create(model="sim", messages=QUESTION, temperature=0)
    assert billed(provider) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_file_outlives_the_process_for_every_sdk(provider, tmp_path, way, stream):
    asked = {"extra_body": {"temperature": 0}}  # Anthropic's SDK has no argument for it any more
    told = {"call": asked, "stream": stream, "tokens": 9}
    if way == "responses":
        told["call"]["store"] = False  # what is stored has effects
    for _ in range(2):
        options = CacheOptions(path=tmp_path / "deep" / "answers.sqlite")
        text, figures = ask(way, provider.url, cache=options, **told)
        assert text == expected(way, 9)
    assert figures.cached == 1
    assert billed(provider) == 1
    assert (tmp_path / "deep" / "answers.sqlite").stat().st_mode & 0o077 == 0


def test_embeddings_are_kept(provider, asking):
    first, second = (asking.client.embeddings.create(model="sim", input="x").data for _ in range(2))
    assert first[0].embedding == second[0].embedding
    assert billed(provider) == 1


def test_anthropics_plain_answers_are_those_of_its_streams(provider):
    with penstock.http_client(trust_env=False, cache=CacheOptions()) as http:
        client = anthropic.Anthropic(base_url=provider.url, api_key="any", http_client=http)
        asked = {"model": "sim", "messages": QUESTION, "max_tokens": 9, "extra_body": {"temperature": 0}}
        with client.messages.stream(**asked) as events:
            streamed = events.get_final_message()
        plain = client.messages.create(**asked)
    assert plain.content[0].text == streamed.content[0].text
    assert plain.usage.output_tokens == streamed.usage.output_tokens == 9
    assert billed(provider) == 1


# ---- the file ----------------------------------------------------------------------------------------


class Seconds:
    value = 1_000.0

    def __call__(self):
        return self.value


@pytest.fixture
def now():
    return Seconds()


def test_a_file_keeps_until_its_time_is_over(tmp_path, now):
    disk = Disk(tmp_path / "f", 1 << 20, now)
    disk.put(b"k", b"sealed", 1_010.0)
    assert disk.get(b"k") == b"sealed"
    assert disk.get(b"other") is None
    now.value = 1_010.0
    assert disk.get(b"k") is None
    disk.close()


def test_a_file_never_grows_past_its_bound_and_the_oldest_go(tmp_path, now):
    disk = Disk(tmp_path / "f", 400_000, now)
    for number in range(200):
        disk.put(b"%d" % number, b"x" * 10_000, 2_000.0)
    assert (tmp_path / "f").stat().st_size <= 400_000
    assert disk.get(b"0") is None
    assert disk.get(b"199") == b"x" * 10_000
    disk.put(b"huge", b"x" * 1_000_000, 2_000.0)  # has no room at all
    disk.put(b"small", b"x", 2_000.0)
    assert disk.get(b"huge") is None
    assert disk.get(b"small") == b"x"
    disk.close()


def test_a_damaged_file_is_begun_anew(tmp_path, now):
    disk = Disk(tmp_path / "f", 1 << 20, now)
    for number in range(50):
        disk.put(b"%d" % number, b"x" * 5_000, 2_000.0)
    disk.close()
    with (tmp_path / "f").open("r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * 100_000)
    disk = Disk(tmp_path / "f", 1 << 20, now)
    for number in range(50):
        disk.get(b"%d" % number)
    disk.put(b"k", b"sealed", 2_000.0)
    assert disk.get(b"k") == b"sealed"
    disk.close()


@pytest.mark.parametrize("kind", ["text", "database"])
def test_somebody_elses_file_is_left_alone(tmp_path, now, kind, caplog):
    path = tmp_path / "f"
    if kind == "text":
        path.write_bytes(b"mine " * 1_000)
    else:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE mine (x)")
        database.close()
    before = path.read_bytes()
    disk = Disk(path, 1 << 20, now)
    disk.put(b"k", b"sealed", 2_000.0)
    assert disk.get(b"k") is None
    disk.close()
    assert path.read_bytes() == before
    assert len(caplog.records) == 1


def test_a_folder_that_cannot_be_is_a_miss(tmp_path, now):
    (tmp_path / "f").write_text("a file")
    disk = Disk(tmp_path / "f" / "answers", 1 << 20, now)
    disk.put(b"k", b"sealed", 2_000.0)
    assert disk.get(b"k") is None


def test_of_a_full_disk_is_told_once_though_what_it_has_can_be_read(tmp_path, now, monkeypatch, caplog):
    disk = Disk(tmp_path / "f", 1 << 20, now)
    disk.put(b"k", b"sealed", 2_000.0)
    put = disk._put

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(disk, "_put", full)
    for _ in range(3):
        disk.put(b"l", b"sealed", 2_000.0)
        assert disk.get(b"k") == b"sealed"
    assert len(caplog.records) == 1
    monkeypatch.setattr(disk, "_put", put)
    disk.put(b"l", b"sealed", 2_000.0)
    monkeypatch.setattr(disk, "_put", full)
    disk.put(b"l", b"sealed", 2_000.0)
    assert len(caplog.records) == 2
    disk.close()


def test_threads_share_a_file(tmp_path, now):
    disk = Disk(tmp_path / "f", 1 << 22, now)

    def work(name):
        for number in range(50):
            disk.put(b"%d/%d" % (name, number), b"%d" % number, 2_000.0)
            assert disk.get(b"%d/%d" % (name, number)) == b"%d" % number

    threads = [threading.Thread(target=work, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(disk.get(b"%d/49" % name) == b"49" for name in range(4))
    disk.close()


def test_async_clients_read_the_file_in_a_thread(provider, tmp_path):
    async def main():
        texts = []
        for _ in range(2):
            cache = CacheOptions(path=tmp_path / "f")
            async with penstock.async_http_client(trust_env=False, cache=cache) as http:
                client = openai.AsyncOpenAI(base_url=provider.base_url, api_key="any", http_client=http)
                answer = await client.chat.completions.create(model="sim", messages=QUESTION, temperature=0)
                texts.append(answer.choices[0].message.content)
        return texts

    first, second = asyncio.run(main())
    assert first == second
    assert billed(provider) == 1


def test_what_one_server_answered_is_no_answer_of_another():
    asked = []

    def answer(request):
        asked.append(str(request.url))
        message = {"role": "assistant", "content": request.url.host}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json={"id": "c", "object": "chat.completion", "choices": [choice]})

    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], "temperature": 0}
    urls = ["http://a/v1", "http://b/v1", "http://a/other/v1"]
    with penstock.http_client(transport=httpx2.MockTransport(answer), cache=CacheOptions()) as http:
        for url in [*urls, *urls]:
            http.post(url + "/chat/completions", json=body)
    assert asked == [url + "/chat/completions" for url in urls]
