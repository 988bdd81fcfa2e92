"""Several calls in one request, and one answer for each of them: embeddings, completions of the old kind, moderations.

All take a list where they take one input.  The first two number what they answer; results of moderations stand in the
order of the inputs, and an input of several parts (text and images) is a list itself, so such calls go alone.  Inputs
and answers stay the bytes that they were; only ``index`` is written anew.  Of the usage, which is told for the whole request, every call gets a share by
the size of what it sent and got; the shares add up to what was told, to the token.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.messages import JSON, Call, Endpoint, Usage
from penstock.wire.not_json import NOT_JSON

_MODERATIONS = Endpoint.MODERATIONS
_INPUT = {Endpoint.EMBEDDINGS: "input", Endpoint.COMPLETIONS: "prompt", _MODERATIONS: "input"}
_ANSWERS = {Endpoint.EMBEDDINGS: "data", Endpoint.COMPLETIONS: "choices", _MODERATIONS: "results"}

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_integer = msgspec.json.Decoder(int).decode
_object = msgspec.json.Decoder(dict[str, JSON]).decode
_encode = msgspec.json.Encoder().encode

_QUOTE, _BRACKET = ord('"'), ord("[")
_DIGITS = frozenset(b"0123456789")


class Part(msgspec.Struct, frozen=True, eq=False):
    """What one call has to do with a request that it shares.

    ``alike``: calls of which this is the same may share a request; ``answers``: how many its inputs get;
    ``weight``: the size of its inputs; ``longest``: of the largest of them, in bytes or token ids.
    """

    alike: tuple[object, ...]
    inputs: list[msgspec.Raw]
    answers: int
    weight: int
    longest: int


def part_of(call: Call) -> Part | None:
    """How a call could share a request; None: it has to go alone."""
    name = _INPUT.get(call.endpoint)
    if name is None or call.stream:
        return None
    try:
        kind, inputs = _inputs(call.fields[name])
        each = _integer(call.fields["n"]) if "n" in call.fields else 1
    except (*NOT_JSON, KeyError):
        return None  # whoever is asked may make sense of it
    if not inputs or each < 1 or (call.endpoint is _MODERATIONS and kind != "text"):
        return None
    rest = sorted(
        (member, bytes(value)) for member, value in call.fields.items() if member not in {name, "model"}
    )
    sizes = [_size(one) for one in inputs]
    return Part((call.endpoint, kind, *rest), inputs, len(inputs) * each, sum(sizes), max(sizes))


def count_inputs(call: Call) -> int:
    """How many texts, or lists of token ids, a call asks about, each of which is answered by itself; without decoding
    them, for there may be millions.
    """
    value = bytes(call.fields[_INPUT[call.endpoint]])
    if value[:1] != b"[":
        return 1
    first = value[1:].lstrip()[:1]
    if first == b'"':
        return value.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"') // 2
    return value.count(b"[") - 1 if first == b"[" else 1


def _inputs(value: msgspec.Raw) -> tuple[str, list[msgspec.Raw]]:
    """What kind of inputs they are, texts or token ids, and each of them; none if they are of neither kind."""
    first = memoryview(value)[0]
    if first == _QUOTE:
        return "text", [value]
    if first != _BRACKET:
        return "", []
    each = _list(value)
    kinds = {memoryview(one)[0] for one in each}
    if kinds == {_QUOTE}:
        return "text", each
    if kinds == {_BRACKET}:
        return "ids", each
    if kinds and kinds <= _DIGITS:
        return "ids", [value]
    return "", []


def _size(value: msgspec.Raw) -> int:
    text = bytes(value)
    return len(text) - 1 if text[0] == _QUOTE else text.count(b",") + 1


def merged(call: Call, parts: Sequence[Part]) -> dict[str, msgspec.Raw]:
    """The members of the request that these share; ``call`` is one of those they belong to."""
    fields = call.fields.copy()
    fields[_INPUT[call.endpoint]] = msgspec.Raw(_encode([one for part in parts for one in part.inputs]))
    return fields


def split(endpoint: Endpoint, answer: bytes, parts: Sequence[Part]) -> list[bytes] | None:
    """The answer of each call; None: they cannot be told apart."""
    name = _ANSWERS[endpoint]
    try:
        members = _members(answer)
        answers: dict[int, dict[str, msgspec.Raw]] = {}
        sizes: dict[int, int] = {}
        for place, one in enumerate(_list(members[name])):
            item = _members(one)
            index = _integer(item["index"]) if endpoint is not _MODERATIONS else place
            answers[index] = item
            sizes[index] = len(bytes(one))
        usage = _object(members["usage"]) if bytes(members.get("usage", b"null")) != b"null" else None
    except (*NOT_JSON, KeyError):
        return None
    total = sum(part.answers for part in parts)
    if len(answers) != total or set(answers) != set(range(total)):
        return None
    found = []
    output = []
    at = 0
    for part in parts:
        mine = [answers[at + i] for i in range(part.answers)]
        if endpoint is not _MODERATIONS:
            for i, item in enumerate(mine):
                item["index"] = msgspec.Raw(b"%d" % i)
        found.append(_encode(mine))
        output.append(sum(sizes[at + i] for i in range(part.answers)))
        at += part.answers
    shares = _usage_shares(usage, [part.weight for part in parts], output) if usage is not None else None
    bodies = []
    for i, mine_encoded in enumerate(found):
        members[name] = msgspec.Raw(mine_encoded)
        if shares is not None:
            members["usage"] = msgspec.Raw(_encode(shares[i]))
        bodies.append(_encode(members))
    return bodies


# ---- shares ----------------------------------------------------------------------------------------------


def shares_of(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` in whole parts by weight, which add up to it (largest remainders first)."""
    whole = sum(weights)
    if whole <= 0:
        weights, whole = [1] * len(weights), len(weights)
    parts = [total * weight // whole for weight in weights]
    rest = [total * weight % whole for weight in weights]
    for i in sorted(range(len(parts)), key=lambda i: -rest[i])[: total - sum(parts)]:
        parts[i] += 1
    return parts


def split_usage(usage: Usage, parts: Sequence[Part]) -> list[Usage]:
    """A usage in shares by the size of the inputs, marked as estimated."""
    weights = [part.weight for part in parts]
    counts = {
        name: shares_of(value, weights)
        for name, value in msgspec.structs.asdict(usage).items()
        if name != "estimated"
    }
    return [
        Usage(**{name: each[i] for name, each in counts.items()}, estimated=True) for i in range(len(parts))
    ]


def _usage_shares(usage: dict[str, JSON], inputs: list[int], output: list[int]) -> list[dict[str, JSON]]:
    shares: list[dict[str, JSON]] = [{} for _ in inputs]
    for name, value in usage.items():
        weights = output if name.startswith("completion") else inputs
        for share, part in zip(shares, _shares_of_json(value, weights), strict=True):
            share[name] = part
    prompt, made, total = (
        usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if total and _is_count(prompt) and _is_count(made) and total == prompt + made:
        for share in shares:
            share["total_tokens"] = share.get("prompt_tokens", 0) + share.get("completion_tokens", 0)
    return shares


def _shares_of_json(value: JSON, weights: list[int]) -> list[JSON]:
    if _is_count(value):
        return list(shares_of(value, weights))
    if isinstance(value, dict):
        split_members = {name: _shares_of_json(one, weights) for name, one in value.items()}
        return [{name: each[i] for name, each in split_members.items()} for i in range(len(weights))]
    return [value] * len(weights)


def _is_count(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
