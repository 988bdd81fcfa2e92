"""Secrets are found, personal data is masked, and what only looks like either is left alone."""

from collections import Counter

import pytest

from penstock.optimize.screening import masked, secrets_in

# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "private key": "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIE",
    "key of a cloud": "AKIA" + "IOSFODNN7EXAMPLE",
    "token of a forge": "ghp_" + "a1B2" * 9,
    "key of a provider": "sk-" + "proj-abcDEF123456_7890xyz",
    "web token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.SflKxwRJSMeKKF2QT4",
    "bearer token": "Authorization: Bearer " + "abcdef0123456789",
    "password in an address": "postgres://admin:" + "hunter22@db.example.org/x",
    "named password": "my password is " + "Tr0ub4dor&3",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_by_its_form(kind):
    assert secrets_in(f"please mend this: {SECRETS[kind]} and thank you") == {kind}


@pytest.mark.parametrize(
    "text",
    [
        "how do I store a password?",
        "the password is wrong",
        "set api_key: and restart",
        "https://example.org/a?b=c@d",
        "an ask-me-anything-session-on-friday-evening",
        "the public key begins with -----BEGIN PUBLIC KEY-----",
    ],
)
def test_talk_about_secrets_is_none(text):
    assert secrets_in(text) == set()


@pytest.mark.parametrize(
    ("text", "left", "kind"),
    [
        ("write to jo.doe+x@mail.example.co.uk!", "write to [email]!", "email"),
        ("IBAN DE89 3704 0044 0532 0130 00, thanks", "IBAN [iban], thanks", "iban"),
        ("card 4111 1111 1111 1111.", "card [card].", "card"),
        ("ssn 078-05-1120", "ssn [social security number]", "social security number"),
        ("call +49 (30) 901820 today", "call [telephone] today", "telephone"),
        ("0044 20 7946 0958", "[telephone]", "telephone"),
        ("from 192.0.2.17 on", "from [ip address] on", "ip address"),
    ],
)
def test_personal_data_is_masked_and_counted(text, left, kind):
    found = Counter()
    assert masked(text, found) == left
    assert found == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 1144 0532 1130 02",  # its check digits are wrong
        "4111 1111 1111 1112",
        "version 1.2.3.4.5 of 2026-11-21",
        "300.1.1.1",
        "3.14159265358979",
        "000-12-3456",
        "@decorator and a @ b",
        "",
    ],
)
def test_what_only_looks_like_it_stays(text):
    found = Counter()
    assert masked(text, found) == text
    assert not found


def test_a_long_hostile_text_takes_no_longer_than_its_length():
    """No pattern goes back over what it has read: a million characters are a matter of a second or two."""
    pieces = (
        "1 ",
        "a@",
        "a.",
        "a@a.",
        "+1 ",
        "DE89 ",
        "eyJa-",
        "eyJ.",
        "a://a:",
        "password=",
        "-----BEGIN A ",
        "1.",
    )
    for piece in pieces:
        text = piece * (100_000 // len(piece))
        secrets_in(text)
        masked(text, Counter())
