"""Questions that mean the same, a gateway that has seen many, and an upstream that answers them; skips without a model."""

import pytest
from serving import COMPLETION, plain

from penstock.cache.semantic.encoder import NoEncoder, packaged
from penstock.config.model import EmbeddingConfig
from penstock.testing import Step

try:
    packaged()
except NoEncoder as missing:
    pytest.skip(str(missing), allow_module_level=True)

ONE, SAME, OTHER = (
    "How do I reset my password?",
    "Hi, what is the way to change my password?",
    "How do I reset my admin password?",
)
PATIENT = EmbeddingConfig(budget=60.0)


def a_question(text, **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def saying(*texts):
    """A script: an answer for each call, in order."""
    script = []
    for text in texts:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        script += [Step.REQUEST, plain({**COMPLETION, "choices": [choice]})]
    return script


def experienced(gateway, count=500):
    """As if so many similar questions had been asked anew, and the kept answer had always been right."""
    resemblance = gateway.pipeline.lookup.resemblance
    original = resemblance._kind

    def kind(name):
        found = original(name)
        for _ in range(count if not found.pooled.count else 0):
            found.pooled.observe(0.8, right=True)
        return found

    resemblance._kind = kind


def content(answer):
    return answer.json()["choices"][0]["message"]["content"]
