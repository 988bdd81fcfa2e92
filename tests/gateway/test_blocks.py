"""Bodies told in blocks: what was sent before is not sent again, and is nobody else's."""

import asyncio
import hashlib
import json
import threading

import pytest
from in_pieces import CHAT, body_of, digest, in_pieces, two_tenants, with_gateway
from serving import COMPLETION, on_uvloop, until

from penstock.upload.block_files import BlockWriter
from penstock.upload.files import FileStore

LIST = "application/vnd.penstock.blocks+json"


def name(block):
    return hashlib.sha256(block).hexdigest()


def told(blocks, **more):
    listed = [{"sha256": name(block), "size": len(block)} for block in blocks]
    return json.dumps({"blocks": listed, **more}).encode()


async def offer(ask, blocks, path=CHAT, *, key=None, **more):
    return await ask("POST", path, told(blocks, **more), key=key, content_type=LIST)


def test_only_what_is_lacking_is_sent(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(30_000)
        blocks = [body[:10_000], body[10_000:20_000], body[20_000:]]
        first = await offer(ask, blocks)
        assert (first.status, first.json()["error"]["code"]) == (409, "blocks_lacking")
        assert first.json()["lacking"] == list(dict.fromkeys(map(name, blocks)))
        sent = [await ask("PUT", f"/v1/blocks/{name(block)}", block) for block in blocks]
        assert [answer.status for answer in sent] == [201, 201, 201]
        assert (await ask("PUT", f"/v1/blocks/{name(blocks[0])}", blocks[0])).status == 204
        answer = await offer(ask, blocks)
        assert (answer.status, answer.json()) == (200, COMPLETION)
        longer = body[:-3] + b' and more"}]}'
        blocks = [longer[:10_000], longer[10_000:20_000], longer[20_000:]]
        assert (await offer(ask, blocks)).json()["lacking"] == [name(blocks[2])]
        assert json.loads(model.bodies[0]) == json.loads(body)


def test_chunks_of_an_upload_are_blocks(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(9_000)
        where = (await ask.create()).headers["location"]
        await ask.append(where, 0, body[:4_000], Content_Digest=digest(body[:4_000]))
        await ask.append(where, 4_000, body[4_000:], complete=True, Content_Digest=digest(body[4_000:]))
        assert (await offer(ask, [body[:4_000], body[4_000:]])).json() == COMPLETION


def cut(body, *sizes):
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [body[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def test_a_request_that_is_sent_whole_says_in_which_blocks_it_is_kept(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(60_000)
        sizes = 16_384, 30_000, len(body) - 46_384
        answer = await ask.create(body=body, complete=True, Penstock_Blocks=", ".join(map(str, sizes)))
        assert (answer.status, answer.headers["penstock-blocks"]) == (200, "kept")
        assert "penstock-blocks" not in model.heads[0]
        assert (await offer(ask, cut(body, *sizes))).json() == COMPLETION
        assert model.bodies[1] == model.bodies[0]


def test_a_request_that_came_in_several_appends_is_not_said_to_be_kept_in_the_blocks_of_the_last(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(60_000)
        where = (await ask.create()).headers["location"]
        await ask.append(where, 0, body[:20_000])
        rest = len(body) - 20_000
        answer = await ask.append(where, 20_000, body[20_000:], complete=True, Penstock_Blocks=str(rest))
        assert (answer.status, answer.json()) == (200, COMPLETION)
        assert "penstock-blocks" not in answer.headers


@pytest.mark.parametrize(
    "told", ["", "x", "-1", "0", "16383,1", "8388609", ",".join(["16384"] * 4_097), "16384,,1"]
)
def test_blocks_that_cannot_be_are_refused_before_anything_is_kept(tmp_path, told):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(20_000)
        answer = await ask.create(body=body, complete=True, Penstock_Blocks=told)
        assert (answer.status, answer.json()["error"]["param"]) == (400, "penstock-blocks")
        assert not model.bodies


def test_nobody_finds_out_what_others_have_sent(tmp_path):
    keys, one, other = two_tenants()

    @with_gateway(tmp_path, keys=keys)
    async def test(ask, model, gateway):
        body = body_of(10)
        assert (await ask("PUT", f"/v1/blocks/{name(body)}", body, key=one)).status == 201
        assert (await offer(ask, [body], key=other)).json()["lacking"] == [name(body)]
        assert (await ask("PUT", f"/v1/blocks/{name(body)}", body, key=other)).status == 201
        assert (await offer(ask, [body], key=one)).status == 200


def test_where_callers_bring_their_own_keys_each_is_alone(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(10)
        assert (await ask("PUT", f"/v1/blocks/{name(body)}", body, key="sk-one")).status == 201
        assert (await offer(ask, [body], key="sk-other")).status == 409
        assert (await offer(ask, [body], key="sk-one")).status == 200
        assert model.heads[0]["authorization"] == "bearer sk-one"


def test_what_is_no_block_is_refused_and_leaves_nothing(tmp_path):
    @with_gateway(tmp_path, tenant_bytes=100_000)
    async def test(ask, model, gateway):
        for path, body, status in (
            (f"/v1/blocks/{name(b'other')}", b"this", 400),
            ("/v1/blocks/abc", b"this", 400),
            (f"/v1/blocks/{name(b'')}", b"", 400),
            (f"/v1/blocks/{name(bytes(8_388_609))}", bytes(8_388_609), 413),
            (f"/v1/blocks/{name(bytes(200_000))}", bytes(200_000), 403),
        ):
            assert (await ask("PUT", path, body)).status == status
        _, writer = await ask.begin("PUT", f"/v1/blocks/{name(b'this')}", 4)
        writer.write(b"thi")
        writer.close()
        assert (await ask("GET", f"/v1/blocks/{name(b'this')}")).status == 405
        assert list((tmp_path / "kept" / "uploads" / "blocks").iterdir()) == []


def test_what_is_no_list_is_refused(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        block = {"sha256": name(b"x"), "size": 1}
        for wrong in (
            b"",
            b"[]",
            {},
            {"blocks": []},
            {"blocks": [{**block, "size": 0}]},
            {"blocks": [{**block, "size": 8_388_609}]},
            {"blocks": [{**block, "sha256": name(b"x").upper()}]},
            {"blocks": [{**block, "sha256": name(b"x")[1:]}]},
            {"blocks": [block] * 4_097},
            {"blocks": [block], "block": 1},
        ):
            body = wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode()
            assert (await ask("POST", CHAT, body, content_type=LIST)).status == 400
        await ask("PUT", f"/v1/blocks/{name(b'x')}", b"x")
        for wrong in ({"blocks": [{**block, "size": 2}]}, {"blocks": [block], "content_type": "a\r\nb: c"}):
            assert (await ask("POST", CHAT, json.dumps(wrong).encode(), content_type=LIST)).status == 400
        large = {"blocks": [{**block, "size": 8_388_608}] * 5}
        assert (await ask("POST", CHAT, json.dumps(large).encode(), content_type=LIST)).status == 413


FILES = "/v1/files?purpose=batch"
NAMED = {"content_type": LIST, "Content_Disposition": 'attachment; filename="a.jsonl"'}


async def content_of(ask, file):
    return (await ask("GET", f"/v1/files/{file['id']}/content")).body


def test_a_file_is_told_in_blocks_and_only_what_is_lacking_is_sent(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        blocks = [b"a" * 20_000, b"b" * 700_000, b"a" * 20_000]
        lacking = await ask("POST", FILES, told(blocks), **NAMED)
        assert (lacking.status, lacking.json()["lacking"]) == (409, [name(blocks[0]), name(blocks[1])])
        assert (await ask("GET", "/v1/files")).json()["data"] == []
        for block in blocks[:2]:
            assert (await ask("PUT", f"/v1/blocks/{name(block)}", block)).status == 201
        made = await ask("POST", FILES, told(blocks), **NAMED)
        assert made.status == 200
        file = made.json()
        assert (file["filename"], file["purpose"], file["bytes"]) == ("a.jsonl", "batch", 740_000)
        assert await content_of(ask, file) == b"".join(blocks)


def test_a_list_that_is_sent_once_more_under_its_key_finds_the_file(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        blocks = [b"a" * 20_000, b"b" * 20_000]
        keyed = {**NAMED, "Idempotency_Key": "k"}
        assert (await ask("POST", FILES, told(blocks), **keyed)).status == 409
        for block in blocks:
            await ask("PUT", f"/v1/blocks/{name(block)}", block)
        first, again = [await ask("POST", FILES, told(blocks), **keyed) for _ in range(2)]
        assert again.json() == first.json()
        other = await ask("POST", FILES, told(blocks[:1]), **keyed)
        assert (other.status, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        unnamed = await ask("POST", FILES, told(blocks), **NAMED)
        assert unnamed.json()["id"] != first.json()["id"]
        assert len((await ask("GET", "/v1/files")).json()["data"]) == 2


async def put_all(ask, blocks):
    for block in blocks:
        assert (await ask("PUT", f"/v1/blocks/{name(block)}", block)).status == 201


async def made_by(asking, ask):
    """The ids of the files that these have been answered with, and of those that there are."""
    answers = await asyncio.gather(*asking)
    assert {answer.status for answer in answers} == {200}
    there = (await ask("GET", "/v1/files")).json()["data"]
    return {answer.json()["id"] for answer in answers}, {file["id"] for file in there}


def test_who_sends_a_list_again_while_its_file_is_being_made_gets_that_file(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        blocks = [bytes([number]) * 1_000_000 for number in range(4)]
        await put_all(ask, blocks)
        keyed = {**NAMED, "Idempotency_Key": "k"}
        answered, there = await made_by([ask("POST", FILES, told(blocks), **keyed) for _ in range(3)], ask)
        assert len(there) == 1
        assert answered == there


def test_of_a_list_at_two_processes_one_file_is_left(tmp_path):
    async def main():
        async with in_pieces(tmp_path) as (one, _, _), in_pieces(tmp_path) as (other, _, _):
            blocks = [bytes([number]) * 1_000_000 for number in range(4)]
            await put_all(one, blocks)
            keyed = {**NAMED, "Idempotency_Key": "k"}
            asking = [ask("POST", FILES, told(blocks), **keyed) for ask in (one, other, one, other)]
            answered, there = await made_by(asking, one)
            assert len(there) == 1
            assert answered == there

    on_uvloop(main)


def test_a_file_is_made_though_who_asked_for_it_has_left(tmp_path, monkeypatch):
    reached, go_on = asyncio.Event(), asyncio.Event()
    receive = FileStore.receive

    async def held(*args):
        reached.set()
        await go_on.wait()
        return await receive(*args)

    monkeypatch.setattr(FileStore, "receive", held)

    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        await put_all(ask, [b"x" * 30_000])
        listed, keyed = told([b"x" * 30_000]), {**NAMED, "Idempotency_Key": "k"}
        _, writer = await ask.begin("POST", FILES, len(listed), **keyed)
        writer.write(listed)
        await reached.wait()
        writer.close()
        await writer.wait_closed()
        again = asyncio.create_task(ask("POST", FILES, listed, **keyed))
        reached.clear()
        go_on.set()
        assert (await again).status == 200
        assert not reached.is_set()  # once more
        assert len((await ask("GET", "/v1/files")).json()["data"]) == 1


def test_blocks_of_a_file_that_came_in_appends_are_known(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        content = bytes(range(256)) * 200
        sizes = 20_000, 31_200
        cuts = ",".join(map(str, sizes))
        sent = await ask.create("/v1/files", body=content, complete=True, Penstock_Blocks=cuts)
        assert sent.status == 200
        made = await ask("POST", FILES, told(cut(content, *sizes)), **NAMED)
        assert made.status == 200
        assert await content_of(ask, made.json()) == content


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/v1/files?purpose=nothing", {}, 400),
        (FILES, {"content_encoding": "zstd"}, 400),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, path, more, status):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        await ask("PUT", f"/v1/blocks/{name(b'x')}", b"x")
        assert (await ask("POST", path, told([b"x"], **more), **NAMED)).status == status


def test_a_file_may_not_be_longer_than_files_may(tmp_path):
    @with_gateway(tmp_path, files={"max_file_bytes": 40_000})
    async def test(ask, model, gateway):
        block = b"x" * 30_000
        await ask("PUT", f"/v1/blocks/{name(block)}", block)
        assert (await ask("POST", FILES, told([block]), **NAMED)).status == 200
        assert (await ask("POST", FILES, told([block, block]), **NAMED)).status == 413


def test_nobody_makes_a_file_of_what_others_have_sent(tmp_path):
    keys, one, other = two_tenants()

    @with_gateway(tmp_path, keys=keys)
    async def test(ask, model, gateway):
        block = b"x" * 30_000
        await ask("PUT", f"/v1/blocks/{name(block)}", block, key=one)
        assert (await ask("POST", FILES, told([block]), key=other, **NAMED)).status == 409
        assert (await ask("POST", FILES, told([block]), key=one, **NAMED)).status == 200


def test_old_blocks_make_room_for_new_ones(tmp_path):
    @with_gateway(tmp_path, tenant_bytes=100_000)
    async def test(ask, model, gateway):
        blocks = [bytes([number]) * 30_000 for number in range(5)]
        for block in blocks:
            assert (await ask("PUT", f"/v1/blocks/{name(block)}", block)).status == 201
        assert (await offer(ask, blocks)).json()["lacking"] == [name(block) for block in blocks[:2]]
        assert len(list((tmp_path / "kept" / "uploads" / "blocks").iterdir())) == 3


def test_the_same_block_at_once_is_kept_once(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        block = b"b" * 100_000
        sent = await asyncio.gather(*(ask("PUT", f"/v1/blocks/{name(block)}", block) for _ in range(8)))
        assert sorted(answer.status for answer in sent) == [201] + [204] * 7
        assert len(list((tmp_path / "kept" / "uploads" / "blocks").iterdir())) == 1


def test_the_idempotency_key_is_that_of_the_call(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(10)
        await ask("PUT", f"/v1/blocks/{name(body)}", body)
        asked = {"content_type": LIST, "Idempotency_Key": "k"}
        first = await ask("POST", CHAT, told([body]), **asked)
        again = await ask("POST", CHAT, body, Idempotency_Key="k", content_type="application/json")
        assert again.headers["penstock-generation"] == first.headers["penstock-generation"]
        assert len(model.bodies) == 1


def test_what_the_disk_does_for_a_caller_who_has_left_ends_before_the_stores_close(
    tmp_path, monkeypatch, caplog
):
    reached, go_on = threading.Event(), threading.Event()
    write = BlockWriter.write

    def held(*args):
        reached.set()
        assert go_on.wait(60)
        write(*args)

    monkeypatch.setattr(BlockWriter, "write", held)

    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        _, writer = await ask.begin("PUT", f"/v1/blocks/{name(b'this')}", 1_000_000)
        writer.write(bytes(500_000))
        await until(reached.is_set)
        writer.close()
        asyncio.get_running_loop().call_later(0.1, go_on.set)

    assert list((tmp_path / "kept" / "uploads" / "blocks").iterdir()) == []
    assert not [record for record in caplog.records if record.exc_info]
