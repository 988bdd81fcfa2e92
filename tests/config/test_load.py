"""Reading a configuration: what is right is taken as written, what is wrong is named with its place."""

import datetime as dt
import os
import re

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.keys import hash_key
from penstock.config.load import MAX_BYTES, load, parse
from penstock.config.model import CandidateConfig, Config, TimeoutConfig
from penstock.config.secret import Secret
from penstock.errors import ConfigError

SIM = "upstreams: {sim: {kind: sim}}\n"
HASH = hash_key("somebody's key")
WHSEC = "whsec_" + "A" * 32


def mistakes(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        parse(text, "p.yaml", environ or {})
    return list(caught.value.mistakes)


def only_mistake(text, environ=None):
    (mistake,) = mistakes(text, environ)
    return mistake


# ---- what is right ---------------------------------------------------------------------------------------


def test_a_whole_file_is_read_into_the_model():
    config = parse(
        """
        listen: 0.0.0.0:9000
        workers: 2
        upstreams:
          openai: {kind: openai, api_key: "${KEY}", headers: {X-Team: a}}
        models:
          "gpt-*":
            candidates: [{upstream: openai, weight: 2.5, version: 1.10}]
        keys:
          - {name: alice, hash: HASH, models: [gpt-4o]}
        timeouts: {first_token: 9}
        log: {level: debug}
        """.replace("HASH", HASH),
        environ={"KEY": "sk-1"},
    )
    assert config.listen == "0.0.0.0:9000"
    assert config.workers == 2
    assert config.upstreams["openai"].api_key == Secret("sk-1")
    assert config.upstreams["openai"].headers == {"X-Team": "a"}
    assert config.models["gpt-*"].candidates == [
        CandidateConfig(upstream="openai", weight=2.5, version="1.10")
    ]
    assert config.keys[0].models == ["gpt-4o"]
    assert config.timeouts == TimeoutConfig(first_token=9.0)
    assert config.log.level == "debug"


def test_what_is_not_said_has_the_model_s_defaults():
    assert parse("workers: 1") == Config()


@pytest.mark.parametrize(
    ("upstream", "url"),
    [
        ("{kind: openai}", "https://api.openai.com/v1"),
        ("{kind: anthropic}", "https://api.anthropic.com"),
        ("{kind: sim}", ""),
        ("{kind: openai, base_url: http://localhost:1/v1/}", "http://localhost:1/v1"),
    ],
)
def test_a_base_url_has_one_spelling_and_the_provider_s_own_as_default(upstream, url):
    assert parse(f"upstreams: {{a: {upstream}}}").upstreams["a"].base_url == url


@pytest.mark.parametrize(
    "word", ["no", "yes", "1.10", "010", "12:30", "2026-01-01", "0x10", ".5", "true", "1e3"]
)
def test_where_text_belongs_the_spelling_does_not_matter(word):
    config = parse(SIM + f"models: {{{word}: {{candidates: [{{upstream: sim, version: {word}}}]}}}}")
    assert config.models[word].candidates[0].version == word


@pytest.mark.parametrize(
    ("text", "value"), [("1_000", 1000.0), ("2.5", 2.5), ("+1", 1.0), ("1e2", 100.0), ("0", 0.0)]
)
def test_decimal_numbers_are_numbers(text, value):
    assert parse(f"drain_timeout: {text}").drain_timeout == value


def test_an_empty_section_or_list_has_its_defaults():
    assert parse("upstreams:\nmodels:\nkeys:\nlistener:\nlog:\ntls:\n") == Config()


def test_anchors_aliases_and_merges_are_expanded():
    config = parse(
        """
        upstreams:
          one: &base {kind: sim, cancel_grace: 2, timeouts: &t {total: 5}}
          two: {<<: *base, cancel_grace: 3}
          three: {<<: [{cancel_grace: 4}, *base]}
        timeouts: *t
        """
    )
    assert [u.cancel_grace for u in config.upstreams.values()] == [2.0, 3.0, 4.0]
    assert config.upstreams["three"].timeouts == config.timeouts == TimeoutConfig(total=5.0)


def test_it_does_not_touch_the_process_environment(monkeypatch):
    monkeypatch.setenv("PENSTOCK_TEST_LISTEN", "127.0.0.1:1")
    before = dict(os.environ)
    assert parse("listen: ${PENSTOCK_TEST_LISTEN}").listen == "127.0.0.1:1"
    assert dict(os.environ) == before


# ---- references ------------------------------------------------------------------------------------------


def test_numbers_and_switches_may_be_references_in_quotes_or_not():
    config = parse('workers: ${N}\nlog: {requests: "${B:-false}"}', environ={"N": "3"})
    assert (config.workers, config.log.requests) == (3, False)


def test_an_optional_secret_may_be_missing():
    assert parse("control_key: ${NOBODY:-}", environ={}).control_key is None


def test_an_unset_variable_is_named_with_its_key():
    assert only_mistake("control_key: ${NOBODY}") == (
        "p.yaml:1:14: control_key: environment variable NOBODY is not set"
    )


def test_a_variable_cannot_change_the_structure():
    config = parse("prices: ''\nledger: {path: '${P}'}", environ={"P": "x\n  max_rows_in_memory: 1"})
    assert config.ledger.path == "x\n  max_rows_in_memory: 1"


@pytest.mark.parametrize(
    "text",
    [
        "workers: ${S}",
        "drain_timeout: ${S}",
        "log: {level: '${S}'}",
        "log: {requests: '${S}'}",
        "listen: ${S}",
        "upstreams: {a: {kind: openai, base_url: '${S}'}}",
        'upstreams: {a: {kind: openai, headers: {a: "${S}\\n"}}}',
        "keys: [{name: a, hash: '${S}'}]",
    ],
)
def test_no_message_tells_what_a_variable_holds(text):
    for mistake in mistakes(text, {"S": "h0rse:b@ttery/staple"}):
        assert "h0rse" not in mistake
        assert "staple" not in mistake


def test_no_message_tells_a_key_that_stands_in_the_wrong_place():
    text = "keys: [{name: a, hash: pk-secret}]\ncontrol_key: [sk-secret]\nupstreams: {a: {kind: sk-secret}}"
    found = mistakes(text)
    assert len(found) == 3
    assert not any("secret" in mistake.replace("a secret, such as", "") for mistake in found)


def test_no_message_about_syntax_quotes_the_line():
    assert "sk-secret" not in only_mistake("api_key: 'sk-secret\nb: 1")


# ---- every mistake at once, each with its place -----------------------------------------------------------


def test_all_mistakes_come_at_once_in_the_order_of_the_file():
    found = mistakes(
        """\
workers: 0
upstreams:
  openai:
    kind: openai
    base_urll: https://x
models:
  "gpt-4.1":
    candidates:
      - upstream: opnai
tls: {certificate: /nowhere/c.pem}
"""
    )
    assert found == [
        'p.yaml:1:10: workers: must be at least 1, got "0"',
        "p.yaml:5:5: upstreams.openai.base_urll: unknown key (did you mean base_url?)",
        'p.yaml:9:19: models."gpt-4.1".candidates[0].upstream: there is no upstream opnai (did you mean openai?)',
        "p.yaml:10:6: tls.key: required key is missing",
        "p.yaml:10:20: tls.certificate: /nowhere/c.pem cannot be read: No such file or directory",
    ]


def test_what_no_call_can_be_asked_without_is_not_left_out():
    written = "upstreams: {u: {kind: openai, leave_out: [seed, model]}}"
    assert only_mistake(written).endswith("upstreams.u.leave_out[1]: without its model a call is none")
    written = "upstreams: {u: {kind: openai, leave_out: [stream_options]}}"
    assert "leave_out[0]: stream_options is written anew" in only_mistake(written)


def test_triton_is_told_what_its_models_take_and_nothing_is_left_out():
    assert only_mistake(
        "upstreams: {t: {kind: triton, base_url: 'http://t:8001', leave_out: [seed]}}"
    ).endswith("upstreams.t.leave_out: is not for the kind triton, which is told what its models take")


# ---- what calls are asked with ----


def of_model(section, kind="openai", candidate=""):
    server = "base_url: 'http://t:8001'" if kind == "triton" else "api_key: k"
    return (
        f"upstreams: {{u: {{kind: {kind}, {server}}}}}\n"
        f"models:\n  m:\n    candidates: [{{upstream: u{candidate}}}]\n{section}"
    )


@pytest.mark.parametrize(
    ("section", "mistake"),
    [
        (
            "    parameters: {temprature: 0}",
            "5:18: models.m.parameters.temprature: unknown key (did you mean temperature?)",
        ),
        ("    parameters: {temperature: 3}", 'models.m.parameters.temperature: must be at most 2, got "3"'),
        (
            "    parameters: {reasoning_effort: huge}",
            "expected one of high, low, max, medium, minimal, none, xhigh",
        ),
        ("    overrides: {max_tokens: 0}", 'models.m.overrides.max_tokens: must be at least 1, got "0"'),
        (
            "    parameters: {top_p: 1}\n    overrides: {top_p: 0.5}",
            "models.m.parameters.top_p: is of no use: overrides has it, too",
        ),
        (
            "    parameters: {max_tokens: 9}\n    max_output_tokens: 8",
            "5:30: models.m.parameters.max_tokens: is more than max_output_tokens (8)",
        ),
    ],
)
def test_parameters_that_cannot_be_meant_are_mistakes(section, mistake):
    assert mistake in only_mistake(of_model(section))


@pytest.mark.parametrize(
    "name", ["model", "messages", "stream_options", "n", "tools", "store", "max_tokens", "response_format"]
)
def test_what_penstock_goes_by_is_no_extra(name):
    assert f"candidates[0].extra_body.{name}: is " in only_mistake(
        of_model("", candidate=f", extra_body: {{{name}: 1}}")
    )


def test_triton_is_asked_with_nothing_besides():
    written = of_model("", "triton", ", extra_body: {top_k: 1}")
    assert only_mistake(written).endswith("is not for the kind triton, which is told what its models take")


def test_extras_are_whatever_json_can_say():
    written = """
upstreams: {u: {kind: openai, api_key: k}}
models:
  m:
    candidates:
      - upstream: u
        extra_body:
          whole: 40
          part: 0.5
          large: 1e3
          on: true
          off: null
          quoted: "40"
          word: high
          switch: "true"
          no: no
          set: ${SET}
          deep: {a: [1, {b: x}], c: {}}
          lines: |
            two
            lines
"""
    (candidate,) = parse(written, environ={"SET": "7"}).models["m"].candidates
    assert candidate.extra_body == {
        "whole": 40,
        "part": 0.5,
        "large": 1000.0,
        "on": True,
        "off": None,
        "quoted": "40",
        "word": "high",
        "switch": "true",
        "no": "no",
        "set": "7",
        "deep": {"a": [1, {"b": "x"}], "c": {}},
        "lines": "two\nlines\n",
    }


def test_extras_are_not_nested_without_end():
    deep = "[" * 70 + "]" * 70
    assert "is nested too deep" in only_mistake(of_model("", candidate=f", extra_body: {{a: {deep}}}"))
    assert "YAML tags such as !x have no meaning here" in only_mistake(
        of_model("", candidate=", extra_body: {a: [!x 1]}")
    )


def test_only_who_has_batches_of_its_own_gets_them():
    written = "upstreams: {{u: {{kind: {}, batches: provider, base_url: 'https://h.example/v1'}}}}"
    for kind in ("openai", "anthropic", "sim"):
        parse(written.format(kind))
    for kind in ("triton", "bedrock", "local"):
        assert only_mistake(written.format(kind)).endswith(
            "upstreams.u.batches: provider is for the kinds anthropic, openai, sim"
        )


def test_http2_is_not_for_triton():
    assert only_mistake("upstreams: {t: {kind: triton, base_url: 'http://t:8001', http2: true}}").endswith(
        "upstreams.t.http2: is not for the kind triton, whose gRPC is HTTP/2 by itself"
    )


def test_the_error_says_how_many_and_where():
    with pytest.raises(ConfigError, match=r"^p\.yaml has 2 mistakes$"):
        parse("a: 1\nb: 2", "p.yaml")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        # Types.
        ("workers: many", "1:10: workers", 'expected a whole number, got "many"'),
        ("workers: 1.5", "1:10: workers", "expected a whole number"),
        ("workers: 010", "1:10: workers", "expected a whole number"),
        ("workers: '8'", "1:10: workers", "without quotes"),
        ("workers: 99999999999999999999", "1:10: workers", "out of range"),
        ("workers:", "1:9: workers", "got nothing"),
        ("workers: [1]", "1:10: workers", "expected a whole number, got a list"),
        ("drain_timeout: .inf", "1:16: drain_timeout", "expected a number"),
        ("drain_timeout: .nan", "1:16: drain_timeout", "expected a number"),
        ("drain_timeout: 1e999", "1:16: drain_timeout", "out of range"),
        ("drain_timeout: -1", "1:16: drain_timeout", "must be at least 0"),
        ("log: {requests: yes}", "1:17: log.requests", "expected true"),
        ("log: {requests: 1}", "1:17: log.requests", "expected true or false"),
        ("log: {level: warn}", "1:14: log.level", "did you mean warning?"),
        (
            "upstreams: {g: {kind: gemini}}",
            "1:23: upstreams.g.kind",
            "(gemini is of kind openai, with base_url https://generativelanguage",
        ),
        ("upstreams: {g: {kind: vLLM}}", "1:23: upstreams.g.kind", "vertex (vLLM is of kind openai"),
        ("cache: true", "1:8: cache", "got a single value: cache: {} is it with its defaults"),
        ("log: text", "1:6: log", "expected a section of keys, got a single value"),
        ("upstreams: [a]", "1:12: upstreams", "expected names with their values, got a list"),
        ("keys: {a: b}", "1:7: keys", "expected a list, got a section of keys"),
        ("- a", "1:1", "expected a section of keys, got a list"),
        ("hello", "1:1", "expected a section of keys, got a single value"),
        ("control_key: ''", "1:14: control_key", "is empty"),
        ("listen: !!python/object:os.system x", "1:9: listen", "YAML tags"),
        ("upstreams: !!set {a}", "1:12: upstreams", "the YAML tag"),
        ("log: !custom {}", "1:6: log", "the YAML tag"),
        ("? [a]\n: b", "1:3", "a key must be one word"),
        ("upstreams: {'': {kind: sim}}", "1:13: upstreams", "a name is empty"),
        # Keys.
        ("worker: 1", "1:1: worker", "unknown key (did you mean workers?)"),
        ("ledger: {lease: 2}", "1:10: ledger.lease", "unknown key (there is generations.lease)"),
        ("ledger: {workers: 2}", "1:10: ledger.workers", "unknown key (there is workers at the top)"),
        ("drain_timeout: 30s", "1:16: drain_timeout", 'expected a number without a unit, got "30s"'),
        (
            "cache: {disk_bytes: 1GiB}",
            "1:21: cache.disk_bytes",
            'expected a whole number without a unit, got "1GiB"',
        ),
        ("model_list: []", "1:1: model_list", "and `penstock import-litellm` converts it"),
        ("workers: 1\nworkers: 2", "2:1: workers", "this key stands twice (first in line 1)"),
        (SIM + "models: {a: {fallbacks: []}}", "2:13: models.a.candidates", "required key is missing"),
        # Syntax.
        ("a: [1", "1:6", "is no YAML"),
        ("\tlisten: x", "1:1", "is no YAML"),
        (
            "upstreams: {a: {api_key: ${KEY}}}",
            "1:26",
            'within { } or [ ] a reference must be quoted: "${NAME}"',
        ),
        ("a: [1,\n ${KEY:-x}]", "2:2", 'a reference must be quoted: "${NAME}"'),
        ("a: *nobody", "1:4", "undefined alias"),
        ("a: 1\n---\nb: 2", "2:1", "is no YAML"),
        ("a: \x00", "1:4", "a character that YAML does not allow"),
        # Addresses.
        ("listen: 8080", "1:9: listen", "expected host:port"),
        ("listen: a:99999", "1:9: listen", "the port"),
        ("control: http://a:1", "1:10: control", "without scheme"),
        ("control: 127.0.0.1:8080", "1:10: control", "listen and control are both at"),
        ("listen: :8081", "1:9: listen", "listen and control are both at"),
        # Upstreams.
        ("upstreams: {a: {kind: openai, base_url: api.x.com/v1}}", "1:41: upstreams.a.base_url", "http://"),
        ("upstreams: {a: {kind: openai, base_url: 'http://u:p@h/v1'}}", "1:41", "a user or password"),
        ("upstreams: {a: {kind: openai, base_url: 'http://h/v1?a=b'}}", "1:41", "without a query"),
        ("upstreams: {a: {kind: openai, base_url: 'http://h:x/v1'}}", "1:41", "its port"),
        ("upstreams: {a: {kind: openai, base_url: 'http:///v1'}}", "1:41", "a URL with a host"),
        ("upstreams: {a: {kind: sim, headers: {'a b': c}}}", '1:45: upstreams.a.headers."a b"', "no name"),
        ("upstreams: {a: {kind: sim, headers: {Host: c}}}", "1:44: upstreams.a.headers.Host", "by Penstock"),
        ('upstreams: {a: {kind: sim, headers: {b: "c\\r\\nd"}}}', "1:41", "no header may have"),
        ('upstreams: {a: {kind: sim, api_key: "c\\nd"}}', "1:37: upstreams.a.api_key", "a line end"),
        ("upstreams: {a: {kind: sim, ca_file: /nowhere}}", "1:37: upstreams.a.ca_file", "cannot be read"),
        ("upstreams: {a: {kind: sim, ca_file: /dev/null}}", "1:37: upstreams.a.ca_file", "PEM"),
        # Models.
        ("models: {a: {candidates: []}}", "1:26: models.a.candidates", "nobody would answer"),
        (SIM + "models: {a: {candidates: [{upstream: sim, weight: 0}]}}", "2:26", "every weight is 0"),
        (SIM + "models: {'a*b*': {candidates: [{upstream: sim}]}}", "2:18", "one * at most"),
        (SIM + "models: {a: {candidates: [{upstream: sim, model: x*}]}}", "2:50", "nothing to stand for"),
        (SIM + "models: {a*: {candidates: [{upstream: sim, model: '**'}]}}", "2:51", "one * at most"),
        (
            SIM + "models: {gpt: {candidates: [{upstream: sim}], fallbacks: [gpd]}}",
            "2:59",
            "did you mean gpt?",
        ),
        (SIM + "models: {ab: {candidates: [{upstream: sim}], fallbacks: ['*']}}", "2:58", "is a pattern"),
        (
            SIM + "models: {a: {candidates: [{upstream: sim}], fallbacks: [a]}}",
            "2:57",
            "a falls back on itself",
        ),
        (
            SIM + "models: {a: {candidates: [{upstream: sim}], context_length_fallbacks: [b]}}",
            "2:72: models.a.context_length_fallbacks",
            "there is no model b",
        ),
        (
            SIM + "models: {a: {candidates: [{upstream: sim}], content_filter_fallbacks: [a]}}",
            "2:72: models.a.content_filter_fallbacks",
            "a falls back on itself",
        ),
        (
            SIM + "models: {a: {candidates: [{upstream: sim, context_window: 0}]}}",
            "2:59: models.a.candidates[0].context_window",
            "at least 1",
        ),
        (
            SIM + "models: {a*: {candidates: [{upstream: sim}], fallbacks: [ab]}}",
            "2:58",
            "a* falls back on itself",
        ),
        # Keys.
        ("keys: [{name: a, hash: x}]", "1:24: keys[0].hash", "64 hexadecimal digits"),
        ("keys: [{name: a, hash: pk-x}]", "1:24: keys[0].hash", "looks like the key itself"),
        (f"keys: [{{name: a, hash: {HASH.upper()}}}]", "1:24: keys[0].hash", "in lower case"),
        (f"keys: [{{name: '', hash: {HASH}}}]", "1:15: keys[0].name", "is empty"),
        # The rest.
        ("retry: {first_delay: 20}", "1:22: retry.first_delay", "longer than max_delay"),
        ("prices: /nowhere", "1:9: prices", "cannot be read"),
        ('prices: "a\\0b"', "1:9: prices", "holds NUL"),
        ('keys_file: "a\\0b"', "1:12: keys_file", "holds NUL"),
        ('control_key: "${file:\\0}"', "1:14: control_key", "holds NUL"),
        ('control_key: "\\ud800"', "1:14: control_key", "half of a surrogate pair"),
        ('upstreams: {"\\ud800": {kind: sim}}', "1:13: upstreams: a name", "half of a surrogate pair"),
        ('control_key: "\\UFFFFFFFF"', "1:17: is no YAML", "no character of this number"),
        ("ledger: {path: /nowhere/l.sqlite}", "1:16: ledger.path", "there is no directory /nowhere"),
        ("ledger: {path: /}", "1:16: ledger.path", "/ is a directory; name a file in it"),
        ("files: {directory: /nowhere/files}", "1:20: files.directory", "there is no directory /nowhere"),
        ("files: {directory: /tmp, shared: true}", "1:34: files.shared", "uploads.redis"),
        ("webhooks: {path: /nowhere/w.sqlite}", "1:18: webhooks.path", "there is no directory /nowhere"),
        (
            f"webhooks: {{endpoints: [{{url: 'http://a/', secret: {WHSEC}}}]}}",
            "1:11: webhooks.path",
            "is missing",
        ),
        (
            f"webhooks: {{path: w, endpoints: [{{url: 'ftp://a/', secret: {WHSEC}}}]}}",
            "1:39: webhooks.endpoints[0].url",
            "http",
        ),
        (
            "webhooks: {path: w, endpoints: [{url: 'http://a/', secret: hush-hush}]}",
            "1:60: webhooks.endpoints[0].secret",
            "whsec_ and a key in base64",
        ),
        (
            "webhooks: {path: w, endpoints: [{url: 'http://a/', secret: whsec_c2hvcnQ=}]}",
            "1:60: webhooks.endpoints[0].secret",
            "24 to 64 bytes",
        ),
        (
            f"webhooks: {{path: w, endpoints: [&e {{url: 'http://a/', secret: {WHSEC}}}, *e]}}",
            "1:42: webhooks.endpoints[1].url",
            "twice for one tenant",
        ),
    ],
)
def test_a_mistake_has_its_place_and_its_reason(text, where, what):
    mistake = only_mistake(text)
    assert mistake.startswith(f"p.yaml:{where}")
    assert what in mistake


def test_equal_names_and_hashes_of_keys_are_mistakes():
    found = mistakes(f"keys:\n- {{name: a, hash: {HASH}}}\n- {{name: a, hash: {HASH}}}")
    assert found == [
        "p.yaml:3:10: keys[1].name: is the same as that of keys[0]",
        "p.yaml:3:19: keys[1].hash: is the same as that of keys[0]",
    ]


def test_fallbacks_may_lead_round_in_a_circle():
    text = SIM + (
        "models:\n"
        "  a: {candidates: [{upstream: sim}], fallbacks: [b]}\n"
        "  b: {candidates: [{upstream: sim}], fallbacks: [a]}\n"
    )
    assert parse(text).models["b"].fallbacks == ["a"]


def test_fallbacks_that_meet_again_are_no_circle():
    def model(*fallbacks):
        return f"{{candidates: [{{upstream: sim}}], fallbacks: [{', '.join(fallbacks)}]}}"

    config = parse(SIM + f"models: {{a: {model('b', 'c')}, b: {model('d')}, c: {model('d')}, d: {model()}}}")
    assert config.models["a"].fallbacks == ["b", "c"]


def test_a_long_chain_of_fallbacks_is_no_problem():
    lines = [f"  m{i}: {{candidates: [{{upstream: sim}}], fallbacks: [m{i + 1}]}}" for i in range(2_000)]
    parse(SIM + "models:\n" + "\n".join(lines) + "\n  m2000: {candidates: [{upstream: sim}]}")


def test_what_refers_to_something_wrong_is_not_wrong_as_well():
    found = mistakes("upstreams: {a: {kind: nope}}\nmodels: {m: {candidates: [{upstream: a}]}, n: 3}")
    assert [re.sub(" .*", "", m) for m in found] == ["p.yaml:1:23:", "p.yaml:2:47:"]


# ---- TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate, its key, the key encrypted, and another key."""
    directory = tmp_path_factory.mktemp("pem")
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encodings = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"horse")
    (directory / "cert").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key").write_bytes(key.private_bytes(*encodings, plain))
    (directory / "locked").write_bytes(key.private_bytes(*encodings, locked))
    (directory / "other").write_bytes(other.private_bytes(*encodings, plain))
    return directory


def test_a_certificate_with_its_key_is_taken(pem):
    assert parse(f"tls: {{certificate: {pem}/cert, key: {pem}/key}}").tls is not None
    assert parse(f"tls: {{certificate: {pem}/cert, key: {pem}/locked, key_password: horse}}").tls is not None
    assert parse(f"upstreams: {{a: {{kind: sim, ca_file: {pem}/cert}}}}").upstreams["a"].ca_file


@pytest.mark.parametrize("key", ["other", "locked", "cert"])
def test_a_key_that_does_not_fit_is_a_mistake(pem, key):
    mistake = only_mistake(f"tls: {{certificate: {pem}/cert, key: {pem}/{key}}}")
    assert mistake.startswith("p.yaml:1:6: tls: certificate and key cannot be used")


def test_which_of_both_is_no_pem_is_said(pem, tmp_path):
    (tmp_path / "der").write_bytes(b"\x30\x82")
    said = "is not in PEM: it has no line that begins with -----BEGIN"
    mistake = only_mistake(f"tls: {{certificate: {pem}/cert, key: {tmp_path}/der}}")
    assert mistake.endswith(f" tls.key: {tmp_path}/der {said}")
    both = mistakes(f"tls: {{certificate: {tmp_path}/der, key: {tmp_path}/der}}")
    assert [line.split(": ")[1] for line in both] == ["tls.certificate", "tls.key"]


# ---- files and sizes -------------------------------------------------------------------------------------


def test_load_reads_a_file_and_names_it_in_mistakes(tmp_path):
    file = tmp_path / "penstock.yaml"
    file.write_bytes(b"\xef\xbb\xbfworkers: 3\r\n")
    assert load(file).workers == 3
    file.write_text("worker: 3")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.mistakes[0].startswith(f"{file}:1:1: worker")


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path):
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert reason in caught.value.mistakes[0]


def test_bytes_that_are_no_text_are_a_mistake_with_its_place(tmp_path):
    file = tmp_path / "c"
    file.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.mistakes == (f"{file}:2:4: is not UTF-8 text",)


@pytest.mark.parametrize("text", ["", "\n\n", "# only this\n", "---\n"])
def test_an_empty_file_is_a_mistake_not_a_gateway_without_models(text):
    assert only_mistake(text) == "p.yaml: is empty"


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    file = tmp_path / "c"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="1 mistake"):
        load(file)


def test_aliases_of_aliases_do_not_exhaust_memory():
    many = "[" + ", ".join(["*c"] * 600) + "]"
    models = "\n".join(f"  m{i}: {{candidates: *many}}" for i in range(600))
    text = (
        SIM
        + f"models:\n  a: {{candidates: [&c {{upstream: sim}}]}}\n  b: {{candidates: &many {many}}}\n{models}"
    )
    assert "aliases counted once for each use" in only_mistake(text)


def test_a_merge_with_itself_ends():
    assert "too deep" in " ".join(mistakes("log: &a {<<: *a}"))


def test_deep_nesting_is_a_mistake():
    assert only_mistake("[" * 5_000) == "p.yaml: is nested too deep"


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#?,~ \n\t0.$<", max_size=60))
def test_whatever_the_text_the_answer_is_a_configuration_or_a_config_error(text):
    assert_read_or_refused(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["upstreams", "models", "keys", "tls", "kind", "candidates", "upstream", "hash", "a", "log"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_whatever_the_structure_the_answer_is_a_configuration_or_a_config_error(value):
    assert_read_or_refused(yaml.safe_dump(value))


def assert_read_or_refused(text):
    """Nothing but these two may come of it: a configuration, or an error that names its mistakes."""
    try:
        outcome = parse(text, environ={})
    except ConfigError as error:
        outcome = error.mistakes
    assert isinstance(outcome, Config) or (outcome and all(outcome))


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("generations: {durability: shared}", "generations.durability: shared needs a server"),
        ("generations: {durability: disk, path: /nowhere/at/all.sqlite}", "generations.path"),
        ("generations: {redis: 'http://x'}", "generations.redis: must begin with"),
        ("generations: {durability: forever}", "generations.durability"),
    ],
)
def test_what_generations_cannot_outlive_is_said(tmp_path, text, mistake):
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert any(mistake in line for line in caught.value.mistakes)


@pytest.mark.parametrize(
    "scheme", ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"]
)
def test_the_cache_can_lie_in_a_cluster_and_limits_cannot(scheme):
    url = f"{scheme}://host/" + ("service" if "sentinel" in scheme else "")
    cached = f"cache: {{redis: '{url}', seal_key: secret}}"
    assert parse(cached, "p.yaml", {}).cache.redis.reveal() == url
    limited = f"generations: {{redis: '{url}', durability: shared}}"
    if "cluster" in scheme:
        assert "must begin with redis://, rediss:// or redis+sentinel://" in only_mistake(limited)
    else:
        parse(limited, "p.yaml", {})


@pytest.mark.parametrize(("tier", "what"), [("tier: gol", "gol (did you mean gold?)"), ("", "standard")])
def test_a_key_is_of_a_tier_that_there_is(tier, what):
    key = f"{{name: a, hash: 'sha256:{'0' * 64}', {tier}}}"
    assert f"there is no tier {what}" in " ".join(mistakes(f"tiers: {{gold: {{}}}}\nkeys: [{key}]"))


def test_who_is_limited_is_an_upstream_that_there_is():
    limited = (
        "upstreams: {open: {kind: sim}}\nlimits: {upstreams: {opem: {concurrent: 1}, '*': {concurrent: 1}}}"
    )
    assert "there is no upstream opem (did you mean open?)" in only_mistake(limited)


@pytest.mark.parametrize("section", ["upstreams", "models", "tiers"])
@pytest.mark.parametrize("character", ["\\r\\n", "\\0", "\\e", "\\x7f", "\\x9b", "\\u2028"])
def test_a_name_that_would_end_a_line_or_steer_a_terminal_is_a_mistake(section, character):
    entry = {"upstreams": "{kind: sim}", "models": "{candidates: [{upstream: sim}]}", "tiers": "{}"}[section]
    text = SIM if section != "upstreams" else ""
    (found,) = mistakes(text + f'{section}: {{"a{character}X-Evil: 1": {entry}}}')
    assert "control characters" in found


@pytest.mark.parametrize("member", ["name", "tenant", "tier"])
@pytest.mark.parametrize("character", ["\\n", "\\e", "\\u2028"])
def test_nor_is_a_keys_own_name_or_whose_it_is_one_that_would(member, character):
    key = {"name": "a", "hash": f"sha256:{'0' * 64}", member: f"a{character}b"}
    listed = ", ".join(f'{name}: "{value}"' for name, value in key.items())
    found = only_mistake(f"keys: [{{{listed}}}]")
    assert f"keys[0].{member}" in found
    assert "control characters" in found
