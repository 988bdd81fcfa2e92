"""What becomes of recorded conversations on their way into a data set."""

import json

import msgspec
import pytest

pytest.importorskip("numpy")

from penstock.optimize.dataset import HELD_OUT, REPORT, TRAIN, Counts, Wanted, make
from penstock.optimize.faults import UnusableTarget, UnusableText
from penstock.optimize.making import stamp_of
from penstock.optimize.numerics.near import Near
from penstock.optimize.progress import nobody
from penstock.optimize.screening import BLIND
from penstock.optimize.texts import read_documents
from penstock.transcripts.files import Files
from penstock.transcripts.transcript import Message, Transcript, files, line_of

NOW = 1_800_000_000.0
WORDS = [
    "river",
    "turbine",
    "valve",
    "pressure",
    "concrete",
    "spillway",
    "gate",
    "flood",
    "reservoir",
    "pump",
    "meter",
    "alarm",
]


def question(number):
    """No two of them have much in common."""
    return " ".join(f"{WORDS[(number * 7 + at * 5) % 12]}{number * at}" for at in range(9))


def transcript(*said, tenant="acme", model="chat", upstream="up", by="large"):
    roles = ["user", "assistant"] * len(said)
    messages = tuple(Message(role, text) for role, text in zip(roles, said, strict=False))
    return Transcript("gen_1", NOW, tenant, model, upstream, by, messages)


MANY = [transcript(question(number), f"so it is, {question(number + 100)}") for number in range(60)]


@pytest.fixture
def record(tmp_path):
    def write(transcripts, name="kept"):
        kept = Files(tmp_path / name, kept_for=1e9, max_bytes=1 << 30, file_bytes=1 << 20)
        for each in transcripts:
            kept.append(each.tenant, line_of(each), NOW)
        kept.close()
        return tmp_path / name

    return write


@pytest.fixture
def made(record, tmp_path):
    """What becomes of these transcripts, with others that are enough for a set."""

    def make_set(*transcripts, **more):
        wanted = Wanted(**{"tenants": ("acme",), **more})
        counts = make(record([*MANY, *transcripts]), tmp_path / "set", wanted, nobody)
        found = [each for name in (TRAIN, HELD_OUT) for each in read_documents(tmp_path / "set" / name)]
        own = {as_key(each.messages) for each in MANY}
        return counts, [
            [each["content"] for each in document]
            for document in found
            if as_key([Message(**each) for each in document]) not in own
        ]

    return make_set


def as_key(messages):
    return msgspec.json.encode(list(messages))


def test_all_that_is_sound_is_in_one_of_the_two_parts(made, tmp_path):
    counts, others = made()
    assert others == []
    assert counts.train + counts.held_out == counts.read == 60
    assert 1 <= counts.held_out <= 15
    assert json.loads((tmp_path / "set" / REPORT).read_text())["read"] == 60
    assert stamp_of(tmp_path / "set").step == "dataset"


def test_the_same_transcripts_and_seed_give_the_same_set(made, record, tmp_path):
    made()
    make(record(MANY, "again"), tmp_path / "other", Wanted(tenants=("acme",)), nobody)
    make(record(MANY, "third"), tmp_path / "seeded", Wanted(tenants=("acme",), seed=2), nobody)
    first, second, third = ((tmp_path / name / HELD_OUT).read_bytes() for name in ("set", "other", "seeded"))
    assert first == second != third


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"tenant": "zeta"}, {}),
        ({"model": "code"}, {"models": ("chat",)}),
        ({"by": "small"}, {"answered_by": ("large",)}),
        ({"by": "large-2", "upstream": "own"}, {"answered_by": ("up",)}),
    ],
)
def test_only_whose_and_which_were_asked_for_are_taken(other, wanted, made):
    counts, others = made(transcript("what is a weir?", "a low dam", **other), **wanted)
    assert (counts.others, others) == (1, [])


def test_a_repetition_is_there_once_and_a_conversation_as_far_as_it_went(made):
    said = ["what is a weir?", "a low dam", "and a sluice?", "a gate in it"]
    counts, others = made(transcript(*said[:2]), transcript(*said), transcript(*said))
    assert (counts.repeated, counts.continued, others) == (1, 1, [said])


def test_what_says_nearly_the_same_is_there_once(made):
    long = question(300) + " " + question(301) + " " + question(302)
    counts, others = made(
        transcript(long, "open the valve"), transcript(long + " please", "open the valve"), similar=0.7
    )
    assert (counts.near, len(others)) == (1, 1)


def test_a_common_system_prompt_makes_nobody_the_same(record, tmp_path):
    system = Message("system", "you are a careful engineer " * 200)
    transcripts = [msgspec.structs.replace(each, messages=(system, *each.messages)) for each in MANY]
    counts = make(record(transcripts), tmp_path / "set", Wanted(tenants=("acme",)), nobody)
    assert counts.near == 0


def test_a_conversation_with_a_secret_is_left_out_and_personal_data_is_masked(made):
    counts, others = made(
        transcript("why is this refused: " + "AKIA" + "IOSFODNN7EXAMPLE", "it was revoked"),
        transcript("tell jo@example.org and 192.0.2.1", "I told jo@example.org"),
    )
    assert (counts.with_secrets, counts.secrets) == (1, {"key of a cloud": 1})
    assert others == [["tell [email] and [ip address]", "I told [email]"]]
    assert counts.personal == {"email": 2, "ip address": 1}


def test_the_report_says_what_was_counted_and_what_is_not_found(made, tmp_path):
    made(transcript("why is this refused: " + "AKIA" + "IOSFODNN7EXAMPLE", "it was revoked"))
    said = (tmp_path / "set" / "dataset.md").read_text()
    assert "| left out for a secret | 1 |" in said
    assert "| key of a cloud | 1 |" in said
    assert all(each in said for each in BLIND)


def test_no_conversation_is_on_both_sides(record, tmp_path):
    """Two that began with the same question are held back, or not, together."""
    branches = [
        transcript(
            *(message.content for message in each.messages),
            question(500 + at + 60 * branch),
            question(900 + at),
        )
        for at, each in enumerate(MANY)
        for branch in range(2)
    ]
    make(record(branches), tmp_path / "set", Wanted(tenants=("acme",)), nobody)
    parts = [
        {document[0]["content"] for document in read_documents(tmp_path / "set" / name)}
        for name in (TRAIN, HELD_OUT)
    ]
    assert not parts[0] & parts[1]


def test_damaged_lines_are_counted(record, tmp_path):
    directory = record(MANY)
    with files(directory)[0].open("ab") as file:
        file.write(b'{"id": "gen_')
    assert make(directory, tmp_path / "set", Wanted(tenants=("acme",)), nobody).damaged == 1


def test_too_little_is_refused_with_what_there_was(record, tmp_path):
    with pytest.raises(UnusableText, match="nowhere does not exist"):
        make(tmp_path / "nowhere", tmp_path / "set", Wanted(tenants=("acme",)), nobody)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnusableText, match="of 0 that were read"):
        make(tmp_path / "empty", tmp_path / "set", Wanted(tenants=("acme",)), nobody)
    (tmp_path / "file").touch()
    with pytest.raises(UnusableText, match="file is no directory"):
        make(tmp_path / "file", tmp_path / "set", Wanted(tenants=("acme",)), nobody)
    with pytest.raises(UnusableText, match=r"of 60 that were read \(60 of others than asked for\)"):
        make(record(MANY), tmp_path / "set", Wanted(tenants=("nobody",)), nobody)
    assert not (tmp_path / "set").exists()


def test_what_is_there_already_is_not_overwritten(record, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").touch()
    with pytest.raises(UnusableTarget, match="is there already"):
        make(record(MANY), tmp_path / "set", Wanted(tenants=("acme",)), nobody)


def test_a_line_separator_in_a_text_ends_no_line(made):
    _, others = made(transcript("a weir\u2028and\x85a dam", "so"))
    assert others == [["a weir\u2028and\x85a dam", "so"]]


def test_an_estimate_of_likeness_is_near_the_truth():
    words = [f"w{number}" for number in range(400)]
    for share, alike in ((0.95, True), (0.5, False), (0.0, False)):
        near = Near(0.8)
        assert near.is_new(" ".join(words))
        changed = words[: int(400 * share)] + [f"v{number}" for number in range(400 - int(400 * share))]
        assert near.is_new(" ".join(changed)) is not alike


def test_the_counts_are_read_back(made, tmp_path):
    counts, _ = made()
    assert msgspec.json.decode((tmp_path / "set" / REPORT).read_bytes(), type=Counts) == counts
