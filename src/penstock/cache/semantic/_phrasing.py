"""What a question is apart from the ways to begin and to end it: "could you tell me how to …, please" is "how …".

Only what changes nothing is taken off or brought to one form here, and in doubt it is left: two questions that should
have become the same and have not cost a hit, two that should not have and have cost a wrong answer.
"""

from __future__ import annotations

import re

LONGEST = 2_000  # characters; what is longer is no question that is asked in many ways


def _all(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), form) for pattern, form in pairs)


_QUESTION = r"(?=(?:how|what|who|where|when|why|which|if|whether)\b)"
_BE = r"(?:is|are|was|were)"
_ONE = r"(?:you|anyone|anybody|someone|somebody)"

# What says nothing, wherever it stands.
_POLITE = _all(
    (r"[\s,]{0,9}\b(?:please|kindly)\b[\s,:]{0,9}", " "),
    (r"(?<=[.!?,;])\s*(?:thanks|thank you|thx)(?: so much| very much| a lot| in advance)?[\s.!]*$", ""),
    (r"\s(?-i:Thanks|Thank you)(?: so much| very much| a lot| in advance)?!\s*$", ""),
    (r"\bwhat's\b", "what is"),
    (r"\b(who|where|when|how|it|that|there|here)'s\b", r"\1 is"),
    (r"\b(\w+)'re\b", r"\1 are"),
    (r"\b(\w+)'ve\b", r"\1 have"),
    (r"\b(\w+)'ll\b", r"\1 will"),
    (r"\bI'm\b", "I am"),
    (r"\bcan't\b|\bcannot\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"\b(\w+)n't\b", r"\1 not"),
    (r"\ba (few|little)\b", r"some_\1"),  # quite another thing without its article
)

# With what a question begins before it begins, again and again until nothing of that is left.
_GREETINGS = _all(
    (
        r"^(?:hi|hello|hey)(?: there| all)?(?:[,!.:]+\s*|\s+(?=(?:how|what|who|where|when|why|is|can|could|do|i)\b))",
        "",
    ),
    (r"^(?:thanks|thank you|thx)(?: so much| very much| a lot| in advance)?[!.,]+\s*", ""),
    (r"^(?:a )?(?:quick |short |simple )?question\s*[:.,-]\s*", ""),
    (r"^(?:help|help me|i need (?:some )?help|i have a question)\s*[:.,!]\s*", ""),
    (r"^(?:so|well|ok|okay)\b[\s,]+", ""),
)

# What comes before a question that is told and not asked ("tell me what …").
_TELLING = _all(
    (rf"^(?:can|could|would|will) {_ONE} (?:tell me\b[\s,:]*|(?:show me|explain|describe) {_QUESTION})", ""),
    (rf"^(?:can|could|would|will) {_ONE} (give|explain|describe)\b", r"\1"),
    (rf"^(?:do|does) {_ONE} know {_QUESTION}", ""),
    (r"^(?:tell me|let me know)\b[\s,:]*", ""),
    (rf"^(?:i am |i was )?(?:wondering|curious)[\s,:]+{_QUESTION}", ""),
    (rf"^i (?:would like|want|need|wish) to (?:know|find out|understand)(?:\s*[:,]\s*|\s+{_QUESTION})", ""),
    (rf"^(?:give me|show me|explain|describe) {_QUESTION}", ""),
)

# A question that is told has another order of words.
_TOLD = _all(
    (
        r"^(?:if|whether) (it|there|this|that|i|we|they|he|she) (is|are|was|were|can|could|should|must|may|will|do|does)\b",
        r"\2 \1",
    ),
    (r"^(how) (?:i|one|somebody) (?:can|could)\b", r"\1 to"),
    (rf"^(what|who|where) (.+) ({_BE})[.?!]*$", r"\1 \3 \2"),
    (rf"^(when|where) ([^,.;]+) ({_BE}) (\w+)[.?!]*$", r"\1 \3 \2 \4"),
    (rf"^(what) ([^,.;]+?) ({_BE}) like\b", r"\1 \3 \2 like"),
    (r"^the\b", "what is the"),
)

# One form for ways to ask the same.
_ASKING = _all(
    (
        r"^i (?:want|need|would like|am trying) to ([^.?!]+)[.?!] how (?:do|can) i do (?:that|this|it)\b",
        r"how_to \1",
    ),
    (r"^how (?:(?:do|can|could) i|(?:does|can|could) (?:one|somebody)|to)\b", "how_to"),
    (r"^what (?:is|are) the (?:ways?|steps) to\b", "how_to"),
    (r"^is there (?:a|any) way to\b", "how_to"),
    (r"^what (?:do i (?:have|need) to|must i|can i) do to\b", "how_to"),
    (r"^(explain|describe)\b(.+?) to (?:me|us)\b[.?!]*$", r"\1\2"),
    (r"^give me the\b", "what is the"),
    (r"^what are\b", "what is"),
    (r"^what is (.+?) like\b", r"how is \1"),
)

_MINE = re.compile(r"\b(?:my|our)\b", re.IGNORECASE)


def core(text: str) -> str:
    """The question itself; its words keep their case."""
    if len(text) > LONGEST:
        return text
    text = _substituted(_POLITE, " ".join(text.split()))
    told = False
    before = None
    while before != text:
        before = text
        text = _substituted(_GREETINGS, text.strip(" ,"))
        for pattern, form in _TELLING:
            text, count = pattern.subn(form, text)
            told = told or bool(count)
    if told:
        text = _substituted(_TOLD, text)
    text = _substituted(_ASKING, text)
    if text.startswith("how_to "):  # whose it is does not change how it is done
        text = _MINE.sub("the", text)
    return text


def _substituted(pairs: tuple[tuple[re.Pattern[str], str], ...], text: str) -> str:
    for pattern, form in pairs:
        text = pattern.sub(form, text)
    return text
