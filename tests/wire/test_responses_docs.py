"""The page about responses names everything that a request may hold, and what becomes of it."""

import re
from pathlib import Path

import pytest

from penstock.wire.responses._events import SUCCESSFUL_EVENTS
from penstock.wire.responses._prompt import LEFT_OUT, _Body

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "responses.md").read_text()
NAMED = set(re.findall(r"`([\w.]+)", PAGE)) | {name.split(".")[0] for name in re.findall(r"`([\w.]+)", PAGE)}


@pytest.mark.parametrize("name", _Body.__struct_encode_fields__)
def test_every_member_of_a_request_is_named(name):
    assert name in NAMED


@pytest.mark.parametrize("what", LEFT_OUT)
def test_everything_left_out_is_named(what):
    words = re.findall(r"[a-z]+_[a-z_.]+|metadata|store|annotations|logprobs|include|id|status", what)
    assert words
    assert set(words) <= NAMED


@pytest.mark.parametrize("event", sorted(SUCCESSFUL_EVENTS))
def test_every_good_end_is_named(event):
    assert event in NAMED
