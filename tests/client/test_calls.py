"""What is decided about a call: again or not, when, and where."""

import pytest

from penstock.client._breaks import Break, kind_of
from penstock.client._calls import Calls
from penstock.client.options import Options
from penstock.config.model import RetryConfig

BODY = b'{"model":"m","messages":[{"role":"user","content":"?"}]}'
GATEWAY = {"penstock-generation": "gen_1"}


class Time:
    """Monotonic seconds and those since 1970, which pass together."""

    def __init__(self):
        self.seconds = 1_000.0

    def now(self):
        return self.seconds

    def wall(self):
        return self.seconds + 1.7e9


@pytest.fixture
def time():
    return Time()


def calls(time, notices=None, **options):
    options.setdefault("retry", RetryConfig(attempts=4, first_delay=0.5, max_delay=10.0))
    if notices is not None:
        options["on_notice"] = notices.append
    return Calls(Options(**options), now=time.now, wall=time.wall, rand=lambda: 1.0)


def begin(of, path="/v1/chat/completions", netloc="a:1", headers=None, body=BODY, method="POST"):
    return of.begin(method, "http", netloc, path, headers or {}, body)


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_a_refusal_for_now_is_tried_again_with_growing_delays(time, status):
    call = begin(calls(time))
    waits = []
    for _ in range(4):
        call.attempt()
        waits.append(call.refused(status, {}))
    assert waits == [0.5, 1.0, 2.0, None]


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 409, 413, 422, 501])
def test_any_other_answer_is_the_answer(time, status):
    call = begin(calls(time))
    call.attempt()
    assert call.refused(status, {}) is None


def test_the_server_says_when_and_whether(time):
    call = begin(calls(time))
    call.attempt()
    assert call.refused(429, {"retry-after": "3"}) == 3.0
    assert call.refused(429, {"retry-after": "3", "retry-after-ms": "250"}) == 0.25
    assert call.refused(429, {"retry-after": "31"}) is None  # longer than it is worth
    assert call.refused(500, {"x-should-retry": "false"}) is None
    assert call.refused(409, {"x-should-retry": "true"}) == 0.5


def test_retries_have_a_budget_that_all_calls_share(time):
    shared = calls(time, retry=RetryConfig(attempts=100, budget_floor=2.0, budget_ratio=0.1))
    granted = 0
    for _ in range(20):
        call = begin(shared)
        call.attempt()
        granted += call.refused(503, {}) is not None
    # 2 always, and a tenth of the calls that have begun by then
    assert granted == 4


def test_a_broken_transfer_to_a_gateway_costs_it_nothing_and_is_in_no_budget(time):
    shared = calls(time, retry=RetryConfig(attempts=3, budget_floor=0.0, budget_ratio=0.0))
    first = begin(shared)
    first.attempt()
    first.refused(200, GATEWAY)
    for _ in range(5):
        call = begin(shared)
        call.attempt()
        assert call.broke(Break.BROKEN, "reset") == 0.0  # at once
        call.attempt()
        assert call.broke(Break.BROKEN, "reset") == 1.0
        call.attempt()
        assert call.broke(Break.BROKEN, "reset") is None


def test_a_broken_transfer_to_a_plain_provider_is_in_the_budget(time):
    """It may compute it once more."""
    for floor, waits in ((0.0, None), (1.0, 0.5)):
        shared = calls(time, retry=RetryConfig(budget_floor=floor, budget_ratio=0.0))
        call = begin(shared, netloc="provider:1")
        call.attempt()
        assert call.broke(Break.BROKEN, "reset") == waits


def test_a_plain_provider_that_is_silent_is_not_asked_twice(time):
    """It may be computing, and would bill it once more."""
    call = begin(calls(time))
    call.attempt()
    assert call.broke(Break.SILENT, "timeout") is None


def test_a_gateway_that_is_silent_is_asked_again_under_the_same_key(time):
    call = begin(calls(time, gateways=("http://a:1",)))
    key = call.key
    call.attempt()
    assert call.broke(Break.SILENT, "timeout") is not None
    assert call.key == key


def test_what_would_fail_again_is_not_tried_again(time):
    call = begin(calls(time))
    call.attempt()
    assert call.broke(Break.FATAL, "certificate") is None


def test_only_what_may_be_repeated_is(time):
    shared = calls(time)
    post = begin(shared, path="/v1/files")
    post.attempt()
    assert post.broke(Break.BROKEN, "reset") is None
    assert post.refused(503, {}) is None
    get = begin(shared, path="/v1/models", method="GET")
    get.attempt()
    assert get.broke(Break.UNREACHED, "refused") == 0.5
    threads = begin(shared, path="/v1/threads/t/messages")
    assert threads.endpoint is None


# ---- keys --------------------------------------------------------------------------------------------


def test_every_call_has_a_key_of_its_own_unless_the_application_gives_one(time):
    shared = calls(time)
    first, second = begin(shared), begin(shared)
    assert first.key
    assert first.key != second.key
    assert begin(shared, headers={"idempotency-key": "mine"}).key == "mine"
    assert begin(shared, path="/v1/files").key == ""


def test_an_sdk_that_repeats_a_failed_call_gets_its_key_and_one_attempt(time):
    shared = calls(time)
    call = begin(shared)
    call.attempt()
    call.failed("ReadError")
    again = begin(shared, headers={"x-stainless-retry-count": "1"})
    assert again.key == call.key
    again.attempt()
    assert again.broke(Break.UNREACHED, "refused") is None
    other = begin(shared, headers={"x-stainless-retry-count": "1"}, body=BODY + b" ")
    assert other.key != call.key


# ---- deadlines ---------------------------------------------------------------------------------------


def test_what_cannot_be_in_time_is_not_tried(time):
    call = begin(calls(time, deadline=2.0))
    call.attempt()
    assert call.left == 2.0
    assert call.refused(503, {}) == 0.5
    time.seconds += 1.6
    call.attempt()
    assert call.refused(503, {}) is None
    assert call.left == pytest.approx(0.4)


@pytest.mark.parametrize("told", ["3", str(1_000.0 + 1.7e9 + 3)])
def test_a_calls_own_deadline_goes_before(time, told):
    assert begin(calls(time, deadline=9.0), headers={"penstock-deadline": told}).left == pytest.approx(3.0)


def test_a_deadline_is_for_calls(time):
    assert begin(calls(time, deadline=9.0), path="/v1/models", method="GET").left is None


# ---- the caller's own clock --------------------------------------------------------------------------

CLOCKS = {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0}


def clocked(of, **more):
    return of.begin("POST", "http", "a:1", "/v1/chat/completions", more, BODY, CLOCKS)


def test_the_first_attempt_has_the_callers_clocks_and_another_what_is_left_of_them(time):
    call = clocked(calls(time, gateways=("http://a:1",)))
    assert call.limits() == CLOCKS
    call.attempt()
    time.seconds += 20
    assert call.broke(Break.BROKEN, "reset") == 0.0
    assert call.limits() == {"connect": 5.0, "read": 10.0, "write": 10.0, "pool": 10.0}


def test_nothing_begins_when_the_callers_clock_has_run_out(time):
    shared = calls(time, gateways=("http://a:1",))
    call = clocked(shared)
    call.attempt()
    time.seconds += 30
    assert call.broke(Break.SILENT, "timeout") is None
    call.failed("timeout")
    again = clocked(shared, **{"x-stainless-retry-count": "1"})
    again.attempt()
    assert again.key == call.key
    assert again.broke(Break.BROKEN, "reset") is not None  # it has the attempts that were left


def test_what_comes_winds_the_callers_clock_up_again(time):
    call = clocked(calls(time, gateways=("http://a:1",)))
    call.attempt()
    time.seconds += 29
    call.came(1)
    time.seconds += 29
    assert call.broke(Break.BROKEN, "reset") is not None


def test_a_body_that_goes_out_slowly_is_not_silence(time):
    call = clocked(calls(time, gateways=("http://a:1",)))
    call.attempt()
    for _ in range(4):
        time.seconds += 20
        call.went_out()
    assert call.broke(Break.BROKEN, "reset") is not None


def test_a_call_says_how_many_attempts_it_wants(time):
    call = begin(calls(time), headers={"Penstock-Attempts": "1"})
    call.attempt()
    assert call.refused(503, {}) is None
    assert not call.out_of_time
    call = begin(calls(time, retry=RetryConfig(attempts=1)), headers={"Penstock-Attempts": "2"})
    call.attempt()
    assert call.refused(503, {}) is not None


HURRIED = {**GATEWAY, "penstock-heartbeat": "2"}


def test_a_gateway_is_asked_for_signs_of_life_and_others_are_not(time):
    assert begin(calls(time, gateways=("http://a:1",))).heartbeat == "2"
    assert begin(calls(time, gateways=("http://a:1",), stall_timeout=40.0)).heartbeat == ""
    assert begin(calls(time)).heartbeat == ""


def test_where_there_are_signs_of_life_silence_is_a_break_soon_and_twice_as_late_each_time(time):
    call = begin(calls(time))
    stalls = []
    for _ in range(5):
        stalls.append(call.limits_of_stream(HURRIED)["read"])
        assert call.limits_of_rest()["read"] == stalls[-1]
        call.stream_broke(Break.SILENT, "silence", 0)
    assert stalls == [5.0, 10.0, 20.0, 40.0, 40.0]
    call.came(6)
    assert call.limits_of_stream(HURRIED)["read"] == 5.0
    call.stream_broke(Break.BROKEN, "reset", 0)
    assert call.limits_of_stream(HURRIED)["read"] == 5.0


def test_a_silence_that_was_said_holds(time):
    call = begin(calls(time, stall_timeout=90.0))
    assert call.limits_of_stream(HURRIED)["read"] == 90.0


@pytest.mark.parametrize(("silence", "stall"), [(600.0, 40.0), (60.0, 30.0), (30.0, 20.0), (5.0, 5.0)])
def test_a_stream_counts_as_broken_while_there_is_time_to_take_it_up_again(time, silence, stall):
    call = calls(time).begin(
        "POST", "http", "a:1", "/v1/chat/completions", {}, BODY, {**CLOCKS, "read": silence}
    )
    assert call.limits_of_stream(GATEWAY)["read"] == stall
    assert call.limits_of_stream({})["read"] == silence


def test_a_stream_that_has_begun_is_in_time(time):
    call = clocked(calls(time, deadline=5.0))
    call.reading(is_gateway=True)
    time.seconds += 20
    call.came(1)
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.0


# ---- several gateways --------------------------------------------------------------------------------


def test_a_gateway_that_cannot_be_reached_is_left_for_the_next_at_once(time):
    notices = []
    shared = calls(time, notices, gateways=("http://a:1", "http://b:1"))
    call = begin(shared)
    call.attempt()
    assert call.broke(Break.UNREACHED, "refused") == 0.0
    assert call.peer.origin == "http://b:1"
    assert begin(shared).peer.origin == "http://b:1"  # while the first one rests
    time.seconds += 1.1
    assert begin(shared).peer.origin == "http://a:1"
    assert [each.kind for each in notices] == ["failover", "retry"]


def test_many_calls_at_once_leave_a_dead_gateway_without_a_budget(time):
    """They began before any of them knew; nothing was asked, so nothing is multiplied."""
    shared = calls(
        time,
        gateways=("http://a:1", "http://b:1"),
        retry=RetryConfig(attempts=6, budget_floor=1.0, budget_ratio=0.0),
    )
    at_once = [begin(shared) for _ in range(50)]
    for call in at_once:
        call.attempt()
    assert [call.broke(Break.UNREACHED, "refused") for call in at_once] == [0.0] * 50
    assert {call.peer.origin for call in at_once} == {"http://b:1"}
    for call in at_once:
        call.attempt()
    # There is no third: from here on it is a retry like any other.
    assert sum(call.broke(Break.UNREACHED, "refused") is not None for call in at_once) == 1


def test_the_rest_grows_as_long_as_it_goes_on(time):
    shared = calls(time, gateways=("http://a:1", "http://b:1"))
    for _ in range(3):
        call = begin(shared)
        assert call.peer.origin == "http://a:1"
        call.attempt()
        call.broke(Break.UNREACHED, "refused")
        time.seconds = call.peer.rests_until + 10
        first = shared.peers.candidates("http", "a:1")[0]
        time.seconds = first.rests_until
    assert first.failures == 3
    begin(shared).refused(200, {})
    assert first.failures == 0


def test_a_gateway_without_room_is_left_too(time):
    call = begin(calls(time, gateways=("http://a:1", "http://b:1")))
    call.attempt()
    assert call.refused(503, {"retry-after": "60"}) == 0.0
    assert call.peer.origin == "http://b:1"


DRAINING = {"penstock-status": "draining", "retry-after": "1"}
NOTHING_FREE = RetryConfig(attempts=6, budget_floor=0.0, budget_ratio=0.0)


def test_a_burst_that_a_gateway_refuses_because_it_goes_away_goes_to_the_next_at_once_and_is_in_no_budget(
    time,
):
    shared = calls(time, gateways=("http://a:1", "http://b:1"), retry=NOTHING_FREE)
    burst = [begin(shared) for _ in range(200)]
    for call in burst:
        call.attempt()
    assert [call.refused(503, DRAINING) for call in burst] == [0.0] * 200
    assert {call.peer.origin for call in burst} == {"http://b:1"}
    assert shared.peers.candidates("http", "a:1")[0].failures == 1
    assert begin(shared).refused(503, {"retry-after": "1"}) is None  # no room is another matter


@pytest.mark.parametrize("gateways", [("http://a:1",), ("http://a:1", "http://b:1")])
def test_where_all_gateways_go_away_it_is_waited_as_long_as_they_say_but_not_for_ever(time, gateways):
    call = begin(calls(time, gateways=gateways, retry=NOTHING_FREE))
    waits = []
    for _ in range(6):
        call.attempt()
        waits.append(call.refused(503, DRAINING))
    assert waits == [0.0] * (len(gateways) - 1) + [1.0] * (6 - len(gateways)) + [None]


def test_calls_that_fail_together_are_one_failure_of_their_gateway(time):
    shared = calls(time, gateways=("http://a:1", "http://b:1"))
    for call in [begin(shared) for _ in range(9)]:
        call.attempt()
        call.broke(Break.UNREACHED, "refused")
    time.seconds += 1.1
    assert begin(shared).peer.origin == "http://a:1"


def test_if_none_is_well_the_first_to_be_is_asked(time):
    call = begin(calls(time, gateways=("http://a:1", "http://b:1")))
    for _ in range(2):
        call.attempt()
        call.broke(Break.UNREACHED, "refused")
    assert call.peer.origin == "http://a:1"


def test_other_servers_are_left_alone(time):
    shared = calls(time, gateways=("http://a:1/v1", "http://b:1/"))
    assert begin(shared, netloc="api.openai.com").peer.origin == "http://api.openai.com"


@pytest.mark.parametrize("url", ["a:1", "ftp://a", "http://", "http://a/other"])
def test_a_gateway_is_named_by_its_url(time, url):
    with pytest.raises(ValueError, match="gateway's URL"):
        calls(time, gateways=(url,))


# ---- streams -----------------------------------------------------------------------------------------


def test_a_stream_is_taken_up_again_until_nothing_has_come_for_long(time):
    call = begin(calls(time, resume_for=5.0))
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.0
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.1
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.2
    time.seconds += 4
    call.came(10)
    time.seconds += 4
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.0
    time.seconds += 5
    assert call.stream_broke(Break.BROKEN, "reset", 0) is not None
    time.seconds += 1
    assert call.stream_broke(Break.BROKEN, "reset", 0) is None


@pytest.mark.parametrize("kind", [Break.SILENT, Break.BROKEN])  # by our clock, or by the kernel's
def test_a_silence_longer_than_that_is_a_break_like_any_other(time, kind):
    """It is noticed when it is over: ``stall_timeout`` is longer than ``resume_for``."""
    call = begin(calls(time))
    call.came(10)
    time.seconds += 40
    assert call.stream_broke(kind, "silence", 0) == 0.0
    time.seconds += 40
    assert call.stream_broke(kind, "silence", 0) is None


def test_a_connection_that_shows_one_sign_of_life_has_held_for_as_long_as_that_took(time):
    """A model that thinks, behind a proxy that cuts what is older than 25 s; the head comes with the sign, after 15."""
    call = begin(calls(time, stall_timeout=40.0))
    call.came(10)
    for _ in range(10):
        assert call.stream_broke(Break.BROKEN, "closed", 0) == 0.0
        call.limits_of_rest()
        time.seconds += 15
        call.limits_of_stream(GATEWAY)
        call.came(5)
        time.seconds += 10


def silent_until_given_up(time, call, *, connect=None):
    """Seconds of each break; with ``connect``, nobody is reached after the first, which takes so long to notice."""
    begun, breaks = time.seconds, []
    stall, kind = call.limits_of_stream(HURRIED)["read"], Break.SILENT
    while True:
        time.seconds += stall
        breaks.append(time.seconds - begun)
        if (wait := call.stream_broke(kind, "silence", 0)) is None:
            return breaks
        time.seconds += wait
        stall = call.limits_of_rest()["read"]
        if connect is not None:
            stall, kind = connect, Break.UNREACHED


def test_a_silence_that_is_noticed_soon_is_given_up_no_sooner_than_one_that_is_not(time):
    call = begin(calls(time))
    call.came(10)
    breaks = silent_until_given_up(time, call)
    assert [round(each) for each in breaks] == [5, 15, 35, 75, 116]
    call = begin(calls(time))
    call.came(10)
    assert 80 < silent_until_given_up(time, call, connect=5.0)[-1] < 90


def test_nor_is_one_after_a_break_that_told(time):
    call = begin(calls(time))
    call.limits_of_stream(HURRIED)
    call.came(10)
    time.seconds += 1
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.0
    assert silent_until_given_up(time, call)[-1] >= 80


def test_who_is_not_reached_after_a_break_that_told_is_given_up_as_ever(time):
    call = begin(calls(time))
    call.limits_of_stream(HURRIED)
    assert call.stream_broke(Break.BROKEN, "reset", 0) == 0.0
    time.seconds += 31
    assert call.stream_broke(Break.UNREACHED, "refused", 0) is None


def test_a_server_that_goes_away_is_left_at_once(time):
    call = begin(calls(time, gateways=("http://a:1", "http://b:1")))
    assert call.stream_broke(Break.HANDED_OVER, "draining", 3) == 0.0
    assert call.peer.netloc == "b:1"


def test_who_is_alone_and_goes_away_is_asked_again_after_a_moment(time):
    call = begin(calls(time))
    assert call.stream_broke(Break.HANDED_OVER, "draining", 3) == 0.1
    assert call.peer.netloc == "a:1"


def test_to_hear_again_and_again_that_a_server_goes_away_is_no_progress(time):
    call = begin(calls(time, gateways=("http://a:1", "http://b:1"), resume_for=5.0))
    waits = []
    for _ in range(4):
        waits.append(call.stream_broke(Break.HANDED_OVER, "draining", 3))
        call.came(100)
    assert waits == [0.0, 0.2, 0.4, 0.8]
    time.seconds += 4
    call.came(100)
    time.seconds += 2
    assert call.stream_broke(Break.HANDED_OVER, "draining", 3) is None
    assert call.stream_broke(Break.HANDED_OVER, "draining", 4) is not None  # an event came


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_that_a_plain_provider_makes_once_more_is_in_the_budget(time, begun):
    """It computes it again, and bills it; of a gateway it is an attempt, and nothing else."""
    for netloc, floor, may in (("p:1", 0.0, False), ("p:1", 1.0, True), ("a:1", 0.0, True)):
        retry = RetryConfig(attempts=2, budget_floor=floor, budget_ratio=0.0)
        call = begin(calls(time, gateways=("http://a:1",), retry=retry), netloc=netloc)
        call.attempt()
        assert call.may_ask_again(begun=begun) is may
        call.attempt()
        assert not call.may_ask_again(begun=begun)


def test_a_body_whose_upload_was_answered_with_a_refusal_goes_anew_and_not_by_it(time):
    """The upload is complete, and would bring the same refusal each time."""
    call = begin(calls(time, gateways=("http://a:1",), upload_above=10))
    call.attempt()
    assert call.uploading({"Idempotency-Key": call.key}) is not None
    assert call.refused(503, GATEWAY) is not None
    assert call.uploading({"Idempotency-Key": call.key}) is None


# ---- figures -----------------------------------------------------------------------------------------


def test_figures_add_up(time):
    notices = []
    shared = calls(time, notices)
    call = begin(shared)
    call.attempt()
    call.sends(len(BODY))
    call.broke(Break.BROKEN, "reset")
    call.attempt()
    call.sends(len(BODY))
    call.came(100)
    call.succeeded()
    call.succeeded()
    failed = begin(shared)
    failed.attempt()
    failed.failed("no")
    figures = shared.counters.statistics()
    assert (figures.calls, figures.succeeded, figures.failed) == (2, 1, 1)
    assert (figures.attempts, figures.retries, figures.broken) == (3, 1, 1)
    assert figures.bytes_sent == 2 * len(BODY)
    assert figures.bytes_received == 100
    assert figures.success_rate == 0.5
    assert figures.transfer_success_rate == pytest.approx(2 / 3)
    assert [(each.kind, each.call == call.key) for each in notices] == [
        ("retry", True),
        ("succeeded", True),
        ("failed", False),
    ]


def test_a_hook_that_fails_fails_no_call(time, caplog):
    def fail(notice):
        raise RuntimeError("mine")

    call = begin(calls(time, on_notice=fail))
    call.succeeded()
    assert "on_notice failed" in caplog.text


# ---- kinds of break ----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["httpx2", "httpx"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ConnectError", Break.UNREACHED),
        ("ConnectTimeout", Break.UNREACHED),
        ("ReadTimeout", Break.SILENT),
        ("ReadError", Break.BROKEN),
        ("WriteError", Break.BROKEN),
        ("RemoteProtocolError", Break.BROKEN),
        ("LocalProtocolError", Break.FATAL),
        ("UnsupportedProtocol", Break.FATAL),
        ("PoolTimeout", Break.FATAL),
    ],
)
def test_errors_of_both_libraries_are_known(library, name, kind):
    module = pytest.importorskip(library)
    assert kind_of(getattr(module, name)("x")) is kind


def test_a_certificate_that_is_not_trusted_will_not_be_the_next_time():
    import ssl

    import httpx2

    error = httpx2.ConnectError("x")
    error.__cause__ = OSError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError()
    assert kind_of(error) is Break.FATAL
