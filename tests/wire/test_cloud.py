import json

import pytest

from penstock.errors import BadRequest
from penstock.wire.cloud import invoked, segment

BODY = b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"a \\u00e4"}],"stream":true}'


def test_the_model_leaves_and_a_version_comes_and_the_rest_stays_as_it_was():
    body = invoked(BODY, "v")
    assert b'[{"role":"user","content":"a \\u00e4"}]' in body
    assert json.loads(body).keys() == {"anthropic_version", "max_tokens", "messages", "stream"}


def test_what_the_caller_says_goes_first():
    body = b'{"model":"m","anthropic_version":"own","anthropic_beta":["x"]}'
    assert json.loads(invoked(body, "v", betas=b"y")) == {"anthropic_version": "own", "anthropic_beta": ["x"]}


def test_what_the_path_says_the_body_does_not():
    assert "stream" not in json.loads(invoked(BODY, "v", path_streams=True))
    assert json.loads(invoked(BODY, "v", keeps_model=True))["model"] == "m"


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5@20250929"),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/x",
            "arn:aws:bedrock:us-east-1:1:inference-profile%2Fx",
        ),
        ("../../secrets?x#y z\r\n", "..%2F..%2Fsecrets%3Fx%23y%20z%0D%0A"),
        ("a;b", "a%3Bb"),
    ],
)
def test_a_name_is_one_segment(model, path):
    assert segment(model) == path


@pytest.mark.parametrize("model", ["", ".", ".."])
def test_a_name_that_is_no_segment(model):
    with pytest.raises(BadRequest):
        segment(model)
