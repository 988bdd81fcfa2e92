"""Questions that mean the same in other words, and questions that look the same and mean something else.

A *matter* is what a question asks for: an intent and what fills its slots.  Two questions have one answer if, and
only if, their matters are equal.  Each intent has several wordings, written without regard to what the gateway's
tables know; a caller also varies the frame ("please", "hi", "can you tell me"), contractions and case.  A near miss
is made of a matter by changing what decides and nothing else: the number, the name, the date, a negation, an
opposite.  It is asked in the very words of the matter that it is confused with, so that only that differs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import msgspec


class Intent(msgspec.Struct, frozen=True):
    """Wordings with slots in braces; ``opposite`` is the intent that a negation or an opposite makes of it."""

    name: str
    wordings: tuple[str, ...]
    slots: Mapping[str, Sequence[str]] = {}


class Matter(msgspec.Struct, frozen=True):
    intent: int
    filled: tuple[tuple[str, str], ...]


_CITIES = ("Paris", "London", "Rome", "Vienna", "Madrid", "Oslo", "Prague", "Lisbon", "Berlin", "Dublin")
_COUNTRIES = ("France", "Spain", "Italy", "Norway", "Austria", "Peru", "Chile", "Japan", "Kenya", "Canada")
_MONTHS = ("January", "March", "May", "June", "August", "October", "November")
_PEOPLE = ("Marie Curie", "Isaac Newton", "Ada Lovelace", "Alan Turing", "Charles Darwin", "Albert Einstein")
_TOOLS = ("Python", "Java", "Rust", "Excel", "PostgreSQL", "Bash", "Go", "Redis")
_AMOUNTS = ("10", "15", "25", "40", "100", "250", "1,000", "1.5")
_MONEY = ("dollars", "euros", "pounds", "yen", "francs")
_DRUGS = ("aspirin", "ibuprofen", "paracetamol", "insulin", "caffeine")

INTENTS: tuple[Intent, ...] = (
    Intent(
        "password",
        (
            "How do I reset my password?",
            "I forgot my password. What do I have to do to get a new one?",
            "What are the steps to change a lost password?",
            "What is the way to reset my password?",
            "How can my password be reset?",
        ),
    ),
    Intent(
        "dark mode on",
        (
            "How do I enable dark mode?",
            "How can I turn on the dark theme?",
            "Where is the setting that switches the screen to dark colours?",
            "What is the way to activate dark mode?",
        ),
    ),
    Intent(
        "dark mode off",
        (
            "How do I disable dark mode?",
            "How can I turn off the dark theme?",
            "Where is the setting that switches the screen back to light colours?",
            "What is the way to deactivate dark mode?",
        ),
    ),
    Intent(
        "capital",
        (
            "What is the capital of {country}?",
            "Tell me the capital of {country}.",
            "Which city is the capital of {country}?",
            "What's the name of {country}'s capital?",
            "In which city does the government of {country} have its seat?",
        ),
        {"country": _COUNTRIES},
    ),
    Intent(
        "currency",
        (
            "Convert {amount} {money} to rupees.",
            "How many rupees are {amount} {money}?",
            "What are {amount} {money} worth in rupees?",
            "If I change {amount} {money}, how many rupees do I get?",
        ),
        {"amount": _AMOUNTS, "money": _MONEY},
    ),
    Intent(
        "flight",
        (
            "How long is the flight from {city} to {other}?",
            "What is the duration of a flight from {city} to {other}?",
            "How much time does it take to fly from {city} to {other}?",
            "How many hours does one sit in the plane from {city} to {other}?",
        ),
        {"city": _CITIES, "other": _CITIES},
    ),
    Intent(
        "born",
        (
            "When was {person} born?",
            "What is {person}'s date of birth?",
            "On which day was {person} born?",
            "What is the birthday of {person}?",
        ),
        {"person": _PEOPLE},
    ),
    Intent(
        "died",
        (
            "When did {person} die?",
            "What is {person}'s date of death?",
            "On which day did {person} die?",
        ),
        {"person": _PEOPLE},
    ),
    Intent(
        "ascending",
        (
            "How do I sort a list in ascending order in {tool}?",
            "What is the way to sort a list ascending in {tool}?",
            "In {tool}, how can the items of a list be put in order from the smallest to the largest?",
        ),
        {"tool": _TOOLS},
    ),
    Intent(
        "descending",
        (
            "How do I sort a list in descending order in {tool}?",
            "What is the way to sort a list descending in {tool}?",
            "In {tool}, how can the items of a list be put in order from the largest to the smallest?",
        ),
        {"tool": _TOOLS},
    ),
    Intent(
        "safe",
        (
            "Is it safe to take {drug} with alcohol?",
            "Can {drug} be taken safely together with alcohol?",
            "Is the combination of {drug} and alcohol without risk?",
        ),
        {"drug": _DRUGS},
    ),
    Intent(
        "unsafe",
        (
            "Is it not safe to take {drug} with alcohol?",
            "Is it unsafe to take {drug} with alcohol?",
            "Is it dangerous to take {drug} with alcohol?",
        ),
        {"drug": _DRUGS},
    ),
    Intent(
        "weather",
        (
            "What is the weather like in {city} in {month}?",
            "How is the weather in {city} in {month}?",
            "What kind of weather should I expect in {city} in {month}?",
            "Tell me about the climate of {city} in {month}.",
        ),
        {"city": _CITIES, "month": _MONTHS},
    ),
    Intent(
        "version",
        (
            "What is new in {tool} {amount}?",
            "What has changed in {tool} {amount}?",
            "Which features did {tool} {amount} bring?",
        ),
        {"tool": _TOOLS, "amount": _AMOUNTS},
    ),
    Intent(
        "refund within",
        (
            "Can I return an item after {amount} days?",
            "Is it possible to send something back after {amount} days?",
            "Do you still take a purchase back when {amount} days have passed?",
        ),
        {"amount": _AMOUNTS},
    ),
    Intent(
        "parcel",
        (
            "Where is my parcel?",
            "My order has still not come. Where is it?",
            "How can I see where my delivery is right now?",
            "What is the way to track my parcel?",
        ),
    ),
    Intent(
        "cancel",
        (
            "How do I cancel my subscription?",
            "What do I have to do to end my subscription?",
            "I want to stop paying every month. How do I unsubscribe?",
            "How can my subscription be cancelled?",
        ),
    ),
    Intent(
        "renew",
        (
            "How do I renew my subscription?",
            "What do I have to do to extend my subscription?",
            "How can my subscription be renewed?",
        ),
    ),
)

_FRAMES = (
    "{}",
    "{}",
    "{}",
    "Hi, {}",
    "Hello! {}",
    "{} Thanks!",
    "Please help: {}",
    "Quick question. {}",
    "I would like to know: {}",
)


def matters() -> list[Matter]:
    """All that can be asked."""
    found: list[Matter] = []
    for number, intent in enumerate(INTENTS):
        found += [
            Matter(number, tuple(zip(intent.slots, values, strict=True)))
            for values in itertools.product(*intent.slots.values())
            if len(set(values)) == len(values)
        ]
    return found


def worded(matter: Matter, wording: int) -> str:
    intent = INTENTS[matter.intent]
    return intent.wordings[wording % len(intent.wordings)].format(**dict(matter.filled))


def asked(matter: Matter, rand: random.Random) -> str:
    """The matter in some words."""
    text = worded(matter, rand.randrange(100))
    if rand.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rand.random() < 0.1:
        text = text.rstrip("?.")
    text = text.replace("What is", "What's") if rand.random() < 0.2 else text
    return rand.choice(_FRAMES).format(text)


_OPPOSITES = {
    "dark mode on": "dark mode off",
    "born": "died",
    "ascending": "descending",
    "safe": "unsafe",
    "cancel": "renew",
}
_OTHERS = _OPPOSITES | {other: one for one, other in _OPPOSITES.items()}
_NUMBER = {intent.name: number for number, intent in enumerate(INTENTS)}


def near_miss(matter: Matter, wording: int, rand: random.Random) -> tuple[Matter, str] | None:
    """Another matter in the same words; None: there is none so near."""
    intent = INTENTS[matter.intent]
    changes = list(intent.slots)
    if intent.name in _OTHERS:
        changes.append("")
    if not changes:
        return None
    change = rand.choice(changes)
    if not change:
        other = Matter(_NUMBER[_OTHERS[intent.name]], matter.filled)
    else:
        now = dict(matter.filled)
        if len(changes) > 1 and {"city", "other"} <= set(changes) and rand.random() < 0.5:
            now["city"], now["other"] = now["other"], now["city"]
        else:
            now[change] = rand.choice([value for value in intent.slots[change] if value not in now.values()])
        other = Matter(matter.intent, tuple(now.items()))
    return other, worded(other, wording)


def questions(count: int, rand: random.Random, *, near: float) -> Iterator[tuple[Matter, str]]:
    """What callers ask, in order.

    :param near: the share of near misses of what was asked within the last 50 calls
    """
    everything = matters()
    rand.shuffle(everything)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(everything))))
    recent: list[tuple[Matter, int]] = []
    for _ in range(count):
        missed = None
        if recent and rand.random() < near:
            missed = near_miss(*rand.choice(recent[-50:]), rand)
        if missed is not None:
            yield missed
            continue
        (matter,) = rand.choices(everything, cum_weights=weights)
        recent.append((matter, rand.randrange(100)))
        yield matter, asked(matter, rand) if rand.random() < 0.8 else worded(*recent[-1])
