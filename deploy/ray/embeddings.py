"""Embeddings on a cluster of Ray: OpenAI's ``/v1/embeddings``, computed by Penstock's engine in each replica.

    pip install 'ray[serve]==2.60.0' '.[engine]'
    serve run --app-dir deploy/ray embeddings:build model=/srv/models/all-MiniLM-L6-v2-openvino

Texts of calls that come at about the same time are computed together (``@serve.batch``), and there are as many replicas
as there are calls in progress for (``autoscaling_config``).  To a gateway the whole is an upstream of the kind ``openai``.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from penstock.config.model import LocalConfig
from penstock.engine import embeddings
from penstock.engine.backend import Sampling
from penstock.engine.serve import load
from penstock.errors import NotFound, PenstockError
from penstock.messages import Dialect
from penstock.wire import problems

MOST_TEXTS = 32  # of one batch
LONGEST_WAIT = 0.005  # seconds that a batch waits for more


@serve.deployment(
    max_ongoing_requests=128,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 16,
        "upscale_delay_s": 2,
        "downscale_delay_s": 60,
    },
    ray_actor_options={"num_cpus": 1},
)
class Embeddings:
    """One replica, with a model of its own."""

    def __init__(self, model: str) -> None:
        self._backend = load(LocalConfig(model=model, threads=1))
        self._numbers = itertools.count()

    @serve.batch(max_batch_size=MOST_TEXTS, batch_wait_timeout_s=LONGEST_WAIT)
    async def vectors(self, prompts: list[list[int]]) -> list[bytes]:
        """One for each of several calls' texts; each call of this method brings one."""
        numbers = [next(self._numbers) for _ in prompts]
        for number, prompt in zip(numbers, prompts, strict=True):
            self._backend.add(number, prompt, Sampling())
        found = {progress.number: progress.vector for progress in self._backend.step()}
        return [found[number] for number in numbers]

    async def __call__(self, request: Request) -> Response:
        """As OpenAI's API has it."""
        try:
            if (request.method, request.url.path) != ("POST", "/v1/embeddings"):
                raise NotFound("there is only POST /v1/embeddings")
            body = await request.body()
            asked = embeddings.read(body, self._backend.tokenizer, self._backend.card)
        except PenstockError as error:
            status, _, refusal = problems.render(error, Dialect.OPENAI)
            return Response(refusal, status, media_type="application/json")
        told = await asyncio.gather(*(self.vectors(prompt) for prompt in asked.prompts))
        return Response(embeddings.rendered(asked, told), media_type="application/json")


def build(arguments: dict[str, Any]) -> Any:
    """The application, for ``serve run`` and configuration files; ``model``: its directory."""
    return Embeddings.bind(arguments["model"])
