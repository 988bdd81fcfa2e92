"""Parameters that the configuration gives to the calls of a model: under the name that each API has for them.

They are put among a request's members before anybody looks at these, so that they count as the caller's own: for the
cache, for what calls share, for limits, and in translation.  A parameter for which an API has no name is not put there.
What is there already is not written anew, and a request to which nothing is added keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.config.model import ParametersConfig
from penstock.messages import Endpoint
from penstock.wire import request
from penstock.wire.chat.write_prompt import limit_member
from penstock.wire.not_json import NOT_JSON

_CHAT, _COMPLETIONS = Endpoint.CHAT, Endpoint.COMPLETIONS
_MESSAGES, _RESPONSES, _EMBEDDINGS = Endpoint.MESSAGES, Endpoint.RESPONSES, Endpoint.EMBEDDINGS

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_integer = msgspec.json.Decoder(int).decode
_encode = msgspec.json.Encoder().encode

_ENDPOINTS = (_CHAT, _COMPLETIONS, _MESSAGES, _RESPONSES, _EMBEDDINGS)
_SAMPLED = (_CHAT, _COMPLETIONS)
# A dot leads to a member within a member.  How long an answer may be is not here: see `Parameters._bounded`.
_NAMES: dict[str, dict[Endpoint, str]] = {
    "temperature": dict.fromkeys((*_SAMPLED, _MESSAGES, _RESPONSES), "temperature"),
    "top_p": dict.fromkeys((*_SAMPLED, _MESSAGES, _RESPONSES), "top_p"),
    "top_k": dict.fromkeys((*_SAMPLED, _MESSAGES), "top_k"),
    "stop": {**dict.fromkeys(_SAMPLED, "stop"), _MESSAGES: "stop_sequences"},
    "seed": dict.fromkeys(_SAMPLED, "seed"),
    "frequency_penalty": dict.fromkeys(_SAMPLED, "frequency_penalty"),
    "presence_penalty": dict.fromkeys(_SAMPLED, "presence_penalty"),
    "reasoning_effort": {
        _CHAT: "reasoning_effort",
        _RESPONSES: "reasoning.effort",
        _MESSAGES: "output_config.effort",
    },
    "verbosity": {_CHAT: "verbosity", _RESPONSES: "text.verbosity"},
    "service_tier": dict.fromkeys((_CHAT, _RESPONSES), "service_tier"),
    "dimensions": {_EMBEDDINGS: "dimensions"},
}
# Who says one of these has said in another way how much the model shall think: DeepSeek's and Anthropic's, OpenRouter's.
_OTHER_WAYS: dict[Endpoint, tuple[str, ...]] = {
    _CHAT: ("thinking", "reasoning"),
    _MESSAGES: ("thinking",),
}
# Anthropic's words for what OpenAI has others for; not to think at all is a member of its own there.
_EFFORTS = {"minimal": "low"}


PUT = frozenset(
    {name.partition(".")[0] for names in _NAMES.values() for name in names.values()}
    | {name for endpoint in _ENDPOINTS for name in request.output_limits(endpoint)}
    | {"thinking"}
)
"""The members of a request that can come from here."""


class _Setting(msgspec.Struct, frozen=True):
    """One parameter at one endpoint.  ``inner``: the name within the member; "": the member itself."""

    member: str
    inner: str
    value: msgspec.Raw
    said_by: tuple[str, ...] = ()  # other members that say the same in another way
    replaces: tuple[str, ...] = ()  # those of them that would contradict it

    def put(self, members: dict[str, msgspec.Raw], *, always: bool) -> bool:
        """Whether that changed anything.

        :param always: also where the caller says something else
        """
        if not always and any(_is_said(members, name) for name in self.said_by):
            return False
        replaced = [name for name in self.replaces if members.pop(name, None) is not None] if always else []
        return self._put(members, always=always) or bool(replaced)

    def _put(self, members: dict[str, msgspec.Raw], *, always: bool) -> bool:
        if self.inner:
            return self._put_within(members, always=always)
        there = members.get(self.member)
        if there is not None and (bytes(there) == bytes(self.value) if always else bytes(there) != b"null"):
            return False
        members[self.member] = self.value
        return True

    def _put_within(self, members: dict[str, msgspec.Raw], *, always: bool) -> bool:
        within: dict[str, msgspec.Raw] = {}
        if _is_said(members, self.member):
            try:
                within = _members(members[self.member])
            except NOT_JSON:  # no object: somebody else will say so
                return False
        there = within.get(self.inner)
        if there is not None and (bytes(there) == bytes(self.value) if always else bytes(there) != b"null"):
            return False
        within[self.inner] = self.value
        members[self.member] = msgspec.Raw(_encode(within))
        return True


class Parameters:
    """Those of one model.

    :param defaults: where the caller says nothing
    :param overrides: whatever the caller says
    :param most: tokens of an answer; None: as many as the caller wants
    """

    __slots__ = ("_default_limit", "_defaults", "_fixed_limit", "_most", "_overrides")

    def __init__(
        self, defaults: ParametersConfig | None, overrides: ParametersConfig | None, most: int | None
    ) -> None:
        defaults, overrides = defaults or ParametersConfig(), overrides or ParametersConfig()
        self._defaults = {endpoint: _settings(defaults, endpoint) for endpoint in _ENDPOINTS}
        self._overrides = {endpoint: _settings(overrides, endpoint) for endpoint in _ENDPOINTS}
        self._default_limit, self._fixed_limit = defaults.max_tokens, overrides.max_tokens
        self._most = most

    def __repr__(self) -> str:
        return f"<Parameters: {self._defaults[_CHAT]}, always {self._overrides[_CHAT]}>"

    def completed(
        self, endpoint: Endpoint, fields: Mapping[str, msgspec.Raw], model: str
    ) -> dict[str, msgspec.Raw] | None:
        """The members of a request with these among them; None: nothing is added or changed.

        :param model: an upstream's name for the model, by which a chat's limit is called
        """
        if endpoint not in self._defaults:
            return None
        members = dict(fields)
        changed = False
        for setting in self._overrides[endpoint]:
            changed = setting.put(members, always=True) or changed
        for setting in self._defaults[endpoint]:
            changed = setting.put(members, always=False) or changed
        return members if self._bounded(endpoint, members, model) or changed else None

    def _bounded(self, endpoint: Endpoint, members: dict[str, msgspec.Raw], model: str) -> bool:
        """Set how long the answer may be; whether that changed anything."""
        names = request.output_limits(endpoint)
        if not names or (self._default_limit is self._fixed_limit is self._most is None):
            return False
        said = {name: _integer(members[name]) for name in names if _is_said(members, name)}
        wanted: dict[str, int | None]
        if said:
            wanted = {name: self._fixed_limit or tokens for name, tokens in said.items()}
        else:
            name = limit_member(model) if endpoint is _CHAT else names[0]
            wanted = {name: self._fixed_limit or self._default_limit or self._most}
        changed = False
        for name, tokens in wanted.items():
            bounded = tokens if tokens is None or self._most is None else min(tokens, self._most)
            if bounded is not None and bounded != said.get(name):
                members[name] = msgspec.Raw(b"%d" % bounded)
                changed = True
        return changed


def _settings(config: ParametersConfig, endpoint: Endpoint) -> tuple[_Setting, ...]:
    found = []
    for parameter, names in _NAMES.items():
        value = getattr(config, parameter)
        name = names.get(endpoint)
        if name is None or value is None or value in ("", []):
            continue
        others = _OTHER_WAYS.get(endpoint, ()) if parameter == "reasoning_effort" else ()
        if parameter == "reasoning_effort" and endpoint is _MESSAGES:
            if value == "none":
                name, value = "thinking", {"type": "disabled"}
            value = _EFFORTS.get(value, value) if isinstance(value, str) else value
        member, _, inner = name.partition(".")
        raw = msgspec.Raw(_encode(_shortest(value)))
        found.append(_Setting(member, inner, raw, others, others if endpoint is _CHAT else ()))
    return tuple(found)


def _shortest(value: Any) -> Any:
    """A number without a fraction as callers write it: a question is known by its bytes."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_said(members: Mapping[str, msgspec.Raw], name: str) -> bool:
    """A member that is null counts as absent, as the APIs have it."""
    value = members.get(name)
    return value is not None and bytes(value) != b"null"
