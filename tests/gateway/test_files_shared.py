"""Two gateways that share their files through a server, and no disk."""

import asyncio
import contextlib
import json

from in_pieces import CHAT, in_pieces
from serving import on_uvloop

from needing import needs_redis
from penstock.config.secret import Secret
from penstock.testing import RedisServer

pytestmark = needs_redis
LINES = b"".join(
    json.dumps(
        {"custom_id": f"line {i}", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    )
    .encode()
    .replace(b"[]", b'[{"role": "user", "content": "?"}]')
    + b"\n"
    for i in range(3)
)


def with_two(folder, test):
    async def main():
        with RedisServer() as server:
            shared = {"files": {"shared": True}, "redis": Secret(server.url)}
            async with contextlib.AsyncExitStack() as stack:
                one, _, _ = await stack.enter_async_context(in_pieces(folder / "one", **shared))
                other, _, _ = await stack.enter_async_context(in_pieces(folder / "other", **shared))
                await test(one, other)

    on_uvloop(main)


async def sent(ask, content, purpose="batch"):
    """The id of a file."""
    form = (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n%b\r\n--b\r\ncontent-disposition: '
        b'form-data; name="file"; filename="f.jsonl"\r\n\r\n%b\r\n--b--\r\n' % (purpose.encode(), content)
    )
    answer = await ask("POST", "/v1/files", form, content_type="multipart/form-data; boundary=b")
    assert answer.status == 200
    return answer.json()["id"]


def test_a_file_of_one_gateway_is_one_of_the_others(tmp_path):
    async def test(one, other):
        file = await sent(one, b"x" * 300_000, "user_data")
        told = await other("GET", f"/v1/files/{file}")
        assert (told.json()["bytes"], told.json()["filename"]) == (300_000, "f.jsonl")
        assert [each["id"] for each in (await other("GET", "/v1/files")).json()["data"]] == [file]
        assert (await other("GET", f"/v1/files/{file}/content")).body == b"x" * 300_000
        assert (await other("DELETE", f"/v1/files/{file}")).json()["deleted"] is True
        assert (await one("GET", f"/v1/files/{file}")).status == 404

    with_two(tmp_path, test)


def test_a_batch_reads_what_another_gateway_was_sent_and_its_results_are_at_both(tmp_path):
    async def test(one, other):
        asked = {"input_file_id": await sent(one, LINES), "endpoint": CHAT, "completion_window": "24h"}
        batch = (await other("POST", "/v1/batches", json.dumps(asked).encode())).json()
        async with asyncio.timeout(60):
            while batch["status"] not in {"completed", "failed"}:
                await asyncio.sleep(0.05)
                batch = (await other("GET", f"/v1/batches/{batch['id']}")).json()
        assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 3)
        results = [
            (await ask("GET", f"/v1/files/{batch['output_file_id']}/content")).body for ask in (one, other)
        ]
        assert results[0] == results[1]
        assert {json.loads(line)["custom_id"] for line in results[0].splitlines()} == {
            "line 0",
            "line 1",
            "line 2",
        }

    with_two(tmp_path, test)
