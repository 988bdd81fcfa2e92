"""Questions that mean the same, of callers and models that have nothing to do with each other."""

import asyncio
import hashlib
import json
import random

import numpy as np
import pytest
from gateway_doubles import a_call
from keeping import settings
from serving import COMPLETION, asked, call, on_uvloop, plain, serving

from penstock.cache import keys
from penstock.cache.cache import Cache
from penstock.cache.entry import Entry, Sealer
from penstock.cache.semantic.encoder import NoEncoder, packaged
from penstock.cache.semantic.index import Index
from penstock.cache.tiers.memory import MemoryTier
from penstock.config.model import (
    CacheConfig,
    CandidateConfig,
    EmbeddingConfig,
    KeyConfig,
    ModelCacheConfig,
    ModelConfig,
    SemanticConfig,
)
from penstock.gateway.stages.resemble import Resemblance
from penstock.messages import Tenant, Usage
from penstock.metrics import Registry
from penstock.testing import ScriptedUpstream, Step

try:
    packaged()
except NoEncoder as missing:
    pytest.skip(str(missing), allow_module_level=True)

ASKED = ("How do I reset my password?", "Hi, what is the way to change my password?")


class Alike:
    """Makes the same vector of every text."""

    late = failed = 0

    async def vector(self, _text, _budget=None):
        return np.array([0.6, 0.8], np.float32)

    async def close(self):
        pass


def all_alike(resemblance):
    """As if every text had the same vector, and every answer to a similar question had been right so far."""
    resemblance.embedding = Alike()
    resemblance._is_sure = lambda _similar, _known: True
    return resemblance


def made_for(url, *, version="1", scope="tenant"):
    policy = ModelCacheConfig(semantic=SemanticConfig(verify=0.0), scope=scope)
    made = settings(
        url,
        cache=policy,
        tiers=CacheConfig(embedding=EmbeddingConfig(budget=60.0)),
        keys=[
            KeyConfig(name=name, tenant=name, hash="sha256:" + hashlib.sha256(name.encode()).hexdigest())
            for name in ("red", "blue")
        ],
    )
    made.models["m"] = ModelConfig(
        candidates=[CandidateConfig(upstream="up0", version=version)], cache=policy
    )
    return made


def a_question(text, system="be brief"):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": "m", "messages": messages, "temperature": 0}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, "similar"),
        ({"tenant": "blue"}, "created"),
        ({"tenant": "blue", "scope": "shared"}, "similar"),
        ({"version": "2"}, "created"),
        ({"system": "be verbose"}, "created"),
    ],
    ids=["nothing", "tenant", "tenant, shared", "version", "system prompt"],
)
def test_what_differs_beside_the_words_has_no_answer_in_common(other, said):
    async def main():
        scope = other.get("scope", "tenant")
        async with ScriptedUpstream([[Step.REQUEST, plain(COMPLETION)] * 5] * 2) as upstream:
            async with serving(made_for(upstream.url, scope=scope)) as (gateway, port):
                all_alike(gateway.pipeline.lookup.resemblance)
                await call(port, a_question(ASKED[0]), headers=["authorization: Bearer red"])
                gateway.reload(made_for(upstream.url, version=other.get("version", "1"), scope=scope))
                answer = await call(
                    port,
                    a_question(ASKED[1], other.get("system", "be brief")),
                    headers=[f"authorization: Bearer {other.get('tenant', 'red')}"],
                )
                assert answer.headers["penstock-status"] == said
                assert asked(upstream) == 1 + (said == "created")

    on_uvloop(main)


def test_no_answer_to_a_similar_question_crosses_from_one_tenant_or_version_to_another_in_10_000_calls():
    """Every two texts are as similar as can be, and every answer is trusted."""
    rand = random.Random(7)
    cache = Cache(MemoryTier(1 << 28), (), Sealer(bytes(32), 1 << 20), max_entry_bytes=1 << 20)
    texts = [f"{polite}how do I {verb} my {thing}?" for polite in ("", "Hi, ") for verb, thing in THINGS]
    tenants = [Tenant(name=name) for name in ("a", "b", "ab", "a:b", "shared", "tenant:a", "", "A", "ä")]
    systems, versions = ("be brief", "be verbose", ""), ("1", "2", "")
    questions = [
        a_call(body=json.dumps(a_question(text, system)).encode()) for text in texts for system in systems
    ]

    async def main():
        stage = all_alike(Resemblance(cache, Alike(), Index(100_000), Registry()))
        owner, hits = {}, 0
        for number in range(10_000):
            asking, version = rand.choice(questions), rand.choice(versions)
            asking.tenant = rand.choice(tenants)
            scope = keys.scope_of(asking)
            similar = stage.similar(asking, SemanticConfig(), model_version=version, scope=scope)
            whose = (asking.tenant.name, version, bytes(asking.fields["messages"]).partition(b"user")[0])
            found = await stage.find(similar)
            if found is not None:
                hits += 1
                assert owner[found[0]] == whose
                continue
            key = number.to_bytes(32, "big")
            owner[key] = whose
            cache.put(key, kept())
            stage.keep(asking, similar, key, kept())
        return hits

    assert asyncio.run(main()) > 9_000


THINGS = [("reset", "password"), ("cancel", "order"), ("close", "account"), ("print", "invoice")]


def kept():
    forever = 1e12
    answer = json.dumps(COMPLETION).encode()
    return Entry(
        endpoint="chat",
        model="m",
        upstream="u",
        upstream_model="m",
        stream=False,
        include_usage=False,
        running_usage=False,
        headers=(),
        events=(answer,),
        usage=Usage(),
        cost=0,
        asked=0.0,
        stored=0.0,
        fresh_until=forever,
        kept_until=forever,
        tags=(),
    )
