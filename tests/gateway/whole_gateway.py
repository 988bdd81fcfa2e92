"""A whole gateway and its two simulated providers in one loop, and callers who check what they are told."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import socket

import h11
from httpx_sse._decoders import SSEDecoder
from serving import NOTHING, held, serving

from penstock.config.model import (
    CandidateConfig,
    Config,
    ContinuationConfig,
    GenerationsConfig,
    KeyConfig,
    LedgerConfig,
    LimitConfig,
    LimitsConfig,
    LogConfig,
    ModelCacheConfig,
    ModelConfig,
    RetryConfig,
    TimeoutConfig,
    UpstreamConfig,
)
from penstock.lab.scenario import Script, parse
from penstock.lab.serve import Service
from penstock.lab.simulator import Simulator
from penstock.messages import SAVING, Outcome
from penstock.testing import FakeClock, expected_text

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
PATHS = (CHAT, MESSAGES, RESPONSES)
TENANTS = ("red", "blue", "poor")
FAIR = ""
KEPT_FOR = 1e9  # seconds: on a busy machine hours pass by the fake clock while real disks are waited for

# What the providers' failures, and the limits of the poor, may come to; whatever else a caller gets is a defect.
TROUBLES = {
    429: {"rate_limit_exceeded", "concurrency_exceeded", "budget_exceeded"},
    409: {"cancelled"},
    502: {"upstream_failed", "upstream_unreachable", "upstream_broken", "upstream_authentication"},
    503: {"upstream_failed"},
    504: {"upstream_failed", "upstream_timeout"},
}


def config(one, two, generations, *, variant=0):
    """Two providers under three names; who answers what, the model's first letter says.

    :param variant: an even one and an odd one differ in what a reload may change
    """
    odd = variant % 2
    first, last = ("one", "two") if not odd else ("two", "one")
    upstreams = {
        "one": UpstreamConfig(kind="sim", base_url=one, cancel_grace=1.0 if odd else 0.5),
        "two": UpstreamConfig(kind="openai", base_url=two + "/v1", responses=bool(odd)),
        "three": UpstreamConfig(kind="anthropic", base_url=two),
    }

    def asked(*names):
        return [
            CandidateConfig(upstream=name, weight=0.0 if number else 1.0) for number, name in enumerate(names)
        ]

    models = {
        "chain-*": ModelConfig(candidates=asked("one", "two", "three")),
        "openai-*": ModelConfig(candidates=asked("two"), grace=60.0),
        "anthropic-*": ModelConfig(candidates=asked("three"), continuation=ContinuationConfig(attempts=0)),
        "kept-*": ModelConfig(
            candidates=asked(first, last),
            cache=ModelCacheConfig(calls="all", ttl=60.0, stale_if_error=600.0, stale_while_revalidate=60.0),
            join="always",
        ),
    }
    return Config(
        upstreams=upstreams,
        models=models,
        keys=[
            KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
            for name in TENANTS
        ],
        limits=LimitsConfig(
            tenants={
                "poor": LimitConfig(concurrent=2, tokens_per_minute=2_000 + odd, requests_per_minute=30),
                "blue": LimitConfig(concurrent=1_000, tokens_per_minute=10_000_000),
            }
        ),
        retry=RetryConfig(attempts=2, first_delay=0.001, max_delay=0.002, budget_floor=1e6),
        timeouts=TimeoutConfig(first_token=8, between_tokens=8, total=120),
        generations=generations,
        ledger=LedgerConfig(max_rows_in_memory=1_000_000),
        log=LogConfig(requests=False),
    )


class Asked:
    """A question: who asks what of whom, and what the answer must be."""

    def __init__(self, tenant, path, model, words, limit, *, stream, headers=(), background=False):
        self.tenant, self.path, self.model, self.limit, self.stream = tenant, path, model, limit, stream
        self.headers = dict(headers)
        self.background = background
        said = f"{tenant} asks: {words}"
        body = {"model": model, "stream": stream}
        if path == RESPONSES:
            body |= {"input": said, "max_output_tokens": limit}
            if background:
                body["background"] = True
        else:
            body |= {"messages": [{"role": "user", "content": said}], "max_tokens": limit}
        self.body = json.dumps(body).encode()
        self.text = expected_text(body, path, limit)

    @property
    def raw(self):
        return request("POST", self.path, self.tenant, self.body, self.headers)

    def __repr__(self):
        kind = "streamed" if self.stream else "background" if self.background else "plain"
        return f"<Asked by {self.tenant}, {self.path} {self.model} {kind} {self.headers}>"


def request(method, path, tenant, body=b"", headers=()):
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: test",
        "connection: close",
        f"authorization: Bearer {tenant}",
        f"content-length: {len(body)}",
        "content-type: application/json",
        *(f"{name}: {value}" for name, value in dict(headers).items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Answer:
    """What came of one connection, read by h11 and by httpx-sse's decoder.

    ``ended``: whole, as HTTP has it; else the connection broke off, or the caller hung up.
    """

    def __init__(self, raw):
        self.status = 0
        self.headers = {}
        self.ended = False
        body = bytearray()
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
        client.send(h11.EndOfMessage())
        if raw:
            client.receive_data(raw)
        while (event := client.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            match event:
                case h11.Response():
                    self.status = event.status_code
                    self.headers = {name.decode(): value.decode() for name, value in event.headers}
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    self.ended = True
                    break
        self.body = bytes(body)
        self.generation = self.headers.get("penstock-generation", "")
        self.how = self.headers.get("penstock-status", "")
        self.streamed = self.headers.get("content-type", "").startswith("text/event-stream")
        self.events = []  # (id or None, type, data), whole ones only
        if self.streamed:
            self.events = events_of(self.body)

    def __repr__(self):
        return f"<Answer {self.status} {self.how} {self.generation}, ended: {self.ended}, {self.body[-600:]}>"


def events_of(body):
    decoder = SSEDecoder()
    events, own = [], None
    for line in body[: body.rfind(b"\n\n") + 2].decode().split("\n")[:-1]:
        if line.startswith("id:"):
            own = int(line[3:])
        event = decoder.decode(line)
        if event is not None:
            if event.event != "ping":
                events.append((own, event.event, event.data))
            own = None
    return events


class Reading:
    """What some events come to: ``text``, and whether they end in ``done``, an ``error`` (its code), or not at all."""

    def __init__(self, path, events):
        self.text, self.done, self.error, self.finish = "", False, "", ""
        for _, _, data in events:
            assert not self.done, ("something follows the end", events)
            assert not self.error, ("something follows an error", events)
            if data == "[DONE]":
                assert path == CHAT
                assert self.finish, "the terminator without a finish reason"
                self.done = True
                continue
            value = json.loads(data)
            if isinstance(value.get("error"), dict) and value.get("type") != "response.failed":
                self.error = code_of(value)
            elif path == CHAT:
                self._chat(value)
            elif path == MESSAGES:
                self._message(value)
            else:
                self._response(value)

    def _chat(self, value):
        for choice in value["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish = choice["finish_reason"] or self.finish

    def _message(self, value):
        match value["type"]:
            case "content_block_delta":
                self.text += value["delta"]["text"]
            case "message_delta":
                self.finish = value["delta"]["stop_reason"]
            case "message_stop":
                assert self.finish
                self.done = True

    def _response(self, value):
        match value["type"]:
            case "response.output_text.delta":
                self.text += value["delta"]
            case "error":
                self.error = value["code"]
            case "response.completed" | "response.incomplete":
                self.finish = value["type"]
                assert text_of(RESPONSES, value["response"]) == self.text
                self.done = True
            case "response.failed":
                self.error = value["response"]["error"]["code"]


def code_of(value):
    error = value["error"]
    return error.get("code") or error["details"]["error_code"]


def text_of(path, value):
    """Of a plain answer."""
    if path == CHAT:
        (choice,) = value["choices"]
        assert choice["finish_reason"] == "length"
        return choice["message"]["content"]
    if path == MESSAGES:
        assert value["stop_reason"] == "max_tokens"
        return "".join(part["text"] for part in value["content"])
    assert value["status"] == "incomplete"
    return "".join(part["text"] for item in value["output"] for part in item["content"])


class World:
    """The gateway, its providers, and what was seen of it.

    :param store: the file that its answers outlive its process in; empty: none
    :param processes: how many gateways there are over it; callers are led to each in turn
    """

    def __init__(self, store="", processes=1):
        self.processes = processes
        self.connections = 0
        self.generations = (
            GenerationsConfig(durability="disk", path=str(store), kept_for=KEPT_FOR)
            if store
            else GenerationsConfig(kept_for=KEPT_FOR)
        )
        self.clock = FakeClock()
        self.variant = 0
        self.weather = [FAIR, FAIR]
        self.foul = [False, False]  # whether calls may be under way that began in foul weather
        self.owners = {}  # generation: tenant
        self.cancelled = set()  # generations that were, by order
        self._stack = contextlib.AsyncExitStack()

    async def start(self):
        self.simulators = [Simulator(keep=100_000), Simulator(keep=100_000)]
        self.urls = []
        for simulator in self.simulators:
            sock = socket.create_server(("127.0.0.1", 0))
            sock.setblocking(False)
            service = Service(simulator)
            await service.start(sock)
            self._stack.push_async_callback(service.close)
            self.urls.append(f"http://127.0.0.1:{sock.getsockname()[1]}")
        made = config(*self.urls, self.generations)
        self.served = [
            await self._stack.enter_async_context(serving(made, self.clock)) for _ in range(self.processes)
        ]

    @property
    def gateway(self):
        return self.served[0][0]

    async def close(self):
        await self._stack.aclose()

    # ---- what happens to it ----

    def turn(self, which, weather):
        """From now on a provider fails in this way, or does not."""
        self.weather[which] = weather
        self.simulators[which]._defaults = parse(weather, Script())
        self.foul[which] = self.foul[which] or weather != FAIR

    def reload(self):
        self.variant += 1
        for gateway, _ in self.served:
            gateway.reload(config(*self.urls, self.generations, variant=self.variant))

    # ---- callers ----

    async def fetch(self, raw, hang_up=None):
        """Send, and read to the end, or until so many bytes have come; time passes while nothing does."""
        self.connections += 1
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.served[self.connections % self.processes][1]
        )
        got = b""
        try:
            writer.write(raw)
            idle = 0
            while hang_up is None or len(got) < hang_up:
                reading = asyncio.ensure_future(
                    reader.read(65_536 if hang_up is None else hang_up - len(got))
                )
                while not (await asyncio.wait([reading], timeout=0.02))[0]:
                    idle += 1
                    assert idle < 1_000, f"nothing comes, and nothing ends: {raw[:300]} {got[-300:]}"
                    if any(self.foul):
                        self.clock.advance(3.0)
                if not (data := reading.result()):
                    break
                got += data
        finally:
            writer.transport.abort()
        return Answer(got)

    async def ask(self, asked, hang_up=None):
        """Ask, and judge what comes."""
        fair = not any(self.foul)
        answer = await self.fetch(asked.raw, hang_up)
        self.own(answer, asked.tenant)
        if hang_up is None or answer.ended:
            self.judge(asked, answer, fair=fair and asked.tenant != "poor")
        return answer

    def own(self, answer, tenant):
        if answer.generation:
            assert self.owners.setdefault(answer.generation, tenant) == tenant, "another tenant's"

    def judge(self, asked, answer, *, fair):
        """An answer that was read to its end is whole, or says what is wrong."""
        assert answer.ended, (asked, answer)
        error = ""
        if answer.status != 200:
            error = code_of(answer_json(answer))
            assert error in TROUBLES.get(answer.status, ()), (asked, answer)
        elif asked.stream:
            assert answer.streamed
            reading = Reading(asked.path, answer.events)
            assert reading.done or reading.error, ("a stream without an end", asked, answer)
            error = reading.error
            if error:
                assert asked.text.startswith(reading.text), (asked, answer)
            else:
                assert reading.text == asked.text, (asked, answer)
        elif asked.background:
            assert answer_json(answer)["status"] in {"in_progress", "incomplete", "cancelled", "failed"}
        else:
            assert text_of(asked.path, answer_json(answer)) == asked.text, (asked, answer)
        if fair and answer.generation not in self.cancelled:
            assert not error, (asked, answer)
        return error

    # ---- the books ----

    async def settle(self):
        """Until nothing is under way; then nothing may be held, and the ledger says what the bills say."""
        gateways = [gateway for gateway, _ in self.served]
        for _ in range(2_000):
            billing = any(simulator.bill.report()["in_flight"] for simulator in self.simulators)
            idle = all(held(each) == NOTHING and not each.pipeline.waiting for each in gateways)
            if idle and not billing:
                break
            await asyncio.sleep(0.002)
            self.clock.advance(0.5)
        for gateway in gateways:
            pipeline = gateway.pipeline
            assert held(gateway) == NOTHING, [*pipeline.registry]
            assert not pipeline.waiting
            assert not pipeline.registry.waiting()
            assert all(account.in_progress == 0 for account in pipeline.admission.limiter._accounts.values())
        self._balance()
        self.foul = [weather != FAIR for weather in self.weather]

    def _balance(self):
        ledger = {}
        for row in itertools.chain.from_iterable(
            gateway.recorder.ledger.recent(1_000_000) for gateway, _ in self.served
        ):
            if row.outcome in SAVING:
                assert row.cost == 0
                continue
            which = 0 if row.upstream == "one" else 1
            ledger.setdefault((which, row.upstream_model), []).append(row)
        for which, simulator in enumerate(self.simulators):
            for model, billed in simulator.bill.report()["by_model"].items():
                rows = ledger.pop((which, model), [])
                if not any(row.usage.estimated for row in rows):
                    told = (
                        sum(row.usage.input_tokens for row in rows),
                        sum(row.usage.output_tokens for row in rows),
                    )
                    assert told == (billed["input_tokens"], billed["output_tokens"]), (model, billed, rows)
                for row in rows:
                    assert not (row.outcome is Outcome.COMPLETED and row.usage.estimated), row
        assert not [rows for rows in ledger.values() if any(row.status for row in rows)]


def answer_json(answer):
    return json.loads(answer.body)
