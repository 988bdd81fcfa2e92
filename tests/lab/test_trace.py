from __future__ import annotations

import gzip
import random
import runpy
from pathlib import Path

import pytest

from penstock.lab.trace import TraceCall, TraceError, read_trace

DATA = Path(__file__).parent / "data"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
MOONCAKE = (
    '{"timestamp": 2000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
    '{"timestamp": 0, "input_length": 7, "output_length": 9, "hash_ids": [2]}\n'
)


def written(tmp_path, text, name="trace"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_azure_trace_is_read_in_its_own_form(tmp_path):
    calls = read_trace(written(tmp_path, AZURE))
    assert [(call.input_tokens, call.output_tokens, call.blocks) for call in calls] == [
        (374, 44, ()),
        (396, 109, ()),
    ]
    assert calls[0].at == 0
    assert calls[1].at == pytest.approx(4.314579, abs=1e-5)


def test_mooncakes_form_sorted_by_time(tmp_path):
    assert read_trace(written(tmp_path, MOONCAKE)) == [
        TraceCall(0.0, 7, 9, (2,)),
        TraceCall(2.0, 600, 5, (0, 1)),
    ]


@pytest.mark.parametrize("text", [AZURE, MOONCAKE])
def test_zipped_or_not_whatever_the_name(tmp_path, text):
    plain = read_trace(written(tmp_path, text, "a.gz"))
    assert read_trace(written(tmp_path, gzip.compress(text.encode()), "b.txt")) == plain


def test_only_the_first_calls_are_read_if_so_wished(tmp_path):
    assert len(read_trace(written(tmp_path, AZURE + "rubbish\n"), 2)) == 2


def test_other_columns_a_byte_order_mark_and_other_line_ends_do_no_harm(tmp_path):
    text = "\ufeffid,GeneratedTokens, TIMESTAMP,contexttokens\r\n7,44,2024-05-10 00:00:00.009930+00:00,374\r\n\r\n"
    assert read_trace(written(tmp_path, text)) == [TraceCall(0.0, 374, 44)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: neither JSON nor a header"),
        ("a,b\n1,2\n", "line 1: neither JSON nor a header"),
        (AZURE.splitlines()[0], "no calls in it"),
        (AZURE + "2023-11-16 18:15:50,396\n", "line 4: 2 columns where the header has 3"),
        (AZURE + "soon,1,2\n", "line 4: TIMESTAMP is no date and time: 'soon'"),
        (AZURE + "2023-11-16 18:15:50,many,2\n", "line 4: ContextTokens is no number of tokens: 'many'"),
        (AZURE + "2023-11-16 18:15:50,1,-2\n", "line 4: GeneratedTokens is no number of tokens: '-2'"),
        (AZURE + "x" * 200_000 + ",1,2\n", "line 4: field larger than field limit"),
        (MOONCAKE + "{\n", "line 3: "),
        (MOONCAKE + '{"timestamp": 1, "input_length": 5}\n', "line 3: .*output_length"),
        (MOONCAKE + '{"timestamp": 1, "input_length": "x", "output_length": 1}\n', "line 3: .*input_length"),
        (MOONCAKE + '{"timestamp": 1, "input_length": -1, "output_length": 1}\n', "line 3: input_length"),
        (gzip.compress(AZURE.encode(), mtime=0)[:-9], "the gzip file is damaged"),
        (gzip.compress(AZURE.encode(), mtime=0)[:20] + b"\0" * 30, "damaged|CRC|Error"),
        (b"\xff\xfe\x00\x01", "not a text file"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(TraceError, match=said) as caught:
        read_trace(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none")
    with pytest.raises(TraceError, match="directory"):
        read_trace(tmp_path)


def test_the_small_traces_are_what_their_script_makes():
    script = runpy.run_path(str(DATA / "make_traces.py"))
    assert (DATA / "azure_small.csv").read_text() == script["azure"](random.Random(1))
    with gzip.open(DATA / "mooncake_small.jsonl.gz", "rt") as file:
        assert file.read() == script["mooncake"](random.Random(2))


def test_the_small_traces_are_of_the_published_forms():
    azures = read_trace(DATA / "azure_small.csv")
    mooncakes = read_trace(DATA / "mooncake_small.jsonl.gz")
    assert len(azures) == len(mooncakes) == 60
    seen, repeated, total = set(), 0, 0
    for call in mooncakes:
        assert len(call.blocks) == -(-call.input_tokens // 512)
        repeated += len(seen & set(call.blocks))
        total += len(call.blocks)
        seen |= set(call.blocks)
    assert 0.2 < repeated / total < 0.9
