"""Which earlier body the next one is compressed with, and what the gateway remembers of them."""

from __future__ import annotations

import json
import random

import openai
import pytest
import zstandard
from client_gateway import config
from sdks import expected

import penstock
from penstock.client._calls import Calls
from penstock.client._dictionaries import LACKS, REST, WORTH, Dictionaries
from penstock.client.options import Options
from penstock.testing import GatewayProcess
from penstock.wire import codings

ROOM = 1_000_000
GATEWAY = "http://gateway"


def prose(seed, words=1_000):
    rand = random.Random(seed)
    return " ".join("".join(rand.choices("aeioulnrst", k=rand.randint(2, 9))) for _ in range(words))


def body(*turns):
    return json.dumps({"messages": [{"role": "user", "content": each} for each in turns]}).encode()


def decoded(encoded, *known):
    """As a gateway decodes it that remembers these."""
    by_name = {codings.hashlib.sha256(each).digest(): each for each in known}
    return codings.decoded(encoded, ["dcz"], 1 << 26, by_name.get)


# ---- which one -------------------------------------------------------------------------------------


def test_the_dictionary_is_the_body_with_the_longest_beginning_in_common():
    dictionaries = Dictionaries(ROOM)
    one, other = body(prose(1), prose(2)), body(prose(3), prose(4))
    for each in (one, other):
        dictionaries.kept("k", each, None)
    nexts = {body(prose(1), prose(2), prose(5)): one, body(prose(3), prose(4), prose(6)): other}
    for body_now, must in nexts.items():
        encoded, dictionary = dictionaries.encoded("k", body_now, 0.0)
        assert dictionary is must
        assert decoded(encoded, must) == body_now
        assert len(encoded) < len(zstandard.compress(body_now)) / 2


def test_what_has_nothing_in_common_with_any_goes_without():
    dictionaries = Dictionaries(ROOM)
    for number in range(2):
        dictionaries.kept("k", body(prose(number)), None)
    assert dictionaries.encoded("k", body(prose(7)), 0.0) is None


def test_a_history_whose_oldest_turns_were_left_out_goes_with_the_one_that_has_the_rest():
    dictionaries = Dictionaries(ROOM)
    before = body(*(prose(number) for number in range(5)))
    dictionaries.kept("k", before, None)
    now = body(*(prose(number) for number in range(3, 6)))
    encoded, dictionary = dictionaries.encoded("k", now, 0.0)
    assert dictionary == before
    assert decoded(encoded, before) == now
    assert len(encoded) < len(zstandard.compress(now)) * 0.6


def test_none_is_the_dictionary_of_another_keys_body():
    dictionaries = Dictionaries(ROOM)
    dictionaries.kept("k", body(prose(1)), None)
    assert dictionaries.encoded("other", body(prose(1), "more"), 0.0) is None


def test_a_body_takes_the_place_of_the_one_that_it_goes_on_from():
    dictionaries = Dictionaries(ROOM)
    history = [prose(0)]
    dictionaries.kept("k", body(*history), None)
    for turn in range(1, 10):
        history.append(prose(turn, 100))
        _, dictionary = dictionaries.encoded("k", body(*history), 0.0)
        dictionaries.kept("k", body(*history), dictionary)
    assert repr(dictionaries) == f"<Dictionaries 1, {len(body(*history))} of {ROOM} bytes>"


def test_they_are_bounded_and_the_oldest_make_room():
    dictionaries = Dictionaries(20_000)
    bodies = [bytes([65 + number]) * WORTH for number in range(6)]
    for each in bodies:
        assert dictionaries.takes(each, 0.0)
        dictionaries.kept("k", each, None)
    assert repr(dictionaries) == f"<Dictionaries 4, {4 * WORTH} of 20000 bytes>"
    assert dictionaries.encoded("k", bodies[2] + b"x", 0.0)[1] == bodies[2]
    assert dictionaries.encoded("k", bodies[1] + b"x", 0.0) is None  # it had to make room
    assert not dictionaries.takes(bytes(5_001), 0.0)
    assert not dictionaries.takes(bytes(WORTH - 1), 0.0)
    assert not Dictionaries(0).takes(bytes(WORTH), 0.0)


def test_a_gateway_that_forgets_again_and_again_is_left_alone_for_a_while():
    dictionaries = Dictionaries(ROOM)
    known = [body(prose(number)) for number in range(5)]
    for each in known:
        dictionaries.kept("k", each, None)
    for each in known[:LACKS]:
        dictionaries.lacking("k", each, 10.0)
    assert dictionaries.encoded("k", known[3], 10.0) is None
    assert not dictionaries.takes(known[3], 10.0)
    assert dictionaries.takes(known[3], 10.0 + REST)
    assert dictionaries.encoded("k", known[3], 10.0 + REST)[1] == known[3]


# ---- what a call is told, and tells ----------------------------------------------------------------


def calls(**options):
    return Calls(Options(gateways=(GATEWAY,), **options), now=lambda: 0.0)


def begin(of, content, path="/v1/chat/completions", headers=None):
    return of.begin("POST", "http", "gateway", path, headers or {}, content)


UNDERSTOOD = {"accept-encoding": "zstd, dcz"}


def answered(of, content, headers=UNDERSTOOD, **more):
    """What was sent, and the call; the gateway remembers what it is asked to."""
    call = begin(of, content, **more)
    call.sent = call.encoded()
    kept = {"penstock-dictionary": "00"} if call.sent.asks_to_keep else {}
    assert call.refused(200, {**headers, **kept}) is None
    return call.sent


def test_a_gateway_is_asked_first_and_then_sent_what_is_new():
    of = calls()
    first, second, third = (body(*[prose(each) for each in range(turn)]) for turn in (1, 2, 3))
    sent = answered(of, first)
    assert (sent.coding, sent.asks_to_keep) == ("zstd", True)
    assert zstandard.decompress(sent.body) == first
    sent = answered(of, second)
    assert (sent.coding, sent.dictionary, decoded(sent.body, first)) == ("dcz", first, second)
    assert decoded(answered(of, third).body, second) == third


@pytest.mark.parametrize(("told", "coding"), [({}, ""), ({"accept-encoding": "zstd"}, "zstd")])
def test_a_gateway_without_dictionaries_is_asked_once(told, coding):
    of = calls()
    assert answered(of, body(prose(1)), told).asks_to_keep
    sent = answered(of, body(prose(1), prose(2)), told)
    assert (sent.coding, sent.asks_to_keep) == (coding, False)


def test_what_is_no_conversation_is_not_remembered():
    of = calls()
    answered(of, body(prose(1)))
    sent = answered(of, body(prose(1)), path="/v1/embeddings")
    assert (sent.coding, sent.asks_to_keep) == ("zstd", False)


def test_no_dictionaries_are_kept_where_none_are_wanted():
    of = calls(dictionary_bytes=0)
    assert not answered(of, body(prose(1))).asks_to_keep
    assert answered(of, body(prose(1), prose(2))).coding == "zstd"


def test_what_is_still_large_is_uploaded_without_a_dictionary():
    of = calls(upload_above=10_000)
    answered(of, body(prose(1)))
    large = body(prose(1), random.Random(1).randbytes(20_000).hex())
    assert answered(of, large).coding == "zstd"


def test_a_dictionary_that_is_gone_costs_no_attempt():
    of = calls()
    answered(of, body(prose(1)))
    call = begin(of, body(prose(1), "more"))
    call.attempt()
    call.sent = call.encoded()
    assert call.sent.coding == "dcz"
    assert call.refused(409, UNDERSTOOD) == 0.0
    call.attempt()
    call.sent = call.encoded()
    assert call.sent.coding == "zstd"
    assert call.refused(409, UNDERSTOOD) is None  # it was something else
    assert call.attempts == 1
    assert of.counters.statistics().retries == 0


def test_a_stream_whose_log_is_lost_is_asked_for_without():
    of = calls()
    answered(of, body(prose(1)))
    call = begin(of, body(prose(1), "more"))
    assert call.encoded().coding == "dcz"
    call.asks_again(begun=True)
    assert call.encoded().coding == "zstd"


# ---- through a gateway -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forgetful(simulator, tmp_path_factory):
    """A gateway with room for the bodies of a few turns."""
    folder = tmp_path_factory.mktemp("forgetful")
    settings = {**config(simulator), "codings": {"dictionary_bytes": 50_000}}
    with GatewayProcess(settings, folder) as running:
        yield running


def turns(client, history, count, seed):
    """So many turns of an agent; whether each answer was right."""
    for turn in range(count):
        history.append({"role": "user", "content": prose(seed + turn, 800)})
        answer = client.chat.completions.create(model="sim", messages=history, max_tokens=8)
        text = answer.choices[0].message.content
        assert text == expected("chat", 8, question=history)
        history.append({"role": "assistant", "content": text})


def test_the_history_of_an_agent_is_sent_once(gateway, simulator):
    before = simulator.bill()["requests"]
    with penstock.http_client(trust_env=False, gateways=[gateway.url]) as http:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any", http_client=http)
        history = []
        turns(client, history, 12, 0)
        figures = http.statistics()
    whole = len(json.dumps(history, separators=(",", ":")))
    assert figures.bytes_sent < whole
    assert (figures.succeeded, figures.attempts, figures.retries) == (12, 12, 0)
    assert simulator.bill()["requests"] == before + 12


def test_what_the_gateway_has_forgotten_is_sent_whole_and_nobody_sees_it(forgetful, simulator):
    before = simulator.bill()["requests"]
    with penstock.http_client(trust_env=False, gateways=[forgetful.url]) as http:
        client = openai.OpenAI(base_url=forgetful.base_url, api_key="any", http_client=http, max_retries=0)
        histories = [[] for _ in range(6)]
        for turn in range(3):
            for number, history in enumerate(histories):
                turns(client, history, 1, 100 * number + turn)
        figures = http.statistics()
    assert (figures.succeeded, figures.failed, figures.retries) == (18, 0, 0)
    assert figures.attempts > 18  # some of them were sent once more
    assert simulator.bill()["requests"] == before + 18
