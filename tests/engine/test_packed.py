"""Large matrices in oneDNN's order; `make optimize-tests` runs these."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn  # noqa: E402 - it is there now

from penstock.engine._packed import LEAST, pack  # noqa: E402

WIDTH = 512


class Model(nn.Module):
    """A large matrix, a small one, and a last one whose weights are the embedding's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(1_000, WIDTH)
        self.large = nn.Linear(WIDTH, WIDTH)
        self.small = nn.Linear(WIDTH, WIDTH // 8)
        self.wide = nn.Linear(WIDTH // 8, WIDTH)
        self.head = nn.Linear(WIDTH, 1_000, bias=False)
        self.head.weight = self.embedding.weight
        assert self.small.weight.nbytes < LEAST < self.large.weight.nbytes

    def forward(self, ids):
        return self.head(self.wide(self.small(self.large(self.embedding(ids)))))


@pytest.fixture
def model():
    return Model().eval()


def said(model, ids):
    with torch.inference_mode():
        return model(ids)


IDS = torch.arange(3, 30)


def test_what_is_said_is_the_same_but_for_rounding(model):
    before = said(model, IDS)
    assert pack(model, lambda: torch.allclose(said(model, IDS), before, atol=1e-4))
    assert model.large.weight.is_mkldnn
    assert not model.small.weight.is_mkldnn
    assert torch.allclose(said(model, IDS), before, atol=1e-4)


def test_a_rows_result_has_the_same_bits_whatever_the_others_are(model):
    pack(model, lambda: True)
    alone = torch.cat([said(model.large, row[None]) for row in said(model.embedding, IDS)])
    assert torch.equal(said(model.large, said(model.embedding, IDS)), alone)


def test_weights_that_an_embedding_needs_too_stay_where_they_are(model):
    before = said(model.embedding, IDS)
    pack(model, lambda: True)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(said(model.embedding, IDS), before)


@pytest.mark.parametrize("failure", [False, RuntimeError("no such kernel")])
def test_a_model_that_says_something_else_then_is_left_as_it_was(model, failure):
    def is_same():
        if failure:
            raise failure
        return False

    before, weight = said(model, IDS), model.large.weight.detach().clone()
    assert not pack(model, is_same)
    assert torch.equal(model.large.weight, weight)
    assert torch.equal(said(model, IDS), before)
