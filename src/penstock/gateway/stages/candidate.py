"""Who can answer a call: an upstream, and its name for the model."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from math import inf

import msgspec

from penstock.config.model import ContinuationConfig, TimeoutConfig
from penstock.config.patterns import match
from penstock.config.sunset import Sunset
from penstock.flow.prefix_blocks import Prompt
from penstock.gateway.stages.allot import Allotment
from penstock.gateway.versions import Sample
from penstock.upstream.http import HTTPUpstream
from penstock.upstream.prompt_cache import PromptCare
from penstock.wire.request import Extra


class Candidate(msgspec.Struct, frozen=True, eq=False):
    """One way to answer; ``model`` is the upstream's name for it, ``route`` the entry in the configuration."""

    upstream: HTTPUpstream
    model: str
    route: str
    version: str
    weight: float
    timeouts: TimeoutConfig
    sole: bool = False  # there is no other for this name
    continuation: ContinuationConfig = ContinuationConfig()
    care: PromptCare | None = None  # for the upstream's prompt cache
    notices: tuple[tuple[bytes, bytes], ...] = ()  # header fields about it, for callers
    sample: Sample | None = None  # where it counts for a version on trial how this goes
    allotment: Allotment | None = None  # what it is limited in
    context_window: int = 0  # tokens of the longest prompt that it takes; 0: that is not known
    extra: Extra = None  # members that it is asked with besides
    prompt: Prompt | None = None  # the call's, where it matters who has the beginning of it


def has_room(candidate: Candidate, now: float, tokens: float = 0.0) -> bool:
    """Whether a call would have its turn there at once."""
    gate = candidate.upstream.gate
    return gate is None or gate.free(candidate.model, tokens, now)


def alone(candidate: Candidate) -> tuple[Candidate, ...]:
    """The only one for a name."""
    return (msgspec.structs.replace(candidate, sole=True),)


def standing_in(candidate: Candidate, first: Candidate) -> tuple[tuple[bytes, bytes], ...]:
    """What callers are told of one that answers in the stead of another: not who either is, but another model's name here."""
    if candidate is first:
        return ()
    said = b"candidate"
    if candidate.route != first.route:
        said = b"model; model=%b" % quoted(candidate.route)
    return ((b"penstock-fallback", said),)


def standing_behind(candidates: Sequence[Candidate]) -> str:
    """What changes when others may give the answers, or are asked otherwise."""
    return msgspec.json.encode(
        [
            [
                candidate.upstream.config.kind,
                candidate.upstream.config.base_url,
                candidate.model,
                candidate.version,
                *sorted(candidate.upstream.config.leave_out),
                *([candidate.extra] if candidate.extra else []),
            ]
            for candidate in candidates
        ]
    ).decode()


def notices_of(sunset: Sunset) -> tuple[tuple[bytes, bytes], ...]:
    """``Deprecation`` (RFC 9745) and ``Sunset`` (RFC 8594)."""
    found = []
    if sunset.deprecated is not None:
        found.append((b"deprecation", b"@%d" % sunset.deprecated))
    if sunset.ends < inf:
        found.append((b"sunset", formatdate(sunset.ends, usegmt=True).encode()))
    return tuple(found)


@lru_cache(1_024)
def signature_of(upstream: str, model: str, version: str) -> tuple[tuple[bytes, bytes], ...]:
    """Who has made an answer.  Never an address, nor more of a name than a header field can hold: callers invent some."""
    said = (b"penstock-upstream", upstream), (b"penstock-model", model), (b"penstock-version", version)
    return tuple((field, _shown(name)) for field, name in said if name)


def _shown(name: str) -> bytes:
    return "".join(character if " " <= character <= "~" else "?" for character in name).encode()


def quoted(name: str) -> bytes:
    """A quoted string of a header field (RFC 9110, 5.6.4)."""
    text = "".join(character for character in name if " " <= character <= "~")
    return b'"%b"' % text.replace("\\", "\\\\").replace('"', '\\"').encode()


def named_there(template: str, pattern: str, model: str) -> str:
    """The upstream's name: "" keeps the caller's, ``*`` stands for what the pattern's ``*`` matched."""
    if not template:
        return model
    star = match(pattern, model) if "*" in pattern else None
    return template if star is None else template.replace("*", star, 1)
