import asyncio

import numpy as np
import pytest

from penstock.cache.semantic.embedding import MAX_BATCH, MAX_WAITING, Embedding, Threaded
from penstock.cache.semantic.encoder import NoEncoder, SentenceEncoder, checked, packaged


class Slow:
    """Encodes when it may."""

    def __init__(self):
        self.batches = []
        self.may = asyncio.Event()

    async def encode(self, texts):
        self.batches.append(list(texts))
        await self.may.wait()
        return np.array([[float(len(text))] for text in texts], np.float32)


async def test_what_comes_while_a_batch_is_made_goes_together():
    slow = Slow()
    embedding = Embedding(slow.encode, 60.0)
    asked = [asyncio.ensure_future(embedding.vector("x" * n)) for n in range(1, MAX_BATCH + 3)]
    await asyncio.sleep(0)
    asked.append(asyncio.ensure_future(embedding.vector("late")))
    slow.may.set()
    found = await asyncio.gather(*asked)
    assert [vector[0] for vector in found] == [*range(1, MAX_BATCH + 3), 4]
    assert [len(batch) for batch in slow.batches][:2] == [MAX_BATCH, 2]
    await embedding.close()


async def test_nobody_waits_longer_than_the_budget():
    slow = Slow()
    embedding = Embedding(slow.encode, 0.01)
    assert await embedding.vector("a") is None
    assert embedding.late == 1
    await embedding.close()


async def test_where_too_much_waits_there_is_no_vector_at_once():
    embedding = Embedding(Slow().encode, 60.0)
    asked = [asyncio.ensure_future(embedding.vector("a")) for _ in range(MAX_BATCH + MAX_WAITING)]
    for _ in range(3):
        await asyncio.sleep(0)
    asked += [asyncio.ensure_future(embedding.vector("a")) for _ in range(MAX_BATCH)]
    await asyncio.sleep(0)
    assert await embedding.vector("b") is None
    await embedding.close()
    assert set(await asyncio.gather(*asked)) == {None}


async def test_whatever_is_wrong_with_the_model_callers_go_on():
    async def encode(texts):
        raise ValueError(texts)

    embedding = Embedding(encode, 60.0)
    assert await embedding.vector("a") is None
    assert await embedding.vector("a") is None
    assert embedding.failed == 2
    await embedding.close()


async def test_a_caller_who_leaves_disturbs_nobody():
    slow = Slow()
    embedding = Embedding(slow.encode, 60.0)
    leaving, staying = (asyncio.ensure_future(embedding.vector(text)) for text in ("a", "bb"))
    await asyncio.sleep(0)
    leaving.cancel()
    slow.may.set()
    assert (await staying)[0] == 2
    await embedding.close()


async def test_the_thread_makes_its_encoder_once():
    made = []

    class Counting:
        def __init__(self):
            made.append(self)

        def encode(self, texts):
            return np.ones((len(texts), 1), np.float32)

    threaded = Threaded(Counting)
    assert made == []
    for _ in range(3):
        await threaded.encode(["a"])
    assert len(made) == 1
    threaded.close()


@pytest.fixture(scope="module")
def encoder():
    try:
        return SentenceEncoder(packaged())
    except NoEncoder as missing:
        pytest.skip(str(missing))


# What the original makes of these pairs, by sentence-transformers, to two digits.
@pytest.mark.parametrize(
    ("one", "other", "similarity"),
    [
        ("How do I enable dark mode?", "How do I disable dark mode?", 0.93),
        ("Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?", 0.99),
        ("Convert 10 USD to EUR", "Convert 100 USD to EUR", 0.91),
    ],
)
def test_it_is_the_model_that_it_claims_to_be(encoder, one, other, similarity):
    vectors = encoder.encode([one, other])
    assert vectors.shape == (2, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(similarity, abs=0.011)


def test_a_text_has_one_vector_whatever_stands_beside_it(encoder):
    alone = encoder.encode(["What is this?"])[0]
    beside = encoder.encode(["What is this?", "something much longer " * 60, ""])[0]
    assert np.allclose(alone, beside, atol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "empty", "another", "cut"])
def test_a_folder_without_a_usable_model_is_refused(encoder, tmp_path, damage):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((encoder.folder / name).read_bytes())
    if damage == "missing":
        (tmp_path / "tokenizer.json").unlink()
        with pytest.raises(NoEncoder, match=r"tokenizer\.json"):
            checked(tmp_path)
        return
    if damage == "empty":
        (tmp_path / "config.json").write_text("{}")
    elif damage == "another":
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    else:
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(NoEncoder):
        SentenceEncoder(checked(tmp_path))
