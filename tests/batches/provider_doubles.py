"""A provider with batches of its own, in the test's own process: what it says and when is the test's affair."""

import json

import msgspec

from penstock.batches.providers import Prepared
from penstock.errors import UpstreamUnreachable
from penstock.messages import Endpoint
from penstock.wire.provider_batch import ANTHROPIC, OPENAI, Fate, Page, Told


class Provider:
    """A :class:`penstock.batches.providers.ProviderAPI`.

    ``batches`` are what there is, newest last; ``on_create`` may raise, before or after one is made.
    """

    def __init__(self, world, *, takes_files=True):
        self.form = OPENAI if takes_files else ANTHROPIC
        self.takes_files = takes_files
        self.world = world
        self.files = {}
        self.batches = {}
        self.requests = {}  # of each batch: lines
        self.asked = []
        self.before_create = self.after_create = lambda: None
        self.hidden = set()  # batches that the list does not show
        self.looks = []  # when it was asked how one stands
        self.reachable = True

    def _ask(self, *what):
        self.asked.append(what)
        if not self.reachable:
            raise UpstreamUnreachable("nobody is there")

    async def upload(self, lines, name):
        self._ask("upload")
        file = f"file-{len(self.asked)}"
        self.files[file] = lines
        return file

    async def create(self, requests, name, betas):
        self._ask("create")
        self.before_create()
        lines = self.files[requests.decode()] if self.takes_files else requests
        told = self.add(
            lines, tag=name if self.takes_files else "", file=requests.decode() if self.takes_files else ""
        )
        self.after_create()
        return told

    def add(self, lines, *, tag="", file=""):
        batch_id = f"b{len(self.batches)}"
        self.requests[batch_id] = lines.splitlines()
        told = Told(batch_id, None, self.world.wall(), len(self.requests[batch_id]), tag, file)
        self.batches[batch_id] = told
        return told

    async def page(self, after):
        self._ask("page", after)
        return Page(tuple(told for told in reversed(self.batches.values()) if told.id not in self.hidden))

    async def look(self, batch_id):
        self._ask("look", batch_id)
        self.looks.append(self.world.clock.now())
        return self.batches[batch_id]

    async def cancel(self, batch_id):
        self._ask("cancel", batch_id)
        self.end(batch_id, Fate.CANCELLED, answered=0)

    async def delete(self, batch_id):
        self._ask("delete", batch_id)

    async def delete_file(self, file_id):
        self._ask("delete_file", file_id)
        self.files.pop(file_id, None)

    async def download(self, results, write):
        self._ask("download", results)
        for line in self.requests[results][: self.batches[results].lines]:
            await write(self.answered(json.loads(line)["custom_id"]))

    def answered(self, custom_id):
        if self.takes_files:
            told = {"custom_id": custom_id, "response": {"status_code": 200, "body": {"by": "provider"}}}
        else:
            told = {
                "custom_id": custom_id,
                "result": {"type": "succeeded", "message": {"by": "provider"}},
            }
        return json.dumps(told).encode() + b"\n"

    def end(self, batch_id, fate=Fate.COMPLETED, *, answered=None, **more):
        told = self.batches[batch_id]
        lines = told.lines if answered is None else answered
        results = (batch_id,) if lines else ()
        self.batches[batch_id] = msgspec.structs.replace(
            told, ended=fate, lines=lines, results=results, **more
        )

    def count(self, what):
        return sum(each[0] == what for each in self.asked)


class Aside:
    def __init__(self, kept):
        self.kept = kept
        kept.append(self)

    def release(self):
        if self in self.kept:
            self.kept.remove(self)


class Providers:
    """A :class:`penstock.batches.providers.Providers` with one provider, which takes what ``takes`` says."""

    is_any = True

    def __init__(self, provider, takes=lambda line: True):
        self.provider = provider
        self.takes = takes
        self.endpoint = Endpoint.CHAT if provider.takes_files else Endpoint.MESSAGES
        self.delivered = []  # generations, each as often as it was entered into the ledger
        self.asides = []
        self.has_money = True
        self.configured = True

    def prepare(self, batch, endpoint, line):
        if not self.takes(line):
            return None
        return Prepared("up", self.endpoint, "theirs", "ours", line.body, 1, 7)

    def api(self, upstream, endpoint):
        assert (upstream, endpoint) == ("up", self.endpoint.path)
        return self.provider if self.configured else None

    async def set_aside(self, batch, record, *, bought):
        return Aside(self.asides) if bought or self.has_money else None

    def deliver(self, batch, record, line, result, generation, *, is_entered):
        if not is_entered and result.status:
            self.delivered.append(generation)
        status = 502 if result.is_unreadable else result.status or 502
        return status, result.body or b'{"error":{"message":"%b"}}' % result.why.encode()

    async def entered(self, generations, since):
        return generations & set(self.delivered)

    async def flush(self):
        pass
