"""Configurations as people get them wrong: lines of a right one, changed, doubled, moved or lost."""

from hypothesis import strategies as st

VALUES = (
    '"\\UFFFFFFFF"', '"\\U00110000"', '"\\uD800"', '"\\0"', '"${file:\\0}"', "''", "~", "true", "-1", "0", "1e999", ".nan",
    ".inf", "9" * 400, "9" * 5_000, "1:30:00", "2026-13-45", "[]", "{}", "[[[]]]", "{a: b}", "&a x", "*a", "!!binary x",
    "!!float x", "!x y", "${X}", "${file:/nope}", "${file:/}", "${", "${}", "http://[", "http://x:99999", "http://x:x",
    "https://", "redis://", "redis+sentinel://", "redis+cluster://a:b", "redis://[", "unix:/x", ":", "0.0.0.0:99999999",
    "*", "[", "a*b", "/dev/null", "sha256:zz", "1GB", "5 s", "1d", "|\n  x", "? a", "%YAML 1.9", "---", "\t",
)  # fmt: skip
KEYS = (
    "<<",
    "~",
    "''",
    "? [a]",
    '"\\0"',
    '"\\uD800"',
    "models",
    "upstreams",
    "kind",
    "1",
    "true",
    "*x",
    "[a]",
    "{a: b}",
)
CHARACTERS = "ab:-[]{}&*!|>'\"%@`#?,~ \t0.$<\\\x85\u2028\ufeff\x00é"


@st.composite
def mutated(draw, texts):
    """One of these texts, with one to three edits."""
    lines = draw(st.sampled_from(texts)).split("\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        key, colon, value = line.partition(":")
        match draw(
            st.sampled_from(["value", "value", "value", "key", "double", "lose", "character", "indent"])
        ):
            case "value" if colon:
                lines[at] = f"{key}: {draw(st.sampled_from(VALUES))}"
            case "key" if colon:
                indent = key[: len(key) - len(key.lstrip(" -"))]
                lines[at] = f"{indent}{draw(st.sampled_from(KEYS))}:{value}"
            case "double":
                lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
            case "lose" if len(lines) > 1:
                del lines[at]
            case "character":
                place = draw(st.integers(0, len(line)))
                rest = line[place + draw(st.integers(0, 1)) :]
                lines[at] = line[:place] + draw(st.sampled_from(CHARACTERS)) + rest
            case "indent":
                lines[at] = "  " * draw(st.integers(0, 3)) + line.lstrip()
    return "\n".join(lines)
