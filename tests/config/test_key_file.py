"""Keys in a file of their own, which come and go."""

import json
import threading

import pytest

from penstock.config.key_file import KeyNameTaken, add_key, read_keys, remove_key
from penstock.config.keys import hash_key
from penstock.config.load import parse
from penstock.config.model import KeyConfig, LimitConfig
from penstock.errors import ConfigError


def key(name, **members):
    return KeyConfig(name=name, hash=hash_key(f"pk-{name}"), **members)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.jsonl"


def mistakes(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return [line.partition("keys.jsonl: ")[2] for line in caught.value.mistakes]


def test_what_was_added_is_read_and_nothing_usual_is_written(path):
    alice = key("alice", tenant="acme", models=["gpt-*"], limits=LimitConfig(usd_per_day=5))
    add_key(path, key("bob"))
    add_key(path, alice)
    assert read_keys(path) == [key("bob"), alice]
    assert json.loads(path.read_text().splitlines()[0]) == {"name": "bob", "hash": hash_key("pk-bob")}
    assert json.loads(path.read_text().splitlines()[1])["limits"] == {"usd_per_day": 5}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("keys.jsonl.lock").stat().st_mode & 0o777 == 0o600


def test_a_name_is_given_once_and_a_key_can_be_taken_out(path):
    add_key(path, key("alice"))
    with pytest.raises(KeyNameTaken):
        add_key(path, key("alice", tenant="other"))
    path.chmod(0o640)
    assert remove_key(path, "alice")
    assert not remove_key(path, "alice")
    assert read_keys(path) == []
    assert path.stat().st_mode & 0o777 == 0o640


def test_nothing_is_lost_where_several_write(path):
    threads = [threading.Thread(target=add_key, args=[path, key(f"{n}")]) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.name for each in read_keys(path)} == {f"{n}" for n in range(16)}


def test_every_line_that_is_wrong_is_named_and_no_hash_is_shown(path):
    path.write_text('{"name": "a", "hash": "x"}\n\n{"name": 1}\nno JSON: pk-secret\n')
    said = mistakes(read_keys, path)
    assert [line.split(":")[0] for line in said] == ["line 3", "line 4"]
    assert said[1].startswith("line 4: is not one key in JSON, as `penstock key new --file` writes it")
    assert "pk-secret" not in str(said)


def test_a_file_that_is_not_there_is_a_mistake(path):
    assert mistakes(read_keys, path) == [
        "is not there; it may be empty, and `penstock key new --file` makes it"
    ]


CONFIG = """
upstreams: {{sim: {{kind: sim}}}}
models: {{sim: {{candidates: [{{upstream: sim}}]}}}}
keys: [{{name: first, hash: "{hashed}", tier: gold}}]
tiers: {{gold: {{}}, standard: {{}}}}
limits: {{keys: {{first: {{concurrent: 1}}, later: {{concurrent: 2}}}}}}
keys_file: {path}
"""


def config(path):
    return parse(CONFIG.format(hashed=hash_key("pk-first"), path=path))


def test_the_configuration_has_the_keys_of_both_and_each_ones_limits(path):
    add_key(path, key("second", limits=LimitConfig(usd_per_day=1)))
    found = config(path)
    assert [each.name for each in found.keys] == ["first", "second"]
    assert found.limits.keys["second"] == LimitConfig(usd_per_day=1)
    assert found.limits.keys["later"] == LimitConfig(concurrent=2)  # it may come yet


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (KeyConfig(name="", hash=hash_key("x")), "a key has no name"),
        (KeyConfig(name="a", hash="pk-a"), "the hash of 'a' is not 'sha256:'"),
        (KeyConfig(name="first", hash=hash_key("x")), "'first' is the name of two keys"),
        (KeyConfig(name="a", hash=hash_key("pk-first")), "'a' has the hash of another key"),
        (key("a\nb"), r"the name of 'a\nb' has a line end or another control character"),
        (key("a", tenant="b\0"), "the tenant of 'a' has a line end or another control character"),
        (key("a", tier="none"), "'a' is of the tier 'none'"),
        (key("later", limits=LimitConfig()), "'later' has limits here, and in limits.keys"),
    ],
)
def test_what_does_not_fit_the_rest_is_a_mistake(path, wrong, said):
    add_key(path, wrong)
    (line,) = mistakes(config, path)
    assert line.startswith(said)
    assert "pk-" not in line


def test_limits_of_a_key_stand_in_one_place():
    text = CONFIG.format(hashed=hash_key("x"), path="''").replace("tier: gold", "tier: gold, limits: {}")
    with pytest.raises(ConfigError) as caught:
        parse(text.replace(", later: {concurrent: 2}", ""))
    assert "keys[0].limits: stands in limits.keys as well" in caught.value.mistakes[0]
