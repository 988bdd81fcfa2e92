"""Which batch a creation leads to, whichever of two is entered first."""

import asyncio
import itertools

import msgspec
import pytest

from penstock.batches.batch import Batch
from penstock.batches.repeated import RECENT, Naming
from penstock.batches.store import BatchStore
from penstock.errors import KeyReused

numbers = itertools.count()
FIRST = Naming("body", "f", is_key=False, is_retry=False)
RETRY = msgspec.structs.replace(FIRST, is_retry=True)
KEY = Naming("key", "f", is_key=True, is_retry=False)


def a_batch(created):
    return Batch(
        f"batch_{next(numbers)}", "t", "k", (), "/v1/embeddings", "in", "24h", created, 1e12, "out", "err"
    )


def entered(folder, *creations):
    """How many batches there are of some creations, as (when, naming), in the order in which they are entered."""

    async def main():
        store = BatchStore(folder)
        await store.start()
        try:
            found = [await store.add(a_batch(created), naming) for created, naming in creations]
            assert {batch.id for batch in await store.open_batches()} == {batch.id for batch in found}
        finally:
            await store.close()
        return len({batch.id for batch in found})

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("creations", "batches"),
    [
        ([(1.0, FIRST), (2.0, RETRY)], 1),
        ([(2.0, RETRY), (1.0, FIRST)], 1),  # the first one was held up
        ([(3.0, RETRY), (1.0, FIRST), (2.0, RETRY)], 1),
        ([(1.0, FIRST), (2.0, FIRST)], 2),  # twice on purpose
        ([(2.0, FIRST), (1.0, FIRST)], 2),
        ([(1.0, RETRY), (2.0, FIRST)], 2),
        ([(1.0, FIRST), (2.0 + RECENT, RETRY)], 2),
        ([(1.0, None), (2.0, None)], 2),
        ([(1.0, KEY), (1e9, KEY)], 1),
    ],
)
def test_a_retry_and_what_it_repeats_are_one_batch(creations, batches, tmp_path):
    assert entered(tmp_path, *creations) == batches


def test_a_key_of_another_body_is_refused(tmp_path):
    with pytest.raises(KeyReused):
        entered(tmp_path, (1.0, KEY), (2.0, msgspec.structs.replace(KEY, fingerprint="g")))
