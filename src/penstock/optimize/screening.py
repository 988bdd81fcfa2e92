"""What must not be learnt: secrets, for which a conversation is left out, and personal data, which is masked.

Found is what has a form of its own.  Names, addresses, illnesses, what a firm keeps to itself, and passwords that
nobody calls so have none: who knows the data must look for those (:data:`BLIND`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

_SECRETS: dict[str, re.Pattern[str]] = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "key of a cloud": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{35}(?![\w-])"),
    "token of a forge": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|glpat-[\w-]{20,})"),
    "key of a provider": re.compile(
        r"\b(?:sk-[\w-]{20,}|(?:sk|rk)_live_[A-Za-z0-9]{16,}|hf_[A-Za-z0-9]{30,}|xox[abeoprs]-[A-Za-z0-9-]{10,})"
    ),
    "web token": re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"),
    "bearer token": re.compile(r"(?i)\bauthorization\s*:\s*(?:bearer|basic)\s+[\w+/=.~-]{12,}"),
    "password in an address": re.compile(r"(?<![\w+.-])[a-z][a-z0-9+.-]{0,30}://[^\s/:@]+:[^\s/:@]{3,}@"),
    "named password": re.compile(
        r"(?i)\b(?:password|passwd|passphrase|api[_-]?key|secret[_-]?key|client[_-]?secret|access[_-]?token)"
        r"[\"']?\s*(?::|=|\bis\b)\s*[\"']?(?=[^\s\"']{0,100}[\d!#$%&*+@^~-])[^\s\"']{8,}"
    ),
}
_DIGITS = re.compile(r"\d")


def _is_card(found: str) -> bool:
    """ISO/IEC 7812-1, annex B (Luhn)."""
    digits = [int(each) for each in _DIGITS.findall(found)]
    doubled = [each * 2 - 9 * (each > 4) for each in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(found: str) -> bool:
    """ISO 13616: the remainder of 97 is 1."""
    plain = re.sub(r"[ -]", "", found).upper()
    return len(plain) >= 15 and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def _is_number(found: str) -> bool:
    """As many digits as numbers have that can be called from elsewhere (E.164)."""
    return 8 <= len(_DIGITS.findall(found)) <= 15


def _any(_: str) -> bool:
    return True


# In this order: an IBAN has something in it that looks like a telephone number.
_PERSONAL: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"(?<![\w.+%-])[\w.+%-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"), _any),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?\b"), _is_iban),
    "card": (re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\d|\.\d)"), _is_card),
    "social security number": (re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}\b"), _any),
    "telephone": (re.compile(r"(?<![\w.+])(?:\+|00)\d(?:[ ()/.-]{0,2}\d){7,14}(?!\d)"), _is_number),
    "ip address": (
        re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\w)"),
        _any,
    ),
}

SECRETS = tuple(_SECRETS)
PERSONAL = tuple(_PERSONAL)
BLIND = (
    "names, addresses, dates of birth, health, and whatever else has no form of its own",
    "telephone numbers without a country's prefix, and identifiers of most countries",
    "passwords and keys that nobody calls so, and what a firm keeps to itself",
    "what is written in another form: spelled out, encoded, in pieces",
)
"""What is not found."""


def secrets_in(text: str) -> set[str]:
    """The kinds of secrets that stand in a text."""
    return {kind for kind, pattern in _SECRETS.items() if pattern.search(text)}


def masked(text: str, found: Counter[str]) -> str:
    """The text with ``[email]`` and the like in the place of personal data, which is counted in ``found``."""
    for kind, (pattern, is_one) in _PERSONAL.items():

        def mask(match: re.Match[str], kind: str = kind, is_one: Callable[[str], bool] = is_one) -> str:
            if not is_one(match[0]):
                return match[0]
            found[kind] += 1
            return f"[{kind}]"

        text = pattern.sub(mask, text)
    return text
