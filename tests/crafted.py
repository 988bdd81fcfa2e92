"""Bodies that somebody writes to be taken for another: of each group, none asks what another one asks."""

from __future__ import annotations

CRAFTED = {
    "number forms": [
        b'{"model":"m","messages":[],"n":%b}' % form
        for form in (b"1", b"1.0", b"1e0", b"10E-1", b'"1"', b"true")
    ],
    "numbers that no double has": [
        b'{"model":"m","messages":[],"n":%b}' % form
        for form in (b"0", b"-0", b"0.0", b"1e400", b"1e-400", b"9007199254740992", b"9007199254740993")
    ],
    # composed and decomposed, letters that only look the same, and those that become the same in another form
    "Unicode normal forms": [
        b'{"model":"m","messages":["%b"]}' % text.encode()
        for text in (
            "\u00e9",
            "e\u0301",
            "\u0435\u0301",
            "e",
            "E",
            "\uff45",
            "\ufb01",
            "fi",
            "\u212b",
            "\u00c5",
        )
    ],
    "letters that nobody sees": [
        b'{"model":"m","messages":["%b"]}' % text.encode()
        for text in ("ab", "a\u200bb", "a\u00adb", "a\u2060b", "a\ufeffb", "a b", "a\u00a0b")
    ],
    # which some read as one and the same
    "bytes that are no UTF-8": [
        b'{"model":"m","messages":["%b"]}' % text
        for text in (
            b"\xff",
            b"\xfe",
            b"\xed\xa0\x80",
            b"\xef\xbf\xbd",
            b"?",
            b"\xc3",
            b"\xc1\xa1",
        )
    ],
    # the last of two counts, and in nested objects both stand
    "repeated members of a message": [
        b'{"model":"m","messages":[{"role":"user","role":"system"}]}',
        b'{"model":"m","messages":[{"role":"system","role":"user"}]}',
        b'{"model":"m","messages":[{"role":"user"}]}',
        b'{"model":"m","messages":[{"role":"system"}]}',
    ],
    "repeated members": [
        b'{"model":"m","messages":[],"n":1,"n":2}',
        b'{"model":"m","messages":[],"n":2,"n":1}',
        b'{"model":"m","messages":[]}',
    ],
    "repeated members, written differently": [
        b'{"model":"m","messages":[],"n":3,"\\u006e":4}',
        b'{"model":"m","messages":[],"\\u006e":4,"n":3}',
    ],
    "repeated prompts": [
        b'{"model":"m","messages":["a"],"messages":["b"]}',
        b'{"model":"m","messages":["b"],"messages":["a"]}',
        b'{"model":"m","messages":["a","b"]}',
    ],
    "text that looks like structure": [
        b'{"model":"m","messages":[],"a":"1","b":"2"}',
        b'{"model":"m","messages":[],"a":"1\\",\\"b\\":\\"2"}',
        b'{"model":"m","messages":[],"a\\":\\"1\\",\\"b":"2"}',
        b'{"model":"m","messages":[],"a":{"b":"2"}}',
        b'{"model":"m","messages":[],"a":["b","2"]}',
        b'{"model":"m","messages":[],"a":"[\\"b\\",\\"2\\"]"}',
    ],
    "members that only look like those that do not count": [
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":[],"User":"x"}',
        b'{"model":"m","messages":[],"user ":"x"}',
        b'{"model":"m","messages":[],"user\\u0000":"x"}',
        b'{"model":"m","messages":[{"user":"x"}]}',
        b'{"model":"m","messages":[{"user":"y"}]}',
        b'{"model":"m","messages":[],"u\\u0455er":"x"}',
    ],
    "nesting": [
        b'{"model":"m","messages":[],"a":' + b"[" * depth + b"]" * depth + b"}"
        for depth in (1, 2, 100, 101, 900)
    ],
    "nothing, in many ways": [
        b'{"model":"m","messages":[],"a":%b}' % form
        for form in (b"null", b"false", b"0", b'""', b"[]", b"{}")
    ],
    "order": [
        b'{"model":"m","messages":["a","b"]}',
        b'{"model":"m","messages":["b","a"]}',
        b'{"model":"m","messages":["ab"]}',
    ],
    "order of nested members, which may matter": [
        b'{"model":"m","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"m","messages":[{"content":"x","role":"user"}]}',
    ],
}
