"""Which questions lie beside a question, whether or not anybody has asked them yet?

``numbers`` is learnt: where a caller's last three questions of one form differ in one number, and by the same step
(page 4, page 5, page 6), the next one lies a step further.  It is how processors foresee which memory is read next
(stride prefetching: Chen and Baer, IEEE Transactions on Computers 44(5), 1995), with questions in place of addresses.

Anything else is a function of your own, ``package.module:function``: it is given the request's body, decoded, and
gives the bodies of those that will probably be asked soon.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec

from penstock.errors import ConfigError

MAX_FORMS = 4_096  # of questions, of all callers, whose numbers are remembered
MAX_BODY = 64 << 10  # bytes; a longer question's numbers are not looked at
MAX_DIGITS = 9
MOST = 8  # questions that one function may name for one question

Function = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]

log = logging.getLogger(__name__)

_NUMBER = re.compile(rb"\d+")
_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{0,3}\Z")  # its digits are no number


class _Form(msgspec.Struct):
    """The last question of one form."""

    numbers: list[bytes]
    place: int = -1  # of the number that has changed
    step: int = 0


class Neighbours:
    """Names the neighbours of questions."""

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}
        self._complained: set[str] = set()
        self._forms: OrderedDict[bytes, _Form] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Neighbours by {sorted(self._functions)}, {len(self._forms)} forms>"

    def use(self, functions: Mapping[str, Function]) -> None:
        """From now on these may be asked."""
        self._functions = dict(functions)
        self._complained &= self._functions.keys()

    def of(self, caller: str, body: bytes, names: Iterable[str]) -> list[bytes]:
        """The bodies of the questions beside this one.

        :param names: who is asked: ``numbers``, or functions that are in use
        """
        found: list[bytes] = []
        for name in names:
            if ":" in name:
                found += self._named(name, body)
            elif (further := self._further(caller, body)) is not None:
                found.append(further)
        return found

    def _named(self, name: str, body: bytes) -> list[bytes]:
        function = self._functions.get(name)
        if function is None:  # of a configuration that is not in use any more
            return []
        try:
            asked = msgspec.json.decode(body)
            encode = _encoding(asked, body)
            return [encode(each) for each in islice(function(asked), MOST)]
        except Exception as error:
            if name not in self._complained:
                self._complained.add(name)
                log.exception("the neighbours of a question: %s failed (%s)", name, type(error).__name__)
            return []

    def _further(self, caller: str, body: bytes) -> bytes | None:
        """The question a step further; None: its caller does not go in steps."""
        if len(body) > MAX_BODY:
            return None
        found = list(_NUMBER.finditer(body))
        numbers = [number[0] for number in found]
        blank = _NUMBER.sub(b"\0", body)  # JSON has no such byte
        name = hashlib.blake2b(caller.encode() + b"\0" + blank, digest_size=16).digest()
        earlier = self._forms.pop(name, None)
        form = self._forms[name] = _Form(numbers)
        if len(self._forms) > MAX_FORMS:
            self._forms.popitem(last=False)
        if earlier is None:
            return None
        changed = [place for place, number in enumerate(numbers) if number != earlier.numbers[place]]
        if not changed:  # the same question once more
            form.place, form.step = earlier.place, earlier.step
            return None
        place = changed[0]
        number = numbers[place]
        if len(changed) > 1 or len(number) > MAX_DIGITS or len(earlier.numbers[place]) > MAX_DIGITS:
            return None
        form.place, form.step = place, int(number) - int(earlier.numbers[place])
        following = int(number) + form.step
        if (form.place, form.step) != (earlier.place, earlier.step) or following < 0:
            return None
        begin, end = found[place].span()
        if _ESCAPE.search(body[max(0, begin - 5) : begin]):
            return None
        return b"%b%0*d%b" % (
            body[:begin],
            len(number) if number.startswith(b"0") else 1,
            following,
            body[end:],
        )


# How the usual clients write JSON: what is spelt in another way is another question (see cache.keys).
_ENCODINGS: tuple[Callable[[object], bytes], ...] = (
    msgspec.json.encode,  # compact, no escapes: the SDKs, whose HTTP client is httpx; JavaScript
    lambda value: json.dumps(value).encode(),  # requests, aiohttp
    lambda value: json.dumps(value, ensure_ascii=False).encode(),
    lambda value: json.dumps(value, separators=(",", ":")).encode(),
)


def _encoding(value: object, text: bytes) -> Callable[[object], bytes]:
    """The way to write JSON that makes this text of this value."""
    return next((encode for encode in _ENCODINGS if encode(value) == text), _ENCODINGS[0])


def functions(names: Iterable[str]) -> dict[str, Function]:
    """Those of the names that stand for functions, with these.

    :raises ConfigError: one of them is none
    """
    found = {}
    for name in names:
        module, colon, member = name.partition(":")
        if not colon:
            continue
        try:
            function = getattr(importlib.import_module(module), member)
        except Exception as error:
            raise ConfigError(
                f"cache.prefetch.neighbours: {name}: {type(error).__name__}: {error}"
            ) from error
        if not callable(function):
            raise ConfigError(f"cache.prefetch.neighbours: {name} is no function")
        found[name] = function
    return found
