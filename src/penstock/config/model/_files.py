"""What callers keep here, send in pieces, and have run in batches."""

from __future__ import annotations

from penstock.config.model._section import Bytes, Positive, Seconds, Section
from penstock.config.secret import Secret


class FilesConfig(Section, frozen=True):
    """What callers may keep here (`/v1/files`)."""

    # where files and batches are kept, shared by all workers, on a local disk; empty: there are none
    directory: str = ""
    # files are kept where uploads are (`uploads.redis`, and the bucket of `uploads.s3` if there is one), so that every
    # machine has them; those kept in the directory before are not seen then
    shared: bool = False
    max_file_bytes: Bytes = 536_870_912  # a larger one gets 413
    tenant_bytes: Bytes = 10_737_418_240  # all files of one tenant; past it a new one gets 403
    kept_for: Seconds = 2_592_000.0  # a file goes after so long, unless its sender says otherwise; 0: never


class UploadsS3Config(Section, frozen=True):
    """A bucket for what is sent in pieces; see [Where it is kept](topics/resumable-uploads.md#where-it-is-kept)."""

    bucket: str  # its name; it is not made
    prefix: str = ""  # a folder in it; empty: all of it
    endpoint: str = ""  # such as https://minio.example:9000; empty: Amazon's
    region: str = ""  # empty: what the environment says, AWS_REGION, else us-east-1
    # empty: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, or the machine's own role
    access_key: str = ""
    secret_key: Secret | None = None  # with access_key


class UploadsConfig(Section, frozen=True):
    """What is sent in pieces that survive a broken connection; it needs `files.directory`."""

    # a server in which machines share uploads: redis://, rediss:// (TLS) or redis+sentinel://HOST,HOST/SERVICE
    redis: Secret | None = None
    # where the chunks themselves lie; none: in redis if there is one, else in `files.directory`
    s3: UploadsS3Config | None = None
    tenant_bytes: Bytes = 10_737_418_240  # all that one tenant has sent in pieces; past it a new one gets 403
    max_open: Positive = 1_000  # uploads of one tenant that are not complete; past it a new one gets 429
    kept_for: Seconds = 86_400.0  # an upload that is not complete goes so long after its creation
    completed_kept_for: Seconds = 600.0  # a complete one can be asked for its answer for so long
    blocks_kept_for: Seconds = 3_600.0  # what was sent need not be sent again for so long after its last use


class BatchesConfig(Section, frozen=True):
    """How batches are run (`/v1/batches`); they need `files.directory`."""

    max_lines: Positive = 50_000  # requests of one batch
    max_input_bytes: Bytes = 209_715_200  # of its input file
    max_open: Positive = 100  # batches of one tenant that have not ended; past it a new one gets 429
    concurrency: Positive = 8  # requests of one batch under way at once
    worker_concurrency: Positive = 32  # the same of all batches, per worker
    # how long a request that is turned away for pressure (429, 503) is tried again before that is its result
    retry_for: Seconds = 3_600.0
    # what an upstream's own batch has not answered, because its time was over or it was too busy, is called line by
    # line, at the full price, while the window of the batch lasts; false: that is its result
    call_rest: bool = False
