"""Names of those who speak, where an upstream's messages bear none."""

import json

import pytest

from penstock.errors import Untranslatable
from penstock.wire import anthropic, chat, converse
from penstock.wire.conversation import Image, Text, Turn
from penstock.wire.speakers import in_words


def test_turns_without_names_stay_as_they_are():
    turns = (Turn("system", (Text("s"),)), Turn("user", (Text("a"),)))
    assert in_words(turns) is turns


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (Turn("user", (Text("hi"),), "alice"), (Text("alice: hi"),)),
        (
            Turn("user", (Text("hi", {"type": "ephemeral"}),), "bob"),
            (Text("bob: hi", {"type": "ephemeral"}),),
        ),
        (Turn("user", (Image(url="u"), Text("hi")), "bob"), (Text("bob:"), Image(url="u"), Text("hi"))),
        (Turn("user", (), "bob"), (Text("bob: "),)),
        (Turn("system", (Text("2+2?"),), "example_user"), (Text("example_user: 2+2?"),)),
        (Turn("user", (Text("hi"),), "user"), (Text("hi"),)),
        (Turn("assistant", (Text("hi"),), "writer"), (Text("hi"),)),
    ],
    ids=["words", "cached", "image", "nothing", "example", "the role's own", "model"],
)
def test_a_name_stands_before_the_words_of_all_but_the_model(turn, said):
    assert in_words((turn,)) == (Turn(turn.role, said),)


def test_models_of_several_names_are_not_taken_for_one():
    turns = tuple(Turn("assistant", (Text("x"),), name) for name in ("writer", "critic"))
    with pytest.raises(Untranslatable) as caught:
        in_words(turns)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("encode", [anthropic.encode_prompt, converse.encode_prompt])
def test_autogens_messages_reach_upstreams_without_names(encode):
    """It names every message after who sent it."""
    body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi", "name": "user"},
            {"role": "user", "content": "and I", "name": "critic"},
        ],
    }
    written = json.dumps(json.loads(encode(chat.decode_prompt(json.dumps(body).encode()))))
    assert '"hi"' in written
    assert '"critic: and I"' in written
    assert '"name"' not in written
