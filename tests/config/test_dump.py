"""What people see of a configuration."""

import yaml

from penstock.config.dump import dump, dump_yaml
from penstock.config.model import (
    CandidateConfig,
    Config,
    ModelConfig,
    TLSConfig,
    UpstreamConfig,
    WebhookConfig,
    WebhooksConfig,
)
from penstock.config.secret import Secret

CONFIG = Config(
    control_key=Secret("sk-control"),
    tls=TLSConfig(certificate="c", key="k", key_password=Secret("sk-tls")),
    upstreams={
        "a": UpstreamConfig(kind="sim", api_key=Secret("sk-api"), headers={"Authorization": "sk-header"}),
        "b": UpstreamConfig(kind="sim"),
    },
)


def test_no_secret_is_shown():
    assert "sk-" not in str(dump(CONFIG))
    assert "sk-" not in dump_yaml(CONFIG)


def test_it_shows_that_there_is_a_secret():
    upstreams = dump(CONFIG)["upstreams"]
    assert upstreams["a"]["api_key"] == "…"
    assert upstreams["a"]["headers"] == {"Authorization": "…"}
    assert upstreams["b"]["api_key"] is None


def test_everything_else_is_there_in_the_order_of_the_model():
    shown = dump(CONFIG)
    assert list(shown) == list(Config.__struct_fields__)
    assert shown["listen"] == CONFIG.listen
    assert yaml.safe_load(dump_yaml(CONFIG)) == shown


def test_what_one_provider_alone_takes_is_not_shown_either():
    candidate = CandidateConfig(upstream="a", extra_body={"plugin": {"key": "sk-extra"}})
    shown = dump(Config(upstreams=CONFIG.upstreams, models={"m": ModelConfig(candidates=[candidate])}))
    assert shown["models"]["m"]["candidates"][0]["extra_body"] == {"plugin": "…"}


def test_of_a_webhook_its_host_is_shown():
    """Chats' incoming webhooks have their secret in the path, others a token in the query or a password in front."""
    urls = ["https://hooks.example/services/sk-1?token=sk-2", "http://me:sk-3@[::1]:8443/"]
    endpoints = [WebhookConfig(url=url, secret=Secret("sk-hook")) for url in urls]
    shown = dump(Config(webhooks=WebhooksConfig(endpoints=endpoints)))["webhooks"]["endpoints"]
    assert [one["url"] for one in shown] == ["https://hooks.example/…", "http://[::1]:8443/…"]
    assert "sk-" not in str(shown)
