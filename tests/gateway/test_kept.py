"""``/v1/files`` and ``/v1/batches`` of a whole gateway in this loop: what is refused, and how."""

import asyncio
import json

import pytest
from serving import call, config, on_uvloop, read_answer, serving

from penstock.config.model import BatchesConfig, FilesConfig, ListenerConfig
from penstock.errors import ConfigError
from penstock.gateway.compose import build
from penstock.testing import FakeClock

LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "hi"}}
KIND = ["content-type: multipart/form-data; boundary=b"]


def settings(folder, *, batches=None, listener=None, **files):
    return config(
        "http://127.0.0.1:9",
        files=FilesConfig(directory=str(folder / "kept"), **files),
        batches=batches or BatchesConfig(),
        listener=listener or ListenerConfig(),
    )


def form(content=b"hello", filename="f.txt", name="file", **fields):
    parts = [
        f'--b\r\ncontent-disposition: form-data; name="{each}"\r\n\r\n{value}\r\n'
        for each, value in fields.items()
    ]
    file = f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return "".join(parts).encode() + file.encode() + content + b"\r\n--b--\r\n"


async def upload(port, *args, **kwargs):
    return await call(port, form(*args, **kwargs), "/v1/files", headers=KIND)


async def begin(port, file_id="file-x", **more):
    asked = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", **more}
    return await call(port, {name: value for name, value in asked.items() if value is not ...}, "/v1/batches")


async def get(port, path):
    return await call(port, b"", path, "GET")


def told(answer):
    error = answer.json()["error"]
    return answer.status, error["code"], error["param"]


def with_gateway(folder, **more):
    """Runs a test with the port of a gateway that keeps files in the folder."""

    def run(test):
        async def main():
            async with serving(settings(folder, **more)) as (_, port):
                await test(port)

        on_uvloop(main)

    return run


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/messages/batches", "/v1/conversations"])
def test_a_body_in_a_content_coding_is_of_no_kind_that_is_kept(path, tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        kind = KIND if path == "/v1/files" else []
        coded = await call(port, b"\x1f\x8b", path, headers=[*kind, "content-encoding: gzip"])
        assert (coded.status, coded.json()["error"].get("code")) in [
            (415, "unsupported_media_type"),
            (415, None),
        ]
        plain = await call(port, form(purpose="vision"), path, headers=[*KIND, "content-encoding: Identity"])
        assert plain.status == (200 if path == "/v1/files" else 400)


def test_a_file_comes_back_as_it_went(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        content = bytes(range(256)) * 4_000
        file = (await upload(port, content, purpose="vision")).json()
        assert (file["object"], file["bytes"], file["purpose"], file["status"]) == (
            "file",
            1_024_000,
            "vision",
            "processed",
        )
        assert file["expires_at"] - file["created_at"] == 2_592_000
        assert (await get(port, f"/v1/files/{file['id']}")).json() == file
        assert (await get(port, f"/v1/files/{file['id']}/content")).body == content
        assert (await get(port, "/v1/files?purpose=vision&limit=1")).json()["data"] == [file]
        assert (await get(port, "/v1/files?purpose=batch")).json()["data"] == []
        gone = await call(port, b"", f"/v1/files/{file['id']}", "DELETE")
        assert gone.json() == {"id": file["id"], "object": "file", "deleted": True}
        assert told(await get(port, f"/v1/files/{file['id']}")) == (404, "file_not_found", "file_id")


def test_an_empty_file_is_one(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        file = (await upload(port, b"", purpose="batch")).json()
        assert file["bytes"] == 0
        assert (await get(port, f"/v1/files/{file['id']}/content")).body == b""


def test_a_life_may_be_asked_for(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        life = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        file = (await upload(port, purpose="batch", **life)).json()
        assert file["expires_at"] - file["created_at"] == 3_600
        for wrong in (
            {"expires_after[seconds]": "60"},
            {"expires_after[seconds]": "x"},
            {"expires_after[seconds]": "9" * 5_000},
            {"expires_after[anchor]": "now"},
        ):
            answer = await upload(port, purpose="batch", **{**life, **wrong})
            assert answer.status == 400
            assert answer.json()["error"]["param"].startswith("expires_after.")


def test_what_is_no_upload_is_refused_and_leaves_nothing(tmp_path):
    @with_gateway(tmp_path, max_file_bytes=1_000)
    async def test(port):
        assert told(await upload(port)) == (400, "invalid_request", "purpose")
        assert told(await upload(port, purpose="world domination")) == (400, "invalid_request", "purpose")
        assert told(await upload(port, purpose="batch_output")) == (400, "invalid_request", "purpose")
        assert told(await upload(port, name="files", purpose="batch")) == (400, "invalid_request", "files")
        fields = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
        assert told(await call(port, fields, "/v1/files", headers=KIND)) == (400, "missing_parameter", "file")
        assert told(await call(port, form()[:-9], "/v1/files", headers=KIND)) == (400, "invalid_form", None)
        assert told(await call(port, b"{}", "/v1/files")) == (415, "unsupported_media_type", None)
        assert told(await upload(port, bytes(1_001), purpose="batch")) == (413, "body_too_large", "file")
        assert told(await upload(port, bytes(1 << 20), purpose="batch")) == (413, "body_too_large", "file")
        tail = form(purpose="batch") + bytes(200_000)
        assert (await call(port, tail, "/v1/files", headers=KIND)).status == 413
        assert (await get(port, "/v1/files")).json()["data"] == []

    assert not list((tmp_path / "kept" / "incoming").iterdir())
    assert not list((tmp_path / "kept" / "content").iterdir())


def test_the_listeners_limit_of_bodies_is_not_that_of_files(tmp_path):
    @with_gateway(tmp_path, listener=ListenerConfig(max_body_bytes=10_000))
    async def test(port):
        assert (await upload(port, bytes(100_000), purpose="batch")).status == 200
        assert (await call(port, bytes(100_000), "/v1/batches")).status == 413


def test_a_tenant_that_keeps_too_much_is_told(tmp_path):
    @with_gateway(tmp_path, tenant_bytes=10_000)
    async def test(port):
        assert (await upload(port, bytes(5_000), purpose="batch")).status == 200
        assert told(await upload(port, bytes(6_000), purpose="batch")) == (
            403,
            "storage_quota_exceeded",
            None,
        )


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("PUT", "/v1/files", 405, "GET, POST"),
        ("POST", "/v1/files/x", 405, "GET, DELETE"),
        ("DELETE", "/v1/files/x/content", 405, "GET"),
        ("DELETE", "/v1/batches/x", 405, "GET"),
        ("GET", "/v1/batches/x/cancel", 405, "POST"),
        ("GET", "/v1/files/", 404, None),
        ("GET", "/v1/files/x/y", 404, None),
        ("GET", "/v1/batches/x/y/z", 404, None),
        ("GET", "/v1/files/../../etc/passwd", 404, None),
        ("GET", "/v1/files/%2e%2e%2ffiles.sqlite/content", 404, None),
        ("GET", "/v1/files?limit=0", 400, None),
        ("GET", "/v1/files?limit=many", 400, None),
        ("GET", "/v1/files?limit=99999999999999999999", 400, None),
        ("GET", "/v1/files?order=sideways", 400, None),
        ("GET", "/v1/files?after=nothing", 200, None),
        ("HEAD", "/v1/files", 200, None),
        ("GET", "/v1/batches?limit=101", 400, None),
    ],
)
def test_paths_methods_and_queries(method, path, status, allow, tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        if method == "HEAD":
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        else:
            answer = await read_answer(reader)
            assert (answer.status, answer.headers.get("allow")) == (status, allow)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": ...}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"endpoint": "/v1/messages"}, "endpoint"),
        ({"endpoint": ...}, "endpoint"),
        ({"completion_window": ...}, "completion_window"),
        ({"completion_window": "24"}, "completion_window"),
        ({"completion_window": "0h"}, "completion_window"),
        ({"completion_window": "15d"}, "completion_window"),
        ({"completion_window": "999d"}, "completion_window"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a" * 65: "x"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"output_expires_after": []}, "output_expires_after"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(changes, param, tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        answer = await begin(port, **changes)
        assert (answer.status, answer.json()["error"]["param"]) == (400, param)


def test_what_a_batch_needs_must_be_there_and_fit(tmp_path):
    @with_gateway(tmp_path, batches=BatchesConfig(max_input_bytes=1_000, max_open=1))
    async def test(port):
        assert told(await begin(port)) == (404, "file_not_found", "file_id")
        other = (await upload(port, purpose="vision")).json()["id"]
        assert told(await begin(port, other)) == (400, "invalid_request", "input_file_id")
        large = (await upload(port, bytes(1_001), purpose="batch")).json()["id"]
        assert told(await begin(port, large)) == (400, "invalid_request", "input_file_id")
        right = (await upload(port, json.dumps(LINE).encode(), purpose="batch")).json()["id"]
        batch = await begin(port, right, completion_window="90m", metadata={"a": "b"})
        assert batch.status == 200
        assert batch.json()["expires_at"] - batch.json()["created_at"] == 5_400
        assert told(await begin(port, right)) == (429, "too_many_batches", None)
        cancelled = await call(port, b"", f"/v1/batches/{batch.json()['id']}/cancel")
        assert cancelled.json()["status"] in {"cancelling", "cancelled"}
        assert told(await get(port, "/v1/batches/batch_x")) == (404, "batch_not_found", "batch_id")


def test_batches_are_listed_in_pages(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        file = (await upload(port, b"{", purpose="batch")).json()["id"]
        ids = [(await begin(port, file)).json()["id"] for _ in range(3)]
        first = (await get(port, "/v1/batches?limit=2")).json()
        assert [each["id"] for each in first["data"]] == ids[:0:-1]
        assert (first["has_more"], first["last_id"]) == (True, ids[1])
        rest = (await get(port, f"/v1/batches?limit=2&after={ids[1]}")).json()
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (ids[:1], False)


def test_without_a_directory_there_are_no_such_paths():
    async def main():
        async with serving(config("http://127.0.0.1:9")) as (_, port):
            for path in ("/v1/files", "/v1/batches"):
                assert told(await get(port, path)) == (404, "not_found", None)

    on_uvloop(main)


def test_a_directory_that_cannot_be_used_keeps_the_gateway_from_starting(tmp_path):
    (tmp_path / "kept").write_text("a file")

    async def main():
        gateway = build(settings(tmp_path), clock=FakeClock())
        with pytest.raises(ConfigError):
            await gateway.start()

    on_uvloop(main)


def test_a_download_waits_for_a_client_that_reads_slowly_and_ends_with_one_that_leaves(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        content = bytes(range(256)) * 40_000  # more than the sockets between hold
        file = (await upload(port, content, purpose="vision")).json()["id"]
        for leaves in (True, False):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
            writer.write(f"GET /v1/files/{file}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            if not leaves:
                got = b""
                while size := int(await reader.readline(), 16):
                    got += (await reader.readexactly(size + 2))[:-2]
                assert got == content
            writer.close()
            await writer.wait_closed()


def test_a_file_that_was_cut_short_is_not_taken_for_a_whole_one(tmp_path):
    @with_gateway(tmp_path)
    async def test(port):
        file = (await upload(port, bytes(100_000), purpose="vision")).json()["id"]
        with (tmp_path / "kept" / "content" / file).open("r+b") as content:
            content.truncate(50_000)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /v1/files/{file}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"transfer-encoding: chunked" in answer
        assert not answer.endswith(b"\r\n0\r\n\r\n")  # without its end it is no whole answer
        writer.close()
        await writer.wait_closed()
