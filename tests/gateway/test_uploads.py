"""Uploads in both dialects through a whole gateway: what the specifications ask for, verb by verb."""

import asyncio
import json
import os

import msgspec
import pytest
from in_pieces import CHAT, DRAFT, body_of, digest, two_tenants, with_gateway
from serving import COMPLETION, plain, until

from penstock.upload.uploads import UploadStore
from penstock.upload.writer import STRIDE


def code_of(answer):
    told = answer.json()
    return told["code"] if "code" in told else told["error"]["code"]


def test_a_call_in_three_pieces_is_answered_with_the_last(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(30_000)
        made = await ask.create(Upload_Length=len(body))
        assert made.status == 201
        where = made.headers["location"]
        assert where.startswith(f"http://127.0.0.1:{ask.port}/v1/uploads/upload_")
        assert (made.headers["upload-offset"], made.headers["upload-complete"]) == ("0", "?0")
        assert made.headers["upload-limit"].startswith("max-size=33554432, max-age=")
        first = await ask.append(where, 0, body[:10_000], Content_Digest=digest(body[:10_000]))
        assert (first.status, first.headers["upload-offset"]) == (204, "10000")
        second = await ask.append(where, 10_000, body[10_000:20_000])
        assert (second.status, second.headers["upload-offset"]) == (204, "20000")
        head = await ask("HEAD", where)
        assert head.status == 204
        assert head.headers["cache-control"] == "no-store"
        assert {
            name: head.headers[name] for name in ("upload-offset", "upload-complete", "upload-length")
        } == {
            "upload-offset": "20000",
            "upload-complete": "?0",
            "upload-length": str(len(body)),
        }
        assert model.bodies == []
        last = await ask.append(where, 20_000, body[20_000:], complete=True)
        assert (last.status, last.json(), last.headers["upload-complete"]) == (200, COMPLETION, "?1")
        assert last.headers["penstock-status"] == "created"
        assert [json.loads(seen) for seen in model.bodies] == [json.loads(body)]


@pytest.mark.parametrize("path", ["/chat/completions", "/rerank"])
def test_a_path_has_its_other_names_in_pieces_too(tmp_path, path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = json.dumps({"model": "m", "messages": [], "query": "q", "documents": ["d"]}).encode()
        model.answer = plain({**COMPLETION, "results": []})
        made = await ask.create(path=path, Upload_Length=len(body))
        whole = await ask("POST", path, body, content_type="application/json")
        pieces = await ask.append(made.headers["location"], 0, body, complete=True)
        for answer in (whole, pieces):
            assert (answer.status, answer.json()["id"]) == (200, COMPLETION["id"])
        assert len(model.bodies) == 2


def test_a_lost_answer_is_asked_for_with_an_empty_append_and_nothing_is_computed_twice(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(100)
        where = (await ask.create()).headers["location"]
        first = await ask.append(where, 0, body, complete=True)
        again = await ask.append(where, len(body), complete=True)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["penstock-generation"] == first.headers["penstock-generation"]
        assert again.headers["penstock-status"] == "replayed"
        assert len(model.bodies) == 1
        for wrong in (ask.append(where, len(body), b"x", complete=True), ask.append(where, len(body))):
            answer = await wrong
            assert (answer.status, code_of(answer)) == (400, "upload_completed")
            assert answer.json()["type"].endswith("#completed-upload")


@pytest.mark.parametrize("version", [5, 6, 8, 9])
def test_a_call_in_one_piece_may_say_that_it_is_resumable(tmp_path, version):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(50_000)
        reader, writer = await ask.begin(
            "POST",
            CHAT,
            len(body),
            Upload_Complete="?1",
            Upload_Draft_Interop_Version=version,
            content_type="application/json",
        )
        interim = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert interim.startswith("HTTP/1.1 104 ")
        assert f"upload-draft-interop-version: {version}" in interim
        where = interim.partition("location: ")[2].partition("\r\n")[0]
        writer.write(body[:20_000])
        store = gateway._rooms.uploads
        await until(lambda: any(each.offsets.unconfirmed == 20_000 for each in store._writers.values()))
        writer.close()  # and there the connection breaks
        offset = await ask.offset(where)
        assert offset == 20_000
        last = await ask.append(where, offset, body[offset:], complete=True)
        assert (last.status, last.json()) == (200, COMPLETION)
        assert json.loads(model.bodies[0]) == json.loads(body)


def test_no_interim_answer_for_who_does_not_speak_the_version(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        for version in ("7", "4", "x"):
            answer = await ask.create(body=body_of(10), complete=True, Upload_Draft_Interop_Version=version)
            assert (answer.status, answer.json()) == (200, COMPLETION)


def test_where_an_append_may_begin_and_end(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create(Upload_Length=10)).headers["location"]
        await ask.append(where, 0, b"01234")
        for offset in (0, 3, 6, 10):
            answer = await ask.append(where, offset, b"56789")
            assert (answer.status, answer.headers["upload-offset"]) == (409, "5")
            assert answer.headers["upload-complete"] == "?0"
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert (problem["expected-offset"], problem["provided-offset"]) == (5, offset)
            assert problem["type"].endswith("#mismatching-upload-offset")
        for wrong in (
            ask.append(where, 5, b"567890"),
            ask.append(where, 5, b"567", complete=True),
            ask.append(where, 5, b"5", Upload_Length=11),
            ask.append(where, 5, b"5", Upload_Length=4),
        ):
            answer = await wrong
            assert (answer.status, code_of(answer)) == (400, "inconsistent_length")
            assert answer.json()["type"].endswith("#inconsistent-upload-length")
        assert await ask.offset(where) == 5
        for fields in ({"Upload_Offset": "-1"}, {"Upload_Offset": "x"}, {"Upload_Complete": "1"}):
            told = {"Upload_Offset": 5, "Upload_Complete": "?0", "content_type": DRAFT, **fields}
            assert (await ask("PATCH", where, b"5", **told)).status == 400
        assert (await ask("PATCH", where, b"5", Upload_Complete="?0", content_type=DRAFT)).status == 400
        assert (await ask("PATCH", where, b"5", Upload_Offset=5, content_type=DRAFT)).status == 400
        assert (await ask.append(where, 5, b"5", content_type="text/plain")).status == 415
        old = await ask.append(where, 5, b"5", content_type="text/plain", Upload_Draft_Interop_Version=5)
        assert old.headers["upload-offset"] == "6"


def test_more_than_was_announced_ends_the_upload(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create(Upload_Length=4)).headers["location"]
        answer = await ask(
            "PATCH",
            where,
            b"5\r\n01234\r\n0\r\n\r\n",
            length=-1,
            Upload_Offset=0,
            Upload_Complete="?0",
            content_type=DRAFT,
        )
        assert (answer.status, code_of(answer)) == (400, "inconsistent_length")
        assert await ask.offset(where) == 410


def test_a_digest_that_does_not_fit_changes_nothing(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create()).headers["location"]
        await ask.append(where, 0, b"good", Content_Digest=digest(b"good", "sha-512"))
        wrong = await ask.append(where, 4, b"bad!", Content_Digest=digest(b"good"))
        assert (wrong.status, code_of(wrong)) == (400, "digest_mismatch")
        assert await ask.offset(where) == 4
        for field in ("sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:YWJj:"):
            assert (await ask.append(where, 4, b"x", Content_Digest=field)).status == 400
        assert (
            await ask.append(where, 4, b"x", Content_Digest="md5=:YWJj:")
        ).status == 204  # ignored, as it may be
        assert await ask.offset(where) == 5


def test_the_whole_is_verified(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(1_000)
        right = (await ask.create(Repr_Digest=digest(body))).headers["location"]
        await ask.append(right, 0, body[:500])
        assert (await ask.append(right, 500, body[500:], complete=True)).status == 200
        wrong = (await ask.create(Repr_Digest=digest(b"other"))).headers["location"]
        await ask.append(wrong, 0, body[:500])
        answer = await ask.append(wrong, 500, body[500:], complete=True)
        assert (answer.status, code_of(answer)) == (400, "digest_mismatch")
        assert await ask.offset(wrong) == 410
        assert len(model.bodies) == 1


@pytest.mark.parametrize("size", [0, 1_000, 5_000_000], ids=["in none", "in one block", "in two blocks"])
def test_the_whole_is_verified_by_the_way_when_one_request_brings_it(tmp_path, monkeypatch, size):
    """And what is not what it was said to be is not answered."""
    read = []
    pieces = UploadStore.pieces
    monkeypatch.setattr(UploadStore, "pieces", lambda *args: read.append(args) or pieces(*args))

    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(size) if size else b""
        said = {"Idempotency_Key": "k", "Upload_Length": len(body)}
        wrong = await ask.create(body=body, complete=True, **said, Repr_Digest=digest(b"other"))
        assert (wrong.status, code_of(wrong)) == (400, "digest_mismatch")
        assert not model.bodies
        left = await asyncio.to_thread(os.listdir, tmp_path / "kept/uploads/blocks")
        assert len(left) == size // STRIDE  # what was confirmed on the way is kept for who sends it again
        right = await ask.create(body=body, complete=True, **said, Repr_Digest=digest(body))
        assert (right.status, right.headers["upload-complete"]) == (200 if size else 400, "?1")
        assert [json.loads(each) for each in model.bodies] == ([json.loads(body)] if size else [])
        assert not read


def test_a_lost_creation_is_found_by_its_key(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        first = await ask.create(Idempotency_Key="k", Upload_Length=100)
        await ask.append(first.headers["location"], 0, b"0123456789")
        again = await ask.create(Idempotency_Key="k", Upload_Length=100)
        assert (again.status, again.headers["location"]) == (201, first.headers["location"])
        assert again.headers["upload-offset"] == "10"
        for other in ({"Upload_Length": 101}, {"Upload_Length": 100, "Repr_Digest": digest(b"")}):
            answer = await ask.create(Idempotency_Key="k", **other)
            assert (answer.status, code_of(answer)) == (422, "idempotency_key_reused")
        assert (await ask.create("/v1/embeddings", Idempotency_Key="k", Upload_Length=100)).status == 422


def test_a_creation_with_content_that_is_repeated_begins_anew_or_is_answered_again(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(10_000)
        first = await ask.create(body=body[:5_000], Idempotency_Key="k")
        assert (first.status, first.headers["upload-offset"]) == (201, "5000")
        second = await ask.create(body=body[:5_000], Idempotency_Key="k")
        assert (second.status, second.headers["upload-offset"]) == (201, "5000")
        assert second.headers["location"] != first.headers["location"]
        assert await ask.offset(first.headers["location"]) == 410
        answer = await ask.append(second.headers["location"], 5_000, body[5_000:], complete=True)
        third = await ask.create(body=body[:5_000], Idempotency_Key="k")
        assert (third.status, third.body) == (200, answer.body)
        assert len(model.bodies) == 1


def test_a_later_request_ends_the_one_that_hangs(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create()).headers["location"]
        reader, writer = await ask.begin(
            "PATCH", where, 1_000, Upload_Offset=0, Upload_Complete="?0", content_type=DRAFT
        )
        writer.write(b"x" * 400)
        store = gateway._rooms.uploads
        await until(lambda: any(each.offsets.unconfirmed == 400 for each in store._writers.values()))
        assert await ask.offset(where) == 400  # not lost, not locked
        assert await reader.read() == b""  # cut
        writer.close()
        assert (await ask.append(where, 400, b"y" * 600)).headers["upload-offset"] == "1000"


def test_of_two_appends_at_once_one_counts(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create()).headers["location"]
        contents = [bytes([65 + number]) * 200_000 for number in range(6)]

        async def append(content):
            try:
                return (await ask.append(where, 0, content)).status
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0

        statuses = await asyncio.gather(*map(append, contents))
        assert set(statuses) <= {204, 409, 0}
        offset = await ask.offset(where)
        upload = await gateway._rooms.uploads.get("default", where.rpartition("/")[2])
        content = b"".join([piece async for piece in gateway._rooms.uploads.pieces(upload.id)])
        assert len(content) == offset
        assert len(set(content)) <= 1


def test_an_upload_that_was_given_up_is_gone(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create()).headers["location"]
        assert (await ask("DELETE", where)).status == 204
        for answer in (
            await ask("DELETE", where),
            await ask("HEAD", where),
            await ask.append(where, 0, b"x"),
        ):
            assert answer.status == 410
        nothing = where[:-32] + "0" * 32
        for answer in (
            await ask("DELETE", nothing),
            await ask("HEAD", nothing),
            await ask.append(nothing, 0, b"x"),
        ):
            assert answer.status == 404
        assert (await ask("PUT", where)).status == 405


def test_another_tenant_has_no_part_in_it(tmp_path):
    keys, one, other = two_tenants()

    @with_gateway(tmp_path, keys=keys)
    async def test(ask, model, gateway):
        where = (await ask.create(key=one, Idempotency_Key="k")).headers["location"]
        assert (await ask("HEAD", where)).status == 401
        for answer in (
            await ask("HEAD", where, key=other),
            await ask("DELETE", where, key=other),
            await ask.append(where, 0, b"x", key=other),
        ):
            assert answer.status == 404
        assert (await ask.create(key=other, Idempotency_Key="k")).headers["location"] != where
        assert await ask.offset(where, key=one) == 0


def test_keys_are_never_written_to_the_disk(tmp_path):
    keys, one, _ = two_tenants()

    @with_gateway(tmp_path, keys=keys)
    async def test(ask, model, gateway):
        where = (await ask.create(key=one, Cookie="secret=pk-one")).headers["location"]
        body = body_of(10)
        assert (await ask.append(where, 0, body, complete=True, key=one)).status == 200
        kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"pk-one" in kept  # the tenant's name
        assert b"Bearer" not in kept
        assert b"secret=" not in kept


def test_too_much_is_refused_before_it_is_read(tmp_path):
    @with_gateway(tmp_path, tenant_bytes=50_000, max_open=2)
    async def test(ask, model, gateway):
        assert (await ask.create(Upload_Length=33_554_433)).status == 413
        over = await ask.create(Upload_Length=60_000)
        assert (over.status, code_of(over)) == (403, "storage_quota_exceeded")
        where = (await ask.create()).headers["location"]
        assert (await ask.append(where, 0, b"x" * 40_000)).status == 204
        answer = await ask.append(where, 40_000, b"y" * 40_000)
        assert (answer.status, code_of(answer)) == (403, "storage_quota_exceeded")
        assert await ask.offset(where) == 40_000
        assert (await ask.create()).status == 201
        many = await ask.create()
        assert (many.status, code_of(many)) == (429, "too_many_uploads")
        await ask("DELETE", where)
        assert (await ask.create()).status == 201


def test_a_streamed_answer_streams(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        from serving import DONE, STREAM_END, STREAM_HEAD, delta

        model.answer = STREAM_HEAD + delta("a") + delta("b", "stop") + DONE + STREAM_END
        body = json.dumps({**json.loads(body_of(10)), "stream": True}).encode()
        where = (await ask.create()).headers["location"]
        answer = await ask.append(where, 0, body, complete=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["upload-complete"] == "?1"
        assert answer.body.count(b"id: ") == 3


def test_a_call_that_is_refused_is_refused_in_its_own_words(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.create("/v1/messages")).headers["location"]
        answer = await ask.append(where, 0, b"no JSON", complete=True)
        assert (answer.status, answer.json()["type"]) == (400, "error")
        assert answer.headers["upload-complete"] == "?1"


def test_a_file_is_sent_in_pieces(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        made = await ask.create(
            "/v1/files?purpose=vision",
            content_type="image/png",
            Content_Disposition='attachment; filename="a/b.png"',
        )
        await ask.append(made.headers["location"], 0, b"abc")
        file = await ask.append(made.headers["location"], 3, b"def", complete=True)
        told = file.json()
        assert (told["filename"], told["bytes"], told["purpose"]) == ("b.png", 6, "vision")
        assert (await ask("GET", f"/v1/files/{told['id']}/content")).body == b"abcdef"
        again = await ask.append(made.headers["location"], 6, complete=True)
        assert again.json() == told
        form = (
            b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nin a form\r\n--b--\r\n'
        )
        made = await ask.create("/v1/files", content_type="multipart/form-data; boundary=b")
        await ask.append(made.headers["location"], 0, form[:50])
        told = (await ask.append(made.headers["location"], 50, form[50:], complete=True)).json()
        assert (await ask("GET", f"/v1/files/{told['id']}/content")).body == b"in a form"
        assert (await ask.create("/v1/files?purpose=none")).status == 400


def test_the_url_is_the_one_that_the_client_knows(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        made = await ask.create(X_Forwarded_Proto="https", X_Forwarded_Host="llm.example.com")
        assert made.headers["location"].startswith("https://llm.example.com/v1/uploads/")
        made = await ask.create(X_Forwarded_Proto="javascript", X_Forwarded_Host="a b")
        assert made.headers["location"].startswith(f"http://127.0.0.1:{ask.port}/v1/uploads/")


def test_what_is_spoken_here(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        answer = await ask("OPTIONS", CHAT)
        assert answer.status == 204
        assert answer.headers["upload-limit"] == "max-size=33554432, max-age=86400"
        assert answer.headers["tus-version"] == "1.0.0"
        assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1"
        assert answer.headers["tus-max-size"] == "33554432"
        assert (await ask("OPTIONS", "/v1/files")).headers["tus-max-size"] == "536870912"


def test_an_upload_whose_time_is_over_is_gone_and_its_key_begins_another(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(1_000)
        made = await ask.create(Idempotency_Key="k")
        where = made.headers["location"]
        assert (await ask.append(where, 0, body[:400])).status == 204
        store = gateway._rooms.uploads
        later = store.now() + store.kept_for + 1
        store.now = lambda: later
        msgspec.structs.force_setattr(store._index._limits, "now", store.now)
        for answer in (await ask("HEAD", where), await ask.append(where, 400, body[400:], complete=True)):
            assert answer.status == 410
        assert model.bodies == []
        again = await ask.create(Idempotency_Key="k")
        assert (again.status, again.headers["upload-offset"]) == (201, "0")
        assert again.headers["location"] != where
        last = await ask.append(again.headers["location"], 0, body, complete=True)
        assert (last.status, last.json()) == (200, COMPLETION)
