"""What a provider says of its limits decides when it is asked again, and never for how long callers hang."""

import asyncio

import pytest
from serving import COMPLETION, PROMPT, call, config, error, on_uvloop, plain, serving

from penstock.config.keys import hash_key
from penstock.config.model import (
    BreakerConfig,
    CandidateConfig,
    ConcurrencyConfig,
    KeyConfig,
    ModelConfig,
    RetryConfig,
    UpstreamConfig,
)
from penstock.testing import FakeClock

LONGEST = 270.0  # seconds: four pauses that are believed, of a minute each, and the steps of this clock
CALLS = 6
TENANTS = ("one", "two")

LIES = {
    "a day": ["Retry-After: 86400"],
    "a day in milliseconds": ["retry-after-ms: 86400000"],
    "a date in the year 9999": ["Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"],
    "a date that is none": ["Retry-After: Fri, 99 Foo 9999 99:99:99 GMT"],
    "infinity": ["Retry-After: inf"],
    "no number": [
        "Retry-After: nan",
        "x-ratelimit-limit-requests: nan",
        "x-ratelimit-remaining-requests: nan",
    ],
    "more than a float holds": [f"Retry-After: 1{'0' * 400}", f"x-ratelimit-remaining-tokens: 1{'0' * 400}"],
    "less than nothing": [
        "Retry-After: -7",
        "x-ratelimit-remaining-requests: -5",
        "x-ratelimit-limit-requests: 5",
    ],
    "a limit of zero": ["x-ratelimit-limit-requests: 0", "x-ratelimit-remaining-requests: 0"],
    "nothing left for ever": [
        "x-ratelimit-limit-requests: 1000",
        "x-ratelimit-remaining-requests: 0",
        "x-ratelimit-reset-requests: 876000h",
    ],
    "a bucket that fills in no time": [
        "x-ratelimit-limit-requests: 1e308",
        "x-ratelimit-remaining-requests: 0",
        "x-ratelimit-reset-requests: 1e-308s",
    ],
    "more left than there is": ["x-ratelimit-limit-requests: 1", "x-ratelimit-remaining-requests: 1000000"],
    "tokens for nobody": ["x-ratelimit-limit-tokens: 100000", "x-ratelimit-remaining-tokens: 0"],
    "anthropic's, reset in the past": [
        "anthropic-ratelimit-requests-limit: 10",
        "anthropic-ratelimit-requests-remaining: 0",
        "anthropic-ratelimit-requests-reset: 1970-01-01T00:00:00Z",
    ],
    "nothing at all": [],
}


class Provider:
    """Says what it says, and says it to everybody."""

    def __init__(self, status, headers):
        self.answer = plain(COMPLETION, headers=headers) if status == 200 else error(status, headers=headers)
        self.asked = 0
        self.port = 0

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.asked += 1
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def answered_within(clock, calling, seconds):
    """How long the slowest of them waited, by the gateway's clock."""
    began = clock.now()
    while not all(task.done() for task in calling):
        for _ in range(3):  # what is under way on sockets takes none of that time
            await asyncio.sleep(0.001)
        if clock.now() - began > seconds:
            for task in calling:
                task.cancel()
            await asyncio.wait(calling)
            return None
        clock.advance(5.0)
    return clock.now() - began


CASES = [(lie, status) for lie in LIES for status in ("200 OK", "429 Too Many Requests")]


@pytest.mark.parametrize(("lie", "status"), [*CASES, ("a day", "503 Service Unavailable")])
def test_nobody_waits_as_long_as_it_pleases_a_provider_and_no_tenant_for_the_other(lie, status):
    async def main():
        clock = FakeClock(90 * 86_400.0)  # of a machine that has run for months
        provider = Provider(int(status[:3]) if status.startswith("200") else status, LIES[lie])
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
        upstream = UpstreamConfig(
            kind="openai",
            base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1",
            concurrency=ConcurrencyConfig(limit=4, start=2),
            breaker=BreakerConfig(),
        )
        settings = config(
            upstreams={"up0": upstream},
            models={"m": ModelConfig(candidates=[CandidateConfig(upstream="up0")])},
            keys=[KeyConfig(name=name, tenant=name, hash=hash_key(f"sk-{name}")) for name in TENANTS],
            retry=RetryConfig(first_delay=0.01, attempts=2),
        )
        async with server, serving(settings, clock) as (gateway, port), asyncio.timeout(60):
            for _ in range(2):  # the second time it is known what it says
                calling = {
                    name: [
                        asyncio.ensure_future(
                            call(port, PROMPT, headers=[f"authorization: Bearer sk-{name}"])
                        )
                        for _ in range(CALLS)
                    ]
                    for name in TENANTS
                }
                took = await answered_within(clock, [*calling["one"], *calling["two"]], LONGEST)
                assert took is not None, repr(gateway.pipeline.snapshot.upstreams["up0"].gate.provider)
                statuses = {name: sorted(task.result().status for task in calling[name]) for name in TENANTS}
                for task in [*calling["one"], *calling["two"]]:
                    answer = task.result()
                    assert answer.status in {200, 429, 503}
                    assert answer.status == 200 or 0 <= float(answer.headers.get("retry-after", 0)) <= 86_400
                if status.startswith("200"):
                    fair = [sum(one == 200 for one in statuses[name]) for name in TENANTS]
                    assert abs(fair[0] - fair[1]) <= 1
            return provider.asked

    assert on_uvloop(main) > 0
