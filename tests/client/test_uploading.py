"""How a body is sent in appends: against a server in memory that does what the protocol says."""

import base64
import hashlib
import random

import pytest

from penstock.client._uploading import LEAST_CHUNK, MOST_CHUNK, Link, Outcome, Upload

MB = 1_000_000
BODY = random.Random(1).randbytes(7 * MB)
HEADERS = {
    "content-type": "application/json",
    "authorization": "Bearer k",
    "content-length": "9",
    "host": "h",
    "idempotency-key": "key",
}


def created_first():
    """An upload that could not be found again without its location."""
    return Upload(BODY, HEADERS, Link(), most=len(BODY))


class Server:
    """The offset machine in a few lines; ``damage`` flips a byte of so many appends."""

    def __init__(self, damage=0):
        self.body = bytearray()
        self.created = 0
        self.damage = damage
        self.appends = []
        self.whole = None

    def answer(self, step, came=None):
        """Status and headers; ``came``: the append breaks after so many bytes."""
        if step.method == "POST":
            assert step.headers["Upload-Length"] == str(len(BODY))
            assert step.headers["idempotency-key"] == "key"
            if self.whole is None:
                self.whole = step.headers["Repr-Digest"]
                self.created += 1
                self.body.clear()
            if step.content:
                assert step.headers["Upload-Complete"] == "?1"
                return self.append(step, came)
            assert step.headers["Upload-Complete"] == "?0"
            told = {"location": "http://elsewhere/v1/uploads/upload_1", "upload-offset": str(len(self.body))}
            return 201, told
        assert step.path == "/v1/uploads/upload_1"
        if step.method == "HEAD":
            return 204, {"upload-offset": str(len(self.body)), "upload-complete": "?0"}
        if int(step.headers["Upload-Offset"]) != len(self.body):
            return 409, {"upload-offset": str(len(self.body)), "upload-complete": "?0"}
        return self.append(step, came)

    def append(self, step, came):
        content = bytearray(step.content)
        self.appends.append(len(content))
        if self.damage and content:
            self.damage -= 1
            content[0] ^= 1
        checked = step.headers.get("Content-Digest")
        if came is not None:
            if checked is None:
                self.body += content[:came]
            return None
        if checked is not None and checked != digest(content):
            return 400, {}
        self.body += content
        if step.headers["Upload-Complete"] == "?0":
            return 204, {"upload-offset": str(len(self.body)), "upload-complete": "?0"}
        if digest(self.body) != self.whole:
            self.whole = None
            return 400, {}
        return 200, {"upload-complete": "?1"}


def digest(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def run(server, link=None, breaks=(), seconds=1.0):
    """Send all of it; each append breaks after as many bytes as ``breaks`` say."""
    upload, now, breaks = Upload(BODY, HEADERS, link or Link()), 1_000.0, list(breaks)
    for _ in range(100):
        step = upload.step(now)
        now += seconds
        came = breaks.pop(0) if step.content and breaks else None
        answer = server.answer(step, came)
        if answer is None:
            upload.broke()
            continue
        outcome = upload.took(*answer, now)
        if outcome is not Outcome.ONWARD:
            return outcome, upload
    raise AssertionError("it never ends")


def test_without_breaks_all_goes_in_one_request():
    server, link = Server(), Link()
    upload = Upload(BODY, HEADERS, link)
    step = upload.step(0.0)
    assert (step.method, step.path, step.content) == ("POST", None, BODY)
    assert upload.took(*server.answer(step), 1.0) is Outcome.ANSWER
    assert server.body == BODY
    assert upload.sent == len(BODY)
    assert link.offers_uploads is True


@pytest.mark.parametrize("more", [{"most": len(BODY)}, {"headers": {"content-type": "application/json"}}])
def test_where_the_upload_could_not_be_found_again_it_is_created_first(more):
    told = {"headers": HEADERS, **more}
    upload = Upload(BODY, told.pop("headers"), Link(), **told)
    step = upload.step(0.0)
    assert (step.method, step.headers["Upload-Complete"], step.content) == ("POST", "?0", b"")


@pytest.mark.parametrize("status", [200, 401])
def test_a_server_that_takes_no_uploads_answers_all_the_same(status):
    link = Link()
    upload = Upload(BODY, HEADERS, link)
    upload.step(0.0)
    assert upload.took(status, {}, 1.0) is Outcome.ANSWER
    assert link.offers_uploads is False


def test_an_upload_that_was_complete_when_its_answer_was_lost_is_answered_at_once():
    upload = Upload(BODY, HEADERS, Link())
    upload.step(0.0)
    upload.broke()
    assert upload.step(1.0).headers["Upload-Complete"] == "?0"
    assert upload.took(200, {"upload-complete": "?1", "location": "/v1/uploads/u"}, 2.0) is Outcome.ANSWER


def test_after_a_break_only_the_rest_goes():
    server = Server()
    outcome, _ = run(server, breaks=[2 * MB, 0, 3 * MB])
    assert outcome is Outcome.ANSWER
    assert server.body == BODY
    assert server.appends == [7 * MB, 5 * MB, 5 * MB, 2 * MB]
    assert server.created == 1


def test_credentials_go_with_all_and_the_rest_with_the_creation_alone():
    upload = created_first()
    creation = upload.step(0.0)
    assert creation.headers["authorization"] == "Bearer k"
    assert creation.headers["Content-Type"] == "application/json"
    assert not {"content-length", "host"} & set(creation.headers)
    upload.took(*Server().answer(creation), 1.0)
    append = upload.step(1.0)
    assert append.headers["authorization"] == "Bearer k"
    assert append.headers["Content-Type"] == "application/partial-upload"


def test_damage_is_noticed_and_from_then_on_each_chunk_is_checked():
    server, link = Server(damage=3), Link()
    outcome, _ = run(server, link)
    assert outcome is Outcome.ANSWER
    assert server.body == BODY
    assert server.created == 2  # the whole was damaged, and then two chunks
    assert all(LEAST_CHUNK <= size <= MOST_CHUNK for size in server.appends[1:-1])
    assert link.checked_until > 1_000.0


def test_chunks_follow_bandwidth_and_breaks():
    link = Link()
    assert link.chunk == MOST_CHUNK
    for _ in range(5):
        link.broke()
    assert link.chunk == LEAST_CHUNK
    link.carried(MB, 0.1)  # 10 MB/s: twice as much at most each time
    assert link.chunk == 2 * MB
    link.carried(2 * MB, 0.2)
    link.carried(4 * MB, 0.4)
    assert link.chunk == MOST_CHUNK
    slow = Link()
    slow.carried(MB, 1.0)
    assert slow.chunk == 2 * MB  # two seconds' worth
    slow.carried(10, 1e-6)  # says nothing of the bandwidth
    assert slow.chunk == 2 * MB


def test_a_lost_answer_is_asked_for_with_an_empty_append():
    server = Server()
    upload = created_first()
    upload.took(*server.answer(upload.step(0.0)), 1.0)
    server.answer(upload.step(1.0))
    upload.broke()
    assert upload.step(2.0).method == "HEAD"
    assert upload.took(204, {"upload-offset": str(len(BODY)), "upload-complete": "?1"}, 3.0) is Outcome.ONWARD
    empty = upload.step(3.0)
    assert (empty.method, empty.content) == ("PATCH", b"")
    assert empty.headers["Upload-Complete"] == "?1"
    assert upload.took(200, {"upload-complete": "?1"}, 4.0) is Outcome.ANSWER


@pytest.mark.parametrize("status", [400, 404, 405, 415, 429, 503])
def test_a_server_that_creates_none_gets_the_body_as_it_is(status):
    upload = Upload(BODY, HEADERS, Link())
    assert upload.step(0.0).content
    assert upload.took(status, {}, 1.0) is Outcome.ONWARD
    assert not upload.step(1.0).content
    assert upload.took(status, {}, 1.0) is Outcome.REFUSED


def test_an_upload_that_is_gone_is_created_anew():
    server = Server()
    upload = created_first()
    upload.took(*server.answer(upload.step(0.0)), 1.0)
    upload.step(1.0)
    assert upload.took(410, {}, 2.0) is Outcome.ONWARD
    assert upload.step(2.0).method == "POST"


def test_a_server_that_cannot_now_is_asked_later_and_not_forever():
    upload = created_first()
    upload.took(*Server().answer(upload.step(0.0)), 1.0)
    outcomes = []
    for _ in range(12):
        upload.step(1.0)
        outcomes.append(upload.took(503, {}, 2.0))
    assert outcomes[0] is Outcome.LATER
    assert outcomes[-1] is Outcome.REFUSED


def test_an_append_that_came_damaged_begins_anew_in_chunks_that_are_checked():
    upload = created_first()
    upload.took(*Server().answer(upload.step(0.0)), 1.0)
    assert "Content-Digest" not in upload.step(1.0).headers
    assert upload.took(400, {}, 2.0) is Outcome.ONWARD
    again = upload.step(2.0)
    assert (again.method, again.path) == ("POST", None)
    upload.took(*Server().answer(again), 3.0)
    chunk = upload.step(3.0)
    assert "Content-Digest" in chunk.headers
    assert len(chunk.content) <= MOST_CHUNK


@pytest.mark.parametrize("status", [429, 503])
def test_after_a_refusal_for_now_it_is_asked_how_much_has_arrived(status):
    upload = created_first()
    upload.took(*Server().answer(upload.step(0.0)), 1.0)
    assert upload.step(1.0).method == "PATCH"
    upload.took(status, {}, 2.0)
    assert upload.step(2.0).method == "HEAD"


@pytest.mark.parametrize("told", ["", "x", "-1", str(len(BODY) + 1)])
def test_an_offset_that_cannot_be_is_no_basis(told):
    upload = created_first()
    upload.took(*Server().answer(upload.step(0.0)), 1.0)
    upload.step(1.0)
    assert upload.took(204, {"upload-offset": told}, 2.0) is Outcome.REFUSED


def test_the_largest_append_is_the_servers_to_say():
    upload = created_first()
    upload.step(0.0)
    told = {"location": "/u", "upload-limit": "max-size=99999999, max-append-size=3000000"}
    upload.took(201, told, 1.0)
    assert len(upload.step(1.0).content) == 3 * MB


def test_what_is_given_up_in_the_midst_of_an_append_is_found_by_its_key_and_ended():
    upload = Upload(BODY, HEADERS, Link())
    assert len(upload.step(0.0).content) == len(BODY)
    upload.broke()
    where = upload.parting()
    assert (where.method, where.path, where.content) == ("POST", None, b"")
    assert where.headers["idempotency-key"] == "key"
    assert upload.took(201, {"location": "http://h/v1/uploads/upload_1"}, 1.0) is Outcome.ONWARD
    end = upload.parting()
    assert (end.method, end.path) == ("DELETE", "/v1/uploads/upload_1")
