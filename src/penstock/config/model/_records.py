"""What is written down of calls: the ledger, transcripts, traces and the log."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from penstock.config.model._section import Bytes, Positive, Section, Share
from penstock.config.secret import Secret


class LedgerConfig(Section, frozen=True):
    """Where attempts are recorded; ``path: ""`` keeps them in memory only."""

    path: str = ""  # a SQLite file; empty: in memory only
    # older rows are deleted from the file; 0: none ever
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_rows_in_memory: Positive = 1_000  # older rows are only in the file, or gone


class TranscriptsConfig(Section, frozen=True):
    """Conversations written down to train a smaller model with, of tenants that have agreed to it."""

    # where they are kept, in files that only this user can read; empty: nothing is written down
    directory: str = ""
    tenants: list[str] = []  # who has agreed; empty: nobody
    models: list[str] = []  # names and patterns of the models whose answers count; empty: all
    share: Share = 1.0  # of the conversations
    kept_for: Annotated[float, msgspec.Meta(ge=60)] = 2_592_000.0  # nothing stays longer
    max_bytes: Bytes = 1_073_741_824  # of all files; the oldest make room
    file_bytes: Bytes = 16_777_216  # of one file; then the next is begun


class TracesConfig(Section, frozen=True):
    """Where spans of calls and attempts are sent, by OTLP over HTTP; needs the extra ``otel``."""

    endpoint: str = ""  # a collector's address, to which /v1/traces is added; empty: nothing is traced
    headers: dict[str, Secret] = {}  # sent along, such as a key
    sample: Share = 1.0  # of the calls; one whose caller tells of its own trace is recorded if that is
    service_name: str = "penstock"  # what the gateway is called in traces


class LogConfig(Section, frozen=True):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"  # what is less important is not logged
    format: Literal["json", "text"] = "json"  # one JSON object per line, or text for people
    requests: bool = True  # one line per request
