"""Transcripts that a gateway has written become texts to train and to evaluate with.

In this order: those that are meant, without repetitions and conversations that go on in another one, without
secrets, personal data masked, without what is nearly the same.  A conversation is held back or not by its first
question, so that no part of it is trained on and evaluated with at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from penstock.optimize.faults import UnusableText
from penstock.optimize.making import Stamp, made_whole
from penstock.optimize.progress import Tell
from penstock.optimize.screening import BLIND, PERSONAL, SECRETS, masked, secrets_in
from penstock.optimize.steps import loaded
from penstock.transcripts.transcript import Damaged, Message, Transcript, read

TRAIN, HELD_OUT, REPORT = "train.jsonl", "held-out.jsonl", "dataset.json"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which transcripts, and what becomes of them."""

    tenants: tuple[str, ...]
    models: tuple[str, ...] = ()  # as callers named them; none: all
    answered_by: tuple[str, ...] = ()  # upstreams, or their names of their models; none: all
    held_back: float = 0.1  # of the conversations
    similar: float = 0.8  # shingles in common from which one of two goes
    seed: int = 1


class Counts(msgspec.Struct, kw_only=True):
    """What became of the lines that were read."""

    read: int = 0
    damaged: int = 0
    others: int = 0  # of other tenants or models
    repeated: int = 0
    continued: int = 0  # the whole of it stands in a longer one
    with_secrets: int = 0
    near: int = 0  # another one says nearly the same
    train: int = 0
    held_out: int = 0
    secrets: dict[str, int] = {}
    personal: dict[str, int] = {}

    def markdown(self) -> str:
        rows = [
            ("read", self.read),
            ("damaged lines", self.damaged),
            ("of others than asked for", self.others),
            ("repeated", self.repeated),
            ("gone on with in a longer one", self.continued),
            ("left out for a secret", self.with_secrets),
            ("nearly the same as another", self.near),
            ("**to train with**", self.train),
            ("**held back**", self.held_out),
        ]
        lines = ["# Data set", "", "| conversations | |", "|---|--:|"]
        lines += [f"| {name} | {number} |" for name, number in rows]
        lines += ["", "| left out for | |", "|---|--:|"]
        lines += [f"| {kind} | {self.secrets.get(kind, 0)} |" for kind in SECRETS]
        lines += ["", "| masked | |", "|---|--:|"]
        lines += [f"| {kind} | {self.personal.get(kind, 0)} |" for kind in PERSONAL]
        lines += ["", "**Not found**, and to be looked for by who knows the data:", ""]
        lines += [f"- {each}" for each in BLIND]
        return "\n".join(lines) + "\n"


def make(directory: Path, target: Path, wanted: Wanted, tell: Tell) -> Counts:
    """Write a directory with two files of conversations and the report.

    :raises UnusableText: there is nothing to train with, or nothing to hold back
    :raises penstock.optimize.faults.OptimizeError: ``target`` cannot be written
    """
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise UnusableText(f"{directory} {what}: name the one that gateways write transcripts to")
    counts = Counts()
    tell("reading", 0, 0)
    try:
        chosen = list(_chosen(read(directory), wanted, counts))
    except OSError as error:
        raise UnusableText(f"{error.filename or directory} cannot be read: {error.strerror}") from error
    train, held_out = _divided(
        _distinct(_screened(_whole(chosen, counts), counts), wanted, counts, tell), wanted
    )
    counts.train, counts.held_out = len(train), len(held_out)
    if not train or not held_out:
        raise UnusableText(
            f"{directory} gives {len(train)} conversations to train with and {len(held_out)} to hold back, of "
            f"{counts.read} that were read ({counts.others} of others than asked for): record more, or ask for others"
        )
    texts = {TRAIN: _lines(train), HELD_OUT: _lines(held_out)}
    source = blake3(b"".join(texts.values())).hexdigest(16)
    stamp = Stamp("dataset", msgspec.to_builtins(wanted), source)
    with made_whole(target, stamp, room=sum(map(len, texts.values()))) as into:
        for name, text in texts.items():
            (into / name).write_bytes(text)
        (into / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(counts), indent=2))
        (into / "dataset.md").write_text(counts.markdown(), encoding="utf-8")
    return counts


def _chosen(lines: Iterable[Transcript | Damaged], wanted: Wanted, counts: Counts) -> Iterator[Transcript]:
    for line in lines:
        if isinstance(line, Damaged):
            counts.damaged += 1
            continue
        counts.read += 1
        if (
            line.tenant in wanted.tenants
            and (not wanted.models or line.model in wanted.models)
            and (
                not wanted.answered_by
                or not {line.upstream, line.upstream_model}.isdisjoint(wanted.answered_by)
            )
            and line.messages
        ):
            yield line
        else:
            counts.others += 1


_Said = tuple[Message, ...]


def _whole(transcripts: list[Transcript], counts: Counts) -> list[_Said]:
    """Each conversation once, and as far as it went."""
    longer: set[bytes] = set()
    for each in transcripts:
        messages = each.messages
        longer.update(
            _digest(messages[:end])
            for end in range(1, len(messages))
            if messages[end - 1].role == "assistant"
        )
    seen: set[bytes] = set()
    found = []
    for each in transcripts:
        name = _digest(each.messages)
        if name in seen:
            counts.repeated += 1
        elif name in longer:
            counts.continued += 1
        else:
            found.append(each.messages)
        seen.add(name)
    return found


def _screened(conversations: list[_Said], counts: Counts) -> Iterator[_Said]:
    personal: Counter[str] = Counter()
    for messages in conversations:
        kinds = {kind for message in messages for kind in secrets_in(message.content)}
        if kinds:
            counts.with_secrets += 1
            for kind in kinds:
                counts.secrets[kind] = counts.secrets.get(kind, 0) + 1
            continue
        yield tuple(Message(message.role, masked(message.content, personal)) for message in messages)
    counts.personal = dict(personal)


def _distinct(conversations: Iterable[_Said], wanted: Wanted, counts: Counts, tell: Tell) -> Iterator[_Said]:
    near = loaded("near", "Near")(wanted.similar, seed=wanted.seed)
    for number, messages in enumerate(conversations, 1):
        # What all conversations have in common says nothing about two of them.
        if near.is_new("\n".join(each.content for each in messages if each.role != "system")):
            yield messages
        else:
            counts.near += 1
        tell("comparing", number, 0)


def _divided(conversations: Iterable[_Said], wanted: Wanted) -> tuple[list[_Said], list[_Said]]:
    train: list[_Said] = []
    held_out: list[_Said] = []
    for messages in conversations:
        question = next((each.content for each in messages if each.role == "user"), "")
        drawn = blake3(f"{wanted.seed}\n{question}".encode()).digest(length=8)
        is_held_back = int.from_bytes(drawn, "big") < wanted.held_back * 2**64
        (held_out if is_held_back else train).append(messages)
    return train, held_out


def _digest(messages: _Said) -> bytes:
    return blake3(msgspec.json.encode(messages)).digest(length=16)


def _lines(conversations: list[_Said]) -> bytes:
    lines: list[dict[str, Any]] = [{"messages": messages} for messages in conversations]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
