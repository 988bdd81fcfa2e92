"""What a configuration may say of credentials, and of the clouds that want them."""

import json

import pytest

from penstock.config.load import parse
from penstock.errors import ConfigError

PLACES = {
    "bedrock": "https://bedrock-runtime.us-west-2.amazonaws.com",
    "vertex": "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5",
    "openai": "https://example.com/v1",
}


def upstream(kind, **more):
    said = {"upstreams": {"up": {"kind": kind, "base_url": PLACES[kind], **more}}}
    return parse(json.dumps(said), environ={}).upstreams["up"]


@pytest.mark.parametrize(("kind", "source"), [("bedrock", "aws"), ("vertex", "google")])
def test_a_cloud_without_a_key_has_the_clouds_credentials(kind, source):
    assert upstream(kind).credentials.source == source
    assert upstream(kind, api_key="key").credentials is None
    assert upstream(kind, headers={"Authorization": "Bearer x"}).credentials is None
    own = upstream(kind, credentials={"source": "file", "file": __file__}).credentials
    assert own.source == "file"


def test_others_have_none_unless_they_say_so():
    assert upstream("openai").credentials is None
    assert upstream("openai", credentials={"source": "entra"}).credentials.source == "entra"


@pytest.mark.parametrize(
    ("kind", "credentials", "where"),
    [
        ("openai", {"source": "command"}, "command"),
        ("openai", {"source": "file"}, "file"),
        ("openai", {"source": "file", "file": "/no/such/file"}, "file"),
        ("openai", {"source": "entra", "region": "here"}, "region"),
        ("openai", {"source": "google", "command": ["a"]}, "command"),
        ("bedrock", {"source": "aws", "access_key": "AKIA"}, "access_key"),
        ("bedrock", {"source": "aws", "secret_key": "s"}, "access_key"),
        ("bedrock", {"source": "gcp"}, "source"),
        ("bedrock", {}, "credentials"),
    ],
)
def test_what_makes_no_sense(kind, credentials, where):
    with pytest.raises(ConfigError) as raised:
        upstream(kind, credentials=credentials)
    assert any(where in str(mistake) for mistake in raised.value.mistakes)


def test_a_key_and_credentials_exclude_each_other():
    with pytest.raises(ConfigError) as raised:
        upstream("openai", api_key="key", credentials={"source": "entra"})
    assert "leave one of them out" in str(raised.value.mistakes[0])


@pytest.mark.parametrize("kind", ["bedrock", "vertex"])
def test_where_a_cloud_is_must_be_said(kind):
    with pytest.raises(ConfigError) as raised:
        parse(f"upstreams: {{up: {{kind: {kind}}}}}", environ={})
    assert "in which region" in str(raised.value.mistakes[0])
