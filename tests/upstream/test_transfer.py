"""One answer on its way into the log, without a socket: what it becomes, when it is given up, what it used."""

import pytest
from transferring import DONE, JSON, SSE, Reader, chunk, make, timed_out

from penstock.config.model import TimeoutConfig
from penstock.errors import PenstockError, UpstreamBroken, UpstreamFailed
from penstock.generation.log import AHEAD_BYTES, Account
from penstock.messages import Dialect, Endpoint, Usage
from penstock.upstream import transfer as transfers
from penstock.upstream.streamed import StreamTransfer

ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'


def used_by(*pieces, conclude=True, **more):
    """What a stream of these pieces used."""
    transfer = make(stream=True, **more)
    transfer.on_head(200, SSE)
    for piece in pieces:
        transfer.on_data(piece)
    if conclude:
        transfer.conclude()
    return transfer.used()


@pytest.mark.parametrize(
    ("endpoint", "to", "theirs", "shown"),
    [
        (Endpoint.CHAT, None, b"x-request-id", b"x-request-id"),
        (Endpoint.CHAT, Dialect.ANTHROPIC, b"request-id", b"x-request-id"),
        (Endpoint.RESPONSES, Dialect.ANTHROPIC, b"request-id", b"x-request-id"),
        (Endpoint.MESSAGES, Dialect.OPENAI, b"x-request-id", b"request-id"),
    ],
)
def test_the_requests_id_has_the_name_by_which_the_callers_sdk_knows_it(endpoint, to, theirs, shown):
    body = b'{"model":"m","max_tokens":9,"input":"x"}' if endpoint is Endpoint.RESPONSES else None
    transfer = make(endpoint, to=to, body=body)
    transfer.headers = {theirs: b"r1", b"openai-processing-ms": b"7"}
    assert transfer.shown_headers() == [(shown, b"r1"), (b"openai-processing-ms", b"7")]


TOLD_LIMITS = {b"anthropic-ratelimit-unified-status": b"allowed", b"x-ratelimit-remaining-tokens": b"7"}


@pytest.mark.parametrize(
    ("callers_key", "limited", "shown"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_the_limits_that_a_provider_tells_of_are_shown_to_whose_key_it_was(callers_key, limited, shown):
    transfer = make()
    transfer.job.callers_key = callers_key
    if limited:  # by the gateway, which tells of its own
        transfer.job.call.reservation = object()
    transfer.headers = {**TOLD_LIMITS, b"x-request-id": b"r1"}
    assert transfer.shown_headers() == [(b"x-request-id", b"r1"), *(TOLD_LIMITS.items() if shown else ())]


# ---- plain answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, len(ANSWER)])
def test_a_plain_answer_becomes_one_event_whatever_its_pieces(size):
    transfer = make()
    transfer.on_head(200, {**JSON, b"x-request-id": b"r1", b"set-cookie": b"c"})
    for at in range(0, len(ANSWER), size):
        transfer.on_data(ANSWER[at : at + size])
    transfer.conclude()
    assert transfer.generation.events == [ANSWER]
    assert transfer.generation.headers == [(b"x-request-id", b"r1")]
    assert transfer.used() == Usage(input_tokens=3, output_tokens=2)


def test_a_plain_answer_without_usage_is_estimated():
    transfer = make()
    transfer.on_head(200, JSON)
    transfer.on_data(b'{"choices":[{"message":{"content":"' + b"x" * 400 + b'"}}]}')
    transfer.conclude()
    used = transfer.used()
    assert used.estimated
    assert used.output_tokens >= 100
    assert used.input_tokens > 0


def test_counting_tokens_uses_none_but_must_be_an_object():
    transfer = make(Endpoint.COUNT_TOKENS)
    transfer.on_head(200, JSON)
    transfer.on_data(b'{"input_tokens":12}')
    transfer.conclude()
    assert transfer.used() == Usage()
    transfer = make(Endpoint.COUNT_TOKENS)
    transfer.on_head(200, JSON)
    transfer.on_data(b"[12]")
    with pytest.raises(UpstreamBroken):
        transfer.conclude()


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=utf-8", b"application/problem+json"]
)
def test_a_media_type_is_read_as_http_has_it(kind):
    transfer = make()
    transfer.on_head(200, {b"content-type": kind})
    assert transfer.failure is None
    transfer = make(stream=True)
    transfer.on_head(200, {b"content-type": b"Text/Event-Stream; charset=UTF-8"})
    assert transfer.failure is None


@pytest.mark.parametrize(
    ("coding", "taken"), [(b"identity", True), (b"Identity", True), (b"", True), (b"gzip", False)]
)
def test_only_an_answer_as_it_is_can_be_read(coding, taken):
    transfer = make()
    transfer.on_head(200, {**JSON, b"content-encoding": coding})
    assert (transfer.failure is None) is taken


def test_pieces_that_wait_are_on_the_account_until_they_are_logged():
    account = Account(1 << 20)
    transfer = make(account=account)
    transfer.on_head(200, JSON)
    transfer.on_data(b"x" * 100)
    assert account.held == 0  # the usual answer is one piece, and is logged at once
    transfer.on_data(b"y" * 50)
    assert account.held == transfer.held == 50


def test_a_plain_answer_of_tiny_pieces_is_bounded_by_what_they_take():
    transfer = make(max_bytes=10_000)
    transfer.on_head(200, JSON)
    for _ in range(1_000):
        transfer.on_data(b" ")
    assert transfer.failure.code == "answer_too_large"
    assert transfer.connection.log == ["abort"]
    assert len(transfer._pieces) < 200


# ---- streams --------------------------------------------------------------------------------------

STREAM = chunk("a") + b": hello\n\n" + chunk("b", "stop") + DONE


@pytest.mark.parametrize("size", [1, 5, 64, len(STREAM)])
def test_a_stream_becomes_its_events_whatever_its_pieces(size):
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    for at in range(0, len(STREAM), size):
        transfer.on_data(STREAM[at : at + size])
    assert transfer.told
    transfer.conclude()
    assert transfer.generation.events == [chunk("a"), chunk("b", "stop"), DONE]


@pytest.mark.parametrize("cut", range(1, len(STREAM) - 1, 17))
def test_a_stream_that_ends_early_is_no_answer(cut):
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.on_data(STREAM[:cut])
    assert not transfer.told
    with pytest.raises(UpstreamBroken):
        transfer.conclude()


def test_a_translated_stream_becomes_events_of_the_callers_dialect():
    transfer = make(Endpoint.MESSAGES, stream=True, to=Dialect.OPENAI)
    transfer.on_head(200, SSE)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    transfer.on_data(chunk("a") + chunk("b", "stop") + usage + DONE)
    transfer.conclude()
    events = transfer.generation.events
    assert events[0].startswith(b"event: message_start")
    assert events[-1].startswith(b"event: message_stop")
    assert transfer.used() == Usage(input_tokens=3, output_tokens=2)


def test_what_is_good_is_delivered_before_the_fault_but_not_to_a_caller_who_may_have_another_attempt():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.on_data(chunk("a") + b"data: {\n\n")
    assert transfer.generation.events == []
    assert transfer.used().output_tokens == 1
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.on_data(chunk("a"))
    transfer.on_data(chunk("b") + b"data: {\n\n")
    assert transfer.generation.events == [chunk("a"), chunk("b")]
    assert isinstance(transfer.failure, UpstreamBroken)
    assert transfer.connection.log == ["abort"]


def test_after_the_terminator_nothing_is_looked_at():
    transfer = make(stream=True, max_bytes=5_000)
    transfer.on_head(200, SSE)
    transfer.on_data(STREAM)
    transfer.on_data(b"x" * 100_000)
    transfer.on_data(b'data: {"error":{"message":"late"}}\n\n')
    transfer.conclude()
    assert len(transfer.generation.events) == 3


def test_a_defect_of_ours_ends_the_attempt_and_not_the_connections_loop(monkeypatch, caplog):
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    monkeypatch.setattr(StreamTransfer, "_deliver", lambda *_: 1 / 0)
    transfer.on_data(chunk("a"))
    assert transfer.failure.code == "internal_error"
    assert transfer.connection.log == ["abort"]
    assert "defect" in caplog.text


@pytest.mark.parametrize("delivered", [True, False])
def test_what_came_behind_a_fault_in_the_same_piece_is_counted(delivered):
    first = [chunk("a")] * delivered
    used = used_by(*first, chunk("b") + b"data: {\n\n" + chunk("c") + chunk("d"), conclude=False)
    assert (used.output_tokens, used.estimated) == (3 + delivered, True)
    assert used_by(b"data: {\n\n" + chunk("c"), conclude=False).output_tokens == 1


def test_so_it_is_beyond_what_the_upstream_has_told_so_far():
    told = {"usage": {"prompt_tokens": 3, "completion_tokens": 7}}
    used = used_by(chunk("a", **told), b"data: {\n\n" + chunk("b"), conclude=False)
    assert used == Usage(input_tokens=3, output_tokens=8, estimated=True)


def test_so_it_is_where_the_answer_is_translated():
    pieces = (chunk("a"), b"data: {\n\n" + chunk("b"))
    used = used_by(*pieces, conclude=False, endpoint=Endpoint.MESSAGES, to=Dialect.OPENAI)
    assert used.output_tokens == 2


# ---- errors ---------------------------------------------------------------------------------------


def test_an_error_status_is_read_to_its_end_and_means_what_it_says():
    transfer = make()
    transfer.on_head(429, {**JSON, b"retry-after": b"3"})
    transfer.on_data(b'{"error":{"message":')
    transfer.on_data(b'"slow down"}}')
    with pytest.raises(UpstreamFailed, match="up: slow down") as caught:
        transfer.conclude()
    assert (caught.value.status, caught.value.retry_after) == (429, 3.0)
    assert transfer.used() == Usage()


@pytest.mark.parametrize("status", [201, 204, 206, 301, 304, 418, 500, 599, 600, 999])
@pytest.mark.parametrize("stream", [False, True])
def test_every_other_status_than_200_is_an_error(status, stream):
    transfer = make(stream=stream)
    transfer.on_head(status, {})
    with pytest.raises(PenstockError) as caught:
        transfer.conclude()
    assert caught.value.status >= 400


def test_an_errors_body_without_end_is_cut():
    transfer = make()
    transfer.on_head(500, {})
    for _ in range(100):
        transfer.on_data(b"x" * 10_000)
    assert transfer.connection.log == ["abort"]
    assert len(transfer._error_body) <= transfers.MAX_ERROR_BYTES + 10_000


# ---- clocks ---------------------------------------------------------------------------------------


def test_the_first_token_is_waited_for_from_the_calls_turn():
    transfer = make()
    transfer.check_clocks(1_009.9)
    assert transfer.failure is None
    transfer.sent = 1_008.0  # it stood in the pool's line for eight seconds
    transfer.check_clocks(1_017.9)
    assert transfer.failure is None
    transfer.check_clocks(1_018.1)
    assert timed_out(transfer) == "first_token"


def test_between_tokens_each_piece_winds_the_clock_up_again():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    for now in (1_009.0, 1_012.0, 1_015.0):
        transfer.now.now = now
        transfer.on_data(chunk("a"))
        transfer.check_clocks(now + 3.9)
    assert transfer.failure is None
    transfer.check_clocks(1_019.1)
    assert timed_out(transfer) == "between_tokens"


def test_comments_keep_a_silent_stream_alive_only_until_the_first_tokens_time_is_over():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    for second in range(10):
        transfer.now.now = 1_000.0 + second
        transfer.on_data(b": processing\n\n")
        transfer.check_clocks(transfer.now.now)
    assert transfer.failure is None
    transfer.check_clocks(1_010.1)
    assert timed_out(transfer) == "first_token"


def test_the_total_counts_from_the_beginning():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.now.now = 1_099.0
    transfer.on_data(chunk("a"))
    transfer.check_clocks(1_099.9)
    assert transfer.failure is None
    transfer.check_clocks(1_100.1)
    assert timed_out(transfer) == "total"


def test_the_clock_between_tokens_stands_still_while_it_is_we_who_do_not_read():
    transfer = make(stream=True)
    transfer.generation.readers.append(Reader())
    transfer.on_head(200, SSE)
    transfer.on_data(chunk("x" * (AHEAD_BYTES + 100)))
    assert transfer.connection.log == ["pause"]
    transfer.check_clocks(1_050.0)
    assert transfer.failure is None
    transfer.now.now = 1_050.0
    transfer.resume()
    assert transfer.connection.log == ["pause", "resume"]
    transfer.check_clocks(1_053.9)
    assert transfer.failure is None
    transfer.check_clocks(1_054.1)
    assert timed_out(transfer) == "between_tokens"


@pytest.mark.parametrize("body", [b"", b'{"error":{"message":"no"}}'])
def test_an_errors_body_that_stops_coming_is_taken_for_whole(body):
    transfer = make()
    transfer.on_head(503, {})
    if body:
        transfer.on_data(body)
    transfer.check_clocks(1_000.0 + transfers.ERROR_SILENCE)
    assert transfer.connection.log == []
    transfer.check_clocks(1_000.1 + transfers.ERROR_SILENCE)
    assert transfer.connection.log == ["abort"]
    with pytest.raises(UpstreamFailed, match="up: no" if body else "up answered 503"):
        transfer.conclude()


def test_an_errors_body_that_trickles_on_is_cut_at_the_total():
    transfer = make()
    transfer.on_head(503, {})
    for second in range(101):
        transfer.now.now = 1_000.0 + second
        transfer.on_data(b" ")
        transfer.check_clocks(transfer.now.now)
    assert transfer.connection.log == []
    transfer.check_clocks(1_100.5)
    assert transfer.connection.log == ["abort"]


def test_a_message_that_does_not_end_after_its_terminator_is_ended():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.on_data(STREAM)
    transfer.check_clocks(1_000.0 + transfers.LAST_BYTES + 0.1)
    assert transfer.connection.log == ["abort"]
    transfer.conclude()


def test_a_clock_of_nought_is_off():
    transfer = make()
    transfer.job.timeouts = TimeoutConfig(connect=0, first_token=0, between_tokens=0, total=0)
    transfer.check_clocks(9e9)
    assert transfer.failure is None


# ---- leaving --------------------------------------------------------------------------------------


def test_who_hangs_up_wakes_a_paused_answer_first_and_only_once():
    transfer = make(stream=True)
    transfer.generation.readers.append(Reader())
    transfer.on_head(200, SSE)
    transfer.on_data(chunk("x" * (AHEAD_BYTES + 100)))
    transfer.hang_up(1.0)
    transfer.hang_up(1.0)
    assert transfer.connection.log == ["pause", "resume", "hang_up"]
    transfer.check_clocks(9e9)
    assert transfer.failure is None


def test_a_connection_that_is_not_ours_any_more_is_not_touched():
    transfer = make(stream=True)
    transfer.on_head(200, SSE)
    transfer.answer.is_done = True
    transfer.hang_up(1.0)
    transfer.check_clocks(9e9)
    transfer._paused = True
    transfer.resume()
    assert transfer.connection.log == []
    assert not transfer.cancelled


# ---- what it used ---------------------------------------------------------------------------------

TOLD = {"usage": {"prompt_tokens": 7, "completion_tokens": 1}}


def test_a_broken_stream_is_counted_by_what_it_told_last():
    assert used_by(chunk("a", **TOLD), chunk("b"), conclude=False) == Usage(input_tokens=7, output_tokens=1)


def test_a_broken_stream_that_told_nothing_is_counted_by_what_came():
    used = used_by(chunk("a"), chunk("b"), chunk("c"), conclude=False)
    assert (used.output_tokens, used.estimated) == (3, True)
    assert used.input_tokens > 0


def test_nothing_that_came_costs_nothing():
    assert used_by(conclude=False) == Usage()
    assert used_by(b": hello\n\n", conclude=False) == Usage()


def test_a_prompt_that_is_no_utf8_can_be_counted_all_the_same():
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"\xff\xfe"}]}'
    transfer = make(stream=True, body=body)
    transfer.on_head(200, SSE)
    transfer.on_data(chunk("a"))
    assert transfer.used().input_tokens > 0
