"""``/v1/uploads`` as OpenAI has it, with OpenAI's own SDK, and what it refuses."""

import asyncio
import hashlib
import io
import os

import openai
import pytest
from in_pieces import in_pieces
from serving import on_uvloop

KEY = {"authorization": "Bearer any"}


def with_sdk(folder, **more):
    def run(test):
        async def main():
            async with in_pieces(folder, **more) as (ask, _model, gateway):
                sdk = openai.AsyncOpenAI(
                    base_url=f"http://127.0.0.1:{ask.port}/v1", api_key="any", max_retries=0
                )
                async with sdk:
                    await test(sdk, ask, gateway)

        on_uvloop(main)

    return run


async def begin(sdk, size, **more):
    told = {"filename": "f.jsonl", "purpose": "batch", "mime_type": "text/jsonl", **more}
    return await sdk.uploads.create(bytes=size, **told)


def test_parts_in_any_order_become_a_file(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        contents = [os.urandom(5_000_000), os.urandom(1), os.urandom(700_000)]
        whole = b"".join(contents)
        upload = await begin(sdk, len(whole))
        assert (upload.status, upload.bytes, upload.filename) == ("pending", len(whole), "f.jsonl")
        assert upload.expires_at - upload.created_at == 3_600
        parts = await asyncio.gather(
            *(sdk.uploads.parts.create(upload.id, data=content) for content in reversed(contents))
        )
        order = [part.id for part in reversed(parts)]
        done = await sdk.uploads.complete(upload.id, part_ids=order, md5=hashlib.md5(whole).hexdigest())
        assert (done.status, done.file.bytes, done.file.purpose) == ("completed", len(whole), "batch")
        assert (await sdk.files.content(done.file.id)).content == whole
        again = await sdk.uploads.complete(upload.id, part_ids=order)
        assert again.file.id == done.file.id
        with pytest.raises(openai.ConflictError):
            await sdk.uploads.complete(upload.id, part_ids=order[:1])
        with pytest.raises(openai.ConflictError):
            await sdk.uploads.parts.create(upload.id, data=b"more")


def test_the_sdk_s_own_chunked_upload(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        content = os.urandom(2_500_000)
        done = await sdk.uploads.upload_file_chunked(
            file=content,
            filename="big.bin",
            bytes=len(content),
            mime_type="a/b",
            purpose="user_data",
            part_size=1_000_000,
        )
        assert done.file.bytes == len(content)
        assert (await sdk.files.content(done.file.id)).content == content


def test_what_does_not_fit_together_stays_as_it_was(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        upload = await begin(sdk, 6)
        one = await sdk.uploads.parts.create(upload.id, data=b"abc")
        two = await sdk.uploads.parts.create(upload.id, data=b"def")
        other = await begin(sdk, 3)
        theirs = await sdk.uploads.parts.create(other.id, data=b"xyz")
        for ids in ([one.id], [one.id, theirs.id], [one.id, "part_0"], [one.id, upload.id]):
            with pytest.raises(openai.APIStatusError) as told:
                await sdk.uploads.complete(upload.id, part_ids=ids)
            assert told.value.status_code in {404, 409}
        with pytest.raises(openai.BadRequestError) as told:
            await sdk.uploads.complete(upload.id, part_ids=[one.id, two.id], md5="0" * 32)
        assert told.value.code == "digest_mismatch"
        done = await sdk.uploads.complete(upload.id, part_ids=[two.id, one.id])
        assert (await sdk.files.content(done.file.id)).content == b"defabc"


def test_a_cancelled_upload_takes_nothing_more(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        upload = await begin(sdk, 3)
        part = await sdk.uploads.parts.create(upload.id, data=b"abc")
        assert (await sdk.uploads.cancel(upload.id)).status == "cancelled"
        for doing in (
            sdk.uploads.cancel(upload.id),
            sdk.uploads.complete(upload.id, part_ids=[part.id]),
            sdk.uploads.parts.create(upload.id, data=b"x"),
        ):
            with pytest.raises(openai.APIStatusError) as told:
                await doing
            assert told.value.status_code == 410


def test_what_cannot_be_is_refused(tmp_path):
    @with_sdk(tmp_path, files={"max_file_bytes": 1_000_000})
    async def test(sdk, ask, gateway):
        for wrong in (
            {"purpose": "none"},
            {"filename": ""},
            {"size": 0},
            {"expires_after": {"anchor": "x", "seconds": 3600}},
        ):
            size = wrong.pop("size", 3)
            with pytest.raises(openai.BadRequestError):
                await begin(sdk, size, **wrong)
        with pytest.raises(openai.APIStatusError) as told:
            await begin(sdk, 1_000_001)
        assert told.value.status_code == 413
        upload = await begin(sdk, 3)
        for form, status in (
            ({"files": {"other": b"x"}}, 400),
            ({"data": {"data": "text"}}, 415),
        ):
            request = sdk._client.build_request(
                "POST", f"http://127.0.0.1:{ask.port}/v1/uploads/{upload.id}/parts", headers=KEY, **form
            )
            answer = await sdk._client.send(request)
            assert answer.status_code == status
        assert (
            await ask("HEAD", f"/v1/uploads/{upload.id}", key="any")
        ).status == 404  # it is none that is appended to
        assert (await ask("DELETE", f"/v1/uploads/{upload.id}", key="any")).status == 404
        assert (await ask.append(f"/v1/uploads/{upload.id}", 0, b"x", key="any")).status == 404
        assert (await ask("POST", "/v1/uploads", b"{")).status == 400
        assert (await ask("POST", f"/v1/uploads/{upload.id}/other", b"{}")).status == 404


def test_a_files_name_is_one_to_show_and_no_path(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        upload = await begin(sdk, 3, filename="../../etc/a\x1b.txt")
        part = await sdk.uploads.parts.create(upload.id, data=b"abc")
        done = await sdk.uploads.complete(upload.id, part_ids=[part.id])
        assert (upload.filename, done.file.filename) == ("a.txt", "a.txt")


def test_a_part_that_breaks_leaves_nothing(tmp_path):
    @with_sdk(tmp_path)
    async def test(sdk, ask, gateway):
        upload = await begin(sdk, 3)
        with pytest.raises(openai.APIStatusError) as told:
            await sdk.uploads.parts.create(upload.id, data=io.BytesIO(bytes(67_108_865)))
        assert told.value.status_code == 413
        kind = "multipart/form-data; boundary=b"
        _, writer = await ask.begin(
            "POST", f"/v1/uploads/{upload.id}/parts", 1_000_000, content_type=kind, key="any"
        )
        writer.write(
            b'--b\r\ncontent-disposition: form-data; name="data"; filename="f"\r\n\r\n' + b"x" * 5_000
        )
        writer.close()
        await sdk.uploads.parts.create(upload.id, data=b"abc")
        store = gateway._rooms.uploads
        while any(writer.upload.startswith("part_") for writer in store._writers.values()):
            await asyncio.sleep(0)
        assert await store._index._database.read(
            lambda db: db.execute("SELECT count(*) FROM segments").fetchone()
        ) == (1,)
