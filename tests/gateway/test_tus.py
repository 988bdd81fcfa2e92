"""tus 1.0, extension by extension, through a whole gateway."""

import base64
import hashlib
import json

from in_pieces import CHAT, body_of, with_gateway
from serving import COMPLETION

KIND = "application/offset+octet-stream"


def metadata(**pairs):
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())


def checksum(data, algorithm="sha1"):
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


async def content(ask, answer):
    return (await ask("GET", f"/v1/files/{answer.headers['penstock-file']}/content")).body


def test_a_file_in_two_chunks(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        said = metadata(filename="ä.txt", purpose="batch")
        made = await ask.tus("POST", "/v1/files", Upload_Length=10, Upload_Metadata=said)
        assert (made.status, made.headers["tus-resumable"], made.headers["upload-offset"]) == (
            201,
            "1.0.0",
            "0",
        )
        assert "upload-expires" in made.headers
        where = made.headers["location"]
        first = await ask.tus("PATCH", where, b"01234", Upload_Offset=0)
        assert (first.status, first.headers["upload-offset"], first.body) == (204, "5", b"")
        head = await ask.tus("HEAD", where)
        assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("5", "10")
        wrong = await ask.tus("PATCH", where, b"01234", Upload_Offset=0)
        assert (wrong.status, wrong.headers["tus-resumable"], wrong.headers["upload-offset"]) == (
            409,
            "1.0.0",
            "5",
        )
        last = await ask.tus("PATCH", where, b"56789", Upload_Offset=5)
        assert (last.status, last.headers["upload-offset"]) == (204, "10")
        assert await content(ask, last) == b"0123456789"
        again = await ask.tus("PATCH", where, b"", Upload_Offset=10)
        assert again.headers["penstock-file"] == last.headers["penstock-file"]
        told = (await ask("GET", f"/v1/files/{last.headers['penstock-file']}")).json()
        assert (told["filename"], told["purpose"]) == ("ä.txt", "batch")


def test_a_files_name_is_one_to_show_and_no_path(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        for sent, shown in (
            ("../../etc/x", "x"),
            ("C:\\\\a.txt", "a.txt"),
            ("a\r\n\x1bb\0", "ab"),
            ("/", "file"),
        ):
            said = metadata(filename=sent)
            made = await ask.tus("POST", "/v1/files", Upload_Length=0, Upload_Metadata=said)
            told = await ask("GET", f"/v1/files/{made.headers['penstock-file']}")
            assert told.json()["filename"] == shown


def test_what_says_two_things_at_once_or_promises_what_is_not_read_is_refused(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        twice = f"{metadata(filename='a')},{metadata(filename='b')}"
        made = await ask.tus("POST", "/v1/files", Upload_Length=1, Upload_Metadata=twice)
        assert made.status == 400
        part = await ask.tus(
            "POST", "/v1/files", b"a", Upload_Length=1, Upload_Concat="partial", content_type=KIND
        )
        final = {"Upload_Concat": f"final;{part.headers['location']}", "content_type": KIND}
        assert (await ask.tus("POST", "/v1/files", b"b", **final)).status == 400
        assert await content(ask, await ask.tus("POST", "/v1/files", **final)) == b"a"
        where = (await ask.tus("POST", "/v1/files", Upload_Length=3)).headers["location"]
        trailer = await ask.tus("PATCH", where, b"abc", Upload_Offset=0, Trailer="X, upload-Checksum")
        assert trailer.status == 400
        assert (await ask.tus("HEAD", where)).headers["upload-offset"] == "0"


def test_an_empty_file_is_complete_at_once(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        made = await ask.tus("POST", "/v1/uploads", Upload_Length=0)
        assert made.status == 201
        assert await content(ask, made) == b""


def test_creation_with_upload(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        kind = "application/offset+octet-stream"
        made = await ask.tus("POST", "/v1/files", b"abc", Upload_Length=3, content_type=kind)
        assert (made.status, made.headers["upload-offset"]) == (201, "3")
        assert await content(ask, made) == b"abc"
        part = await ask.tus("POST", "/v1/files", b"abc", Upload_Length=5, content_type=kind)
        assert (part.status, part.headers["upload-offset"]) == (201, "3")
        assert (
            await ask.tus("POST", "/v1/files", b"abc", Upload_Length=3, content_type="text/plain")
        ).status == 415


def test_a_length_that_is_known_late(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.tus("POST", "/v1/files", Upload_Defer_Length=1)).headers["location"]
        await ask.tus("PATCH", where, b"abc", Upload_Offset=0)
        assert (await ask.tus("HEAD", where)).headers["upload-defer-length"] == "1"
        assert (await ask.tus("PATCH", where, b"", Upload_Offset=3, Upload_Length=6)).status == 204
        assert (await ask.tus("HEAD", where)).headers["upload-length"] == "6"
        last = await ask.tus("PATCH", where, b"def", Upload_Offset=3)
        assert await content(ask, last) == b"abcdef"
        for wrong in ({}, {"Upload_Defer_Length": 2}, {"Upload_Defer_Length": 1, "Upload_Length": 1}):
            assert (await ask.tus("POST", "/v1/files", **wrong)).status == 400


def test_a_piece_with_a_wrong_checksum_is_refused_and_the_offset_stays(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.tus("POST", "/v1/files", Upload_Length=6)).headers["location"]
        for algorithm in ("sha1", "sha256"):
            wrong = await ask.tus(
                "PATCH", where, b"abd", Upload_Offset=0, Upload_Checksum=checksum(b"abc", algorithm)
            )
            assert wrong.status == 460
            assert (await ask.tus("HEAD", where)).headers["upload-offset"] == "0"
        assert (
            await ask.tus("PATCH", where, b"abc", Upload_Offset=0, Upload_Checksum="md5 YWJj")
        ).status == 400
        assert (
            await ask.tus("PATCH", where, b"abc", Upload_Offset=0, Upload_Checksum="sha1 é")
        ).status == 400
        first = await ask.tus("PATCH", where, b"abc", Upload_Offset=0, Upload_Checksum=checksum(b"abc"))
        assert first.headers["upload-offset"] == "3"
        said = checksum(b"def", "sha256")
        last = await ask.tus("PATCH", where, b"def", Upload_Offset=3, Upload_Checksum=said)
        assert await content(ask, last) == b"abcdef"


def test_parts_are_put_together_without_copying(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        wheres = []
        for part in (b"a" * 50_000, b"b" * 50_000):
            made = await ask.tus("POST", "/v1/files", Upload_Length=50_000, Upload_Concat="partial")
            wheres.append(made.headers["location"])
            early = await ask.tus("POST", "/v1/files", Upload_Concat="final;" + " ".join(wheres))
            assert early.status == 409
            assert (await ask.tus("PATCH", wheres[-1], part, Upload_Offset=0)).status == 204
            assert (await ask.tus("HEAD", wheres[-1])).headers["upload-concat"] == "partial"
        made = await ask.tus("POST", "/v1/files", Upload_Concat="final;" + " ".join(wheres))
        assert made.status == 201
        assert await content(ask, made) == b"a" * 50_000 + b"b" * 50_000
        said = {"Upload_Concat": "final;" + " ".join(wheres), "Idempotency_Key": "k"}
        once = await ask.tus("POST", "/v1/files", **said)
        again = await ask.tus("POST", "/v1/files", **said)
        assert (again.status, again.headers["location"]) == (201, once.headers["location"])
        assert again.headers["penstock-file"] == once.headers["penstock-file"]
        where = made.headers["location"]
        head = await ask.tus("HEAD", where)
        assert head.headers["upload-length"] == "100000"
        paths = [each.partition(f":{ask.port}")[2] for each in wheres]
        assert head.headers["upload-concat"] == "final;" + " ".join(paths)
        assert (await ask.tus("PATCH", where, b"x", Upload_Offset=100_000)).status == 403
        for wrong in ("x", "final;", "final;http://[", "final;http://[x]/", "final;" + wheres[0] + "0"):
            assert (await ask.tus("POST", "/v1/files", Upload_Concat=wrong)).status in {400, 404}
        assert (
            await ask.tus("POST", "/v1/files", Upload_Concat="final;" + wheres[0], Upload_Length=1)
        ).status == 400


def test_the_last_chunk_of_a_call_is_answered_by_the_model(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        body = body_of(1_000)
        where = (await ask.tus("POST", CHAT, Upload_Length=len(body))).headers["location"]
        await ask.tus("PATCH", where, body[:500], Upload_Offset=0)
        answer = await ask.tus("PATCH", where, body[500:], Upload_Offset=500)
        assert (answer.status, answer.json(), answer.headers["upload-offset"]) == (
            200,
            COMPLETION,
            str(len(body)),
        )
        assert json.loads(model.bodies[0]) == json.loads(body)


def test_termination_versions_and_methods_in_disguise(tmp_path):
    @with_gateway(tmp_path)
    async def test(ask, model, gateway):
        where = (await ask.tus("POST", "/v1/files", Upload_Length=3)).headers["location"]
        kind = "application/offset+octet-stream"
        over = await ask.tus(
            "POST", where, b"a", X_HTTP_Method_Override="PATCH", Upload_Offset=0, content_type=kind
        )
        assert over.headers["upload-offset"] == "1"
        other = await ask("HEAD", where, Tus_Resumable="0.2.2")
        assert (other.status, other.headers["tus-version"]) == (412, "1.0.0")
        gone = await ask.tus("DELETE", where)
        assert (gone.status, gone.headers["tus-resumable"]) == (204, "1.0.0")
        after = await ask.tus("HEAD", where)
        assert after.status == 410
        assert "upload-offset" not in after.headers
        for wrong in ("purpose x", "a b,c !", "é aaaa", "a é"):
            made = await ask.tus("POST", "/v1/files", Upload_Length=1, Upload_Metadata=wrong)
            assert made.status == 400
        assert (await ask.tus("POST", "/v1/files", Upload_Length="1e3")).status == 400
        assert (await ask.tus("POST", "/v1/files", Upload_Length=536_870_913)).status == 413
