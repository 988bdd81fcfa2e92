"""``penstock check``."""

import pytest
import yaml

GOOD = """
upstreams:
  openai: {kind: openai, api_key: sk-secret}
  spare: {kind: sim, batches: provider}
files: {directory: kept}
models:
  "gpt-*":
    candidates: [{upstream: openai, weight: 3}, {upstream: spare, model: tiny}]
  a: {candidates: [{upstream: openai}], fallbacks: [gpt-4o]}
  b: {candidates: [{upstream: openai}], context_length_fallbacks: [a, gpt-x], content_filter_fallbacks: [a]}
keys: [{name: alice, hash: "sha256:%s", tenant: t}]
""" % ("0" * 64)


def test_a_right_file_is_summed_up_without_secrets(penstock, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    status, out, err = penstock("check", file)
    assert (status, err) == (0, "")
    assert out.startswith(f"{file}: OK\n")
    assert "openai: openai, https://api.openai.com/v1, with a key" in out
    assert "spare: sim, a process of its own, without a key\n      runs lines of batches in batches of" in out
    assert "gpt-* → openai ×3, spare/tiny" in out
    assert "a → openai; else gpt-4o" in out
    assert "b → openai; too long: a, gpt-x; filtered: a" in out
    assert "alice: tenant t, tier standard, every model" in out
    assert "secret" not in out


def test_all_of_it_can_be_shown_without_secrets(penstock, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(GOOD)
    status, out, _ = penstock("check", file, "--show")
    assert status == 0
    assert yaml.safe_load(out)["upstreams"]["openai"]["api_key"] == "…"
    assert "secret" not in out


def test_mistakes_go_to_standard_error_with_status_1(penstock, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("worker: 1\nlisten: x\n")
    status, out, err = penstock("check", file)
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"{file}:1:1: worker: unknown key (did you mean workers?)",
        f"{file}:2:9: listen: expected host:port, such as 127.0.0.1:8080",
        f"penstock: {file} has 2 mistakes",
    ]


def test_the_price_table_is_checked_too(penstock, tmp_path):
    prices = tmp_path / "prices.toml"
    file = tmp_path / "p.yaml"
    file.write_text(f"prices: {prices}")
    prices.write_text('[[price]]\nmodels = ["flux-*"]\ninput = 0\nimage = -1\n')
    status, out, err = penstock("check", file)
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == f"{prices}: flux-*: image = -1 is not a price"
    prices.write_text('[[price]]\nmodels = ["flux-*"]\ninput = 0\nimages = 1\n')
    assert penstock("check", file)[0] == 1
    prices.write_text('[[price]]\nmodels = ["flux-*"]\ninput = 0\nimage = 1\n')
    assert penstock("check", file)[0] == 0


def test_what_is_probably_not_meant_is_noted(penstock, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("workers: 1")
    status, _, err = penstock("check", file)
    assert status == 0
    assert err == f"{file}: note: models is empty: every call will be answered with 404\n"


def test_without_a_word_it_checks_the_file_in_the_working_directory(penstock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "penstock.yaml: cannot be read" in penstock("check").err


PROXIED = "upstreams: {openai: {kind: openai, api_key: k, proxy: environment}}\nmodels: {m: {candidates: [{upstream: openai}]}}\n"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        (
            "https_proxy",
            "http://me:secret@proxy.corp:3128",
            ", through http://proxy.corp:3128, as this environment",
        ),
        ("http_proxy", "http://proxy.corp:3128", ", directly, as this environment has it"),
    ],
)
def test_what_the_environment_says_of_proxies_is_told(penstock, tmp_path, monkeypatch, variable, value, told):
    for each in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(each, raising=False)
        monkeypatch.delenv(each.upper(), raising=False)
    monkeypatch.setenv(variable, value)
    file = tmp_path / "p.yaml"
    file.write_text(PROXIED)
    status, out, _ = penstock("check", file)
    assert status == 0
    assert told in out
    assert "secret" not in out


def test_a_proxy_of_the_environment_that_is_none_is_a_mistake(penstock, tmp_path, monkeypatch):
    """As `penstock serve` would find."""
    monkeypatch.setenv("https_proxy", "socks5://me:secret@proxy.corp:1080")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    file = tmp_path / "p.yaml"
    file.write_text(PROXIED)
    status, out, err = penstock("check", file)
    assert (status, out) == (1, "")
    assert "upstreams.openai.proxy: HTTPS_PROXY of the environment must begin with http://" in err
    assert "secret" not in err
