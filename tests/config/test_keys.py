"""Callers' keys."""

import hashlib

from penstock.config.keys import HASH, hash_key, new_key


def test_a_key_has_a_prefix_and_256_random_bits():
    key = new_key()
    assert key.startswith("pk-")
    assert len(key) == 3 + 43
    assert key.isascii()
    assert len({new_key() for _ in range(100)}) == 100


def test_its_hash_is_sha256_in_the_form_that_the_configuration_takes():
    hashed = hash_key("pk-x")
    assert hashed == "sha256:" + hashlib.sha256(b"pk-x").hexdigest()
    assert HASH.match(hashed)
    assert not HASH.match(hashed + "\n")
