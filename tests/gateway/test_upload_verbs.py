"""Uploads of files by any verbs in any order, in both dialects at once: a model knows what there must be."""

import asyncio
import contextlib
import itertools
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from in_pieces import DRAFT, digest, flag, in_pieces
from serving import new_event_loop

MAX = 3_000
BYTES = st.binary(max_size=12) | st.builds(
    lambda fill, size: fill * size, st.sampled_from([b"a", b"\r\n"]), st.integers(0, 2_000)
)
SLIPS = st.sampled_from([0, 0, 0, 0, 1, -1, 500])  # beside the right offset
DIALECTS = st.sampled_from(["rufh", "tus"])
WHICH = st.integers(0, 100)
REFUSED = {400, 403, 409, 410, 413, 415, 460}


class Upload:
    """What there must be of one: ``content`` was confirmed, ``file`` is what it became, if it is complete."""

    def __init__(self, where, length):
        self.where, self.length = where, length
        self.content = b""
        self.file = ""
        self.gone = False


class Machine(RuleBasedStateMachine):
    folders = ()

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=new_event_loop)
        self.stack = contextlib.AsyncExitStack()
        self.uploads = []

        async def start():
            folder = next(self.folders)
            folder.mkdir()
            made = in_pieces(folder, files={"max_file_bytes": MAX})
            return await self.stack.enter_async_context(made)

        self.ask, _, self.gateway = self.runner.run(start())

    def do(self, coroutine):
        answer = self.runner.run(coroutine)
        assert answer.status < 500, (answer.status, answer.body)
        return answer

    def pick(self, which):
        return self.uploads[which % len(self.uploads)] if self.uploads else None

    # ---- verbs ----

    @rule(
        dialect=DIALECTS,
        content=BYTES,
        announced=st.none() | st.integers(0, 2_500),
        exact=st.booleans(),
        closes=st.booleans(),
    )
    def create(self, dialect, content, announced, exact, closes):
        length = len(content) if exact and announced is not None else announced
        fields = {} if length is None else {"Upload_Length": length}
        if dialect == "tus":
            if length is None:
                fields["Upload_Defer_Length"] = 1
            if content:
                fields["content_type"] = "application/offset+octet-stream"
            answer = self.do(self.ask.tus("POST", "/v1/files", content, **fields))
            closes = len(content) == length
        else:
            answer = self.do(
                self.ask.create("/v1/files", content, closes, content_type="text/plain", **fields)
            )
        if answer.status in REFUSED:
            return
        upload = Upload(answer.headers["location"], length)
        self.uploads.append(upload)
        self._appended(upload, content, answer, closes=closes)

    @rule(
        which=WHICH,
        dialect=DIALECTS,
        content=BYTES,
        slip=SLIPS,
        closes=st.booleans(),
        says=st.none() | st.booleans(),
    )
    def append(self, which, dialect, content, slip, closes, says):
        """:param says: a digest, which is right or wrong"""
        upload = self.pick(which)
        if upload is None:
            return
        offset = max(0, len(upload.content) + slip)
        fields = {} if says is None else {"Content_Digest": digest(content if says else content + b"x")}
        if dialect == "tus":
            answer = self.do(self.ask.tus("PATCH", upload.where, content, Upload_Offset=offset))
            closes, says = len(upload.content) + len(content) == upload.length, None
        else:
            answer = self.do(self.ask.append(upload.where, offset, content, closes, **fields))
        if upload.gone:
            assert answer.status in {404, 410}, answer.status
        elif offset != len(upload.content):
            assert answer.status == 409, answer.status
            assert int(answer.headers["upload-offset"]) == len(upload.content)
        elif upload.file:
            assert answer.status in REFUSED or not content
        elif answer.status in REFUSED:
            assert (
                says is False or closes or len(upload.content) + len(content) > min(MAX, upload.length or MAX)
            )
            self.look(which, dialect)
        else:
            assert says is not False or not content
            self._appended(upload, content, answer, closes=closes)

    @rule(which=WHICH, dialect=DIALECTS, content=BYTES, more=st.integers(1, 1_000), chunked=st.booleans())
    def break_off(self, which, dialect, content, more, chunked):
        """The connection goes within an append: of what came, a beginning is kept."""
        upload = self.pick(which)
        if upload is None or upload.gone or upload.file:
            return
        fields = {"Upload_Offset": len(upload.content)}
        if dialect == "tus":
            fields |= {"content_type": "application/offset+octet-stream", "Tus_Resumable": "1.0.0"}
        else:
            fields |= {"content_type": DRAFT, "Upload_Complete": flag(False)}

        async def broken():
            size = -1 if chunked else len(content) + more
            _, writer = await self.ask.begin("PATCH", upload.where, size, **fields)
            framed = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
            writer.write(framed if chunked else content)
            await writer.drain()
            await asyncio.sleep(0)
            writer.transport.abort()
            return await self._head(upload, dialect)

        answer = self.do(broken())
        self._seen(upload, upload.content + content, answer)

    @rule(which=WHICH, dialect=DIALECTS)
    def look(self, which, dialect):
        upload = self.pick(which)
        if upload is not None:
            self._seen(upload, upload.content, self.do(self._head(upload, dialect)))

    @rule(which=WHICH, dialect=DIALECTS)
    def give_up(self, which, dialect):
        upload = self.pick(which)
        if upload is None:
            return
        ask = self.ask.tus if dialect == "tus" else self.ask
        answer = self.do(ask("DELETE", upload.where))
        assert answer.status in ({404, 410} if upload.gone else {204}), answer.status
        upload.gone = True

    # ---- what there must be ----

    def _head(self, upload, dialect):
        return self.ask.tus("HEAD", upload.where) if dialect == "tus" else self.ask("HEAD", upload.where)

    def _seen(self, upload, most, answer):
        if upload.gone or answer.status in {404, 410}:
            assert answer.status in {404, 410}
            upload.gone = True
            return
        offset = int(answer.headers["upload-offset"])
        assert len(upload.content) <= offset <= len(most)
        upload.content = most[:offset]

    def _appended(self, upload, content, answer, *, closes):
        upload.content += content
        assert int(answer.headers["upload-offset"]) == len(upload.content)
        file = answer.headers.get("penstock-file") or (answer.body and answer.json()["id"])
        assert bool(file) == bool(closes), (answer.status, answer.body)
        if file:
            upload.file = file
            kept = self.do(self.ask("GET", f"/v1/files/{file}/content"))
            assert kept.body == upload.content

    def teardown(self):
        self.runner.run(self.stack.aclose())
        self.runner.close()


def test_whatever_verbs_come_in_whatever_order_there_is_what_was_confirmed(tmp_path):
    class Somewhere(Machine):
        folders = (tmp_path / str(number) for number in itertools.count())

    examples = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))
    run_state_machine_as_test(
        Somewhere,
        settings=settings(
            max_examples=examples or 12,
            stateful_step_count=20,
            deadline=None,
            derandomize=not examples,
            suppress_health_check=list(HealthCheck),
        ),
    )
