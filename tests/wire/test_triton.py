"""Calls of OpenAI's API as tensors, and tensors as its answers."""

from __future__ import annotations

import base64
import json
import struct

import pytest

from penstock.errors import BadRequest, Untranslatable, UpstreamBroken, UpstreamFailed
from penstock.messages import Endpoint
from penstock.wire.triton.answered import Writer, embeddings_body, piece_of, vectors_of
from penstock.wire.triton.asked import Form, asked, bucket_of, chat_prompt
from penstock.wire.triton.model import Slot, Tensor, model_of

GENERATE = {
    "name": "llm",
    "max_batch_size": 8,
    "input": [
        {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "max_tokens", "data_type": "TYPE_INT32", "dims": [1], "optional": True},
        {"name": "temperature", "data_type": "TYPE_FP32", "dims": [1], "optional": True},
        {"name": "stop", "data_type": "TYPE_STRING", "dims": [-1], "optional": True},
        {"name": "stream", "data_type": "TYPE_BOOL", "dims": [1], "optional": True},
    ],
    "output": [
        {"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "finish_reason", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "prompt_tokens", "data_type": "TYPE_INT32", "dims": [1]},
        {"name": "completion_tokens", "data_type": "TYPE_INT32", "dims": [1]},
    ],
    "model_transaction_policy": {"decoupled": True},
}
EMBED = {
    "name": "embed",
    "max_batch_size": 4,
    "input": [
        {"name": "input_ids", "data_type": "TYPE_INT64", "dims": [-1]},
        {"name": "attention_mask", "data_type": "TYPE_INT64", "dims": [-1]},
    ],
    "output": [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [3]}],
}
FORM = Form(buckets=(4, 8), pad=9, tokenize=lambda text: [ord(each) for each in text])


def ask(config, endpoint, form=FORM, **body):
    return asked(model_of(config), endpoint, json.dumps({"model": "m", **body}).encode(), form)


def tensors(request):
    return {each.name: (each.datatype, each.shape, each.values) for each in request.tensors}


def test_a_model_is_read_from_the_json_of_either_protocol():
    over_http = model_of(GENERATE)
    over_grpc = model_of(
        {
            "config": {
                **GENERATE,
                "max_batch_size": 8,
                "input": [{**each, "dims": [str(dim) for dim in each["dims"]]} for each in GENERATE["input"]],
            }
        }
    )
    assert over_http == over_grpc
    assert over_http.inputs["stop"] == Slot("stop", "BYTES", (-1,), optional=True)
    assert over_http.decoupled
    assert not model_of(EMBED).decoupled
    with pytest.raises(UpstreamFailed, match="makes no sense"):
        model_of({"input": 7})


def test_a_completion_is_its_prompt_and_the_parameters_that_the_model_knows():
    (request,) = ask(
        GENERATE, Endpoint.COMPLETIONS, prompt="hallo", max_tokens=5, temperature=0, stop="x", stream=True
    )
    assert tensors(request) == {
        "text_input": ("BYTES", (1, 1), [b"hallo"]),
        "max_tokens": ("INT32", (1, 1), [5]),
        "temperature": ("FP32", (1, 1), [0.0]),
        "stop": ("BYTES", (1, 1), [b"x"]),
        "stream": ("BOOL", (1, 1), [True]),
    }
    assert request.prompt_tokens is None


def test_a_chat_is_one_text():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]},
    ]
    assert chat_prompt(messages, "plain") == "system: Be brief.\n\nuser: Who are you?\n\nassistant: "
    assert chat_prompt(messages, "chatml") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    (request,) = ask(GENERATE, Endpoint.CHAT, messages=messages, max_completion_tokens=3)
    assert tensors(request)["max_tokens"] == ("INT32", (1, 1), [3])


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 1},
        {"top_p": 0.5},
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"1": 5}},
        {"something_new": 1},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_the_model_has_no_input_for_is_refused_and_not_left_out(more):
    with pytest.raises(Untranslatable, match=f"llm has no input for {next(iter(more))}"):
        ask(GENERATE, Endpoint.CHAT, messages=[{"role": "user", "content": "a"}], **more)


def test_what_says_only_what_holds_anyway_is_no_reason_to_refuse():
    more = {
        "n": 1,
        "top_p": 1,
        "logprobs": False,
        "tools": [],
        "user": "u",
        "stream_options": {"include_usage": True},
    }
    more |= {"seed": None, "response_format": {"type": "text"}, "presence_penalty": 0}
    (request,) = ask(GENERATE, Endpoint.CHAT, messages=[{"role": "user", "content": "a"}], **more)
    assert set(tensors(request)) == {"text_input", "stream"}


def test_all_parameters_go_in_one_text_where_the_model_has_it_so():
    config = {
        **GENERATE,
        "input": [
            GENERATE["input"][0],
            {"name": "sampling_parameters", "data_type": "TYPE_STRING", "dims": [1]},
        ],
    }
    (request,) = ask(config, Endpoint.COMPLETIONS, prompt="a", max_tokens=2, seed=4, stop=["x"])
    (value,) = tensors(request)["sampling_parameters"][2]
    assert json.loads(value) == {"max_tokens": 2, "seed": 4, "stop": ["x"]}


@pytest.mark.parametrize(
    "content", [None, 7, [{"type": "image_url", "image_url": {"url": "x"}}]], ids=["none", "number", "image"]
)
def test_only_text_is_passed_on(content):
    with pytest.raises(Untranslatable, match="only text"):
        ask(GENERATE, Endpoint.CHAT, messages=[{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.CHAT, {"messages": []}),
        (Endpoint.CHAT, {"messages": ["a"]}),
        (Endpoint.COMPLETIONS, {}),
        (Endpoint.COMPLETIONS, {"prompt": 7}),
        (Endpoint.COMPLETIONS, {"prompt": "a", "stop": 7}),
        (Endpoint.COMPLETIONS, {"prompt": "a", "max_tokens": "many"}),
        (Endpoint.COMPLETIONS, {"prompt": "a", "max_tokens": True}),
    ],
)
def test_what_is_not_of_openais_form_is_the_callers_fault(endpoint, body):
    with pytest.raises(BadRequest) as raised:
        ask(GENERATE, endpoint, **body)
    assert not isinstance(raised.value, Untranslatable)


@pytest.mark.parametrize("told", [None, "", [], [""], [["a"]], [1, "a"], [[-1]], [[True]], {}])
def test_inputs_of_another_form_are_the_callers_fault_or_no_text(told):
    if told in ("", [""]):
        assert ask(EMBED, Endpoint.EMBEDDINGS, input=told)
        return
    with pytest.raises(BadRequest):
        ask(EMBED, Endpoint.EMBEDDINGS, input=told)


def test_inputs_are_padded_to_buckets_and_batched_by_them():
    texts = ["abc", "abcdef", "ab", "abcdefg", "a" * 20]
    requests = ask(EMBED, Endpoint.EMBEDDINGS, input=texts)
    assert [each.rows for each in requests] == [[0, 2], [1, 3], [4]]
    first = tensors(requests[0])
    assert first["input_ids"] == ("INT64", (2, 4), [97, 98, 99, 9, 97, 98, 9, 9])
    assert first["attention_mask"] == ("INT64", (2, 4), [1, 1, 1, 0, 1, 1, 0, 0])
    assert [each.prompt_tokens for each in requests] == [5, 13, 20]
    assert tensors(requests[2])["input_ids"][1] == (1, 20)


def test_a_request_holds_no_more_than_the_models_batch():
    requests = ask(EMBED, Endpoint.EMBEDDINGS, input=["abc"] * 9)
    assert [each.rows for each in requests] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_token_ids_of_the_callers_own_need_no_tokenizer():
    form = Form(buckets=(4,))
    (request,) = ask(EMBED, Endpoint.EMBEDDINGS, form, input=[5, 6, 7])
    assert tensors(request)["input_ids"] == ("INT64", (1, 4), [5, 6, 7, 0])
    with pytest.raises(Untranslatable, match="no tokenizer is configured"):
        ask(EMBED, Endpoint.EMBEDDINGS, form, input="abc")


def test_without_mask_or_length_nothing_is_padded():
    config = {**EMBED, "input": EMBED["input"][:1]}
    (request,) = ask(config, Endpoint.EMBEDDINGS, input="abc")
    assert tensors(request) == {"input_ids": ("INT64", (1, 3), [97, 98, 99])}
    with pytest.raises(Untranslatable, match="inputs of different length need one"):
        ask(config, Endpoint.EMBEDDINGS, input=["abc", "ab"])


def test_lengths_are_told_where_the_model_asks_for_them():
    lengths = {"name": "input_lengths", "data_type": "TYPE_INT32", "dims": [1]}
    config = {**EMBED, "input": [EMBED["input"][0], lengths]}
    (request,) = ask(config, Endpoint.EMBEDDINGS, input=["abc", "ab"])
    assert tensors(request)["input_lengths"] == ("INT32", (2, 1), [3, 2])


def test_a_model_without_batches_gets_one_input_at_a_time_without_that_dimension():
    config = {**EMBED, "max_batch_size": 0}
    requests = ask(config, Endpoint.EMBEDDINGS, input=["abc", "ab"])
    assert [tensors(each)["input_ids"][1] for each in requests] == [(4,), (4,)]


def test_an_input_that_no_call_has_is_named():
    config = {
        **GENERATE,
        "input": [*GENERATE["input"], {"name": "image", "data_type": "TYPE_FP32", "dims": [3]}],
    }
    with pytest.raises(Untranslatable, match="llm wants image"):
        ask(config, Endpoint.COMPLETIONS, prompt="a")


def test_a_model_is_only_asked_for_what_it_gives():
    with pytest.raises(Untranslatable, match="gives no text"):
        ask(EMBED, Endpoint.COMPLETIONS, prompt="a")
    with pytest.raises(Untranslatable, match="gives no numbers"):
        ask({**GENERATE, "output": GENERATE["output"][:1]}, Endpoint.EMBEDDINGS, input="a")


@pytest.mark.parametrize(("length", "padded"), [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 9)])
def test_a_bucket_is_the_next_length(length, padded):
    assert bucket_of(length, (4, 8)) == padded


# ---- answers ----


def response(text, finish="", prompt=None, made=None):
    found = {"text_output": Tensor("text_output", "BYTES", (1, 1), [text])}
    if finish:
        found["finish_reason"] = Tensor("finish_reason", "BYTES", (1, 1), [finish.encode()])
    for name, value in (("prompt_tokens", prompt), ("completion_tokens", made)):
        if value is not None:
            found[name] = Tensor(name, "INT32", (1, 1), [value])
    return piece_of(model_of(GENERATE), found)


def writer(endpoint=Endpoint.CHAT, asked_tokens=None):
    return Writer(endpoint, "llm", "gen_1", 7, asked_tokens=asked_tokens, prompt_tokens=None)


def test_a_plain_answer_has_text_finish_and_usage():
    found = writer()
    found.take(response(b"Hallo", prompt=3, made=1))
    found.take(response(b" Welt", finish="length", prompt=3, made=1))
    body = json.loads(found.body())
    assert body["id"] == "chatcmpl-1"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hallo Welt", "refusal": None}
    assert choice["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_a_completion_is_written_in_its_own_form_and_without_usage_that_nobody_told():
    found = writer(Endpoint.COMPLETIONS)
    found.take(response(b"Hallo"))
    body = json.loads(found.body())
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "Hallo")
    assert body["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in body


def test_an_answer_as_long_as_it_may_be_was_cut():
    for made, finish in ((4, "stop"), (5, "length")):
        found = writer(asked_tokens=5)
        found.take(response(b"x", prompt=1, made=made))
        assert json.loads(found.body())["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_a_stream_is_whole_to_an_independent_reader(endpoint):
    from penstock.wire.progress import progress
    from penstock.wire.sse import Splitter

    found = writer(endpoint)
    data = b"".join([found.frame(response(text, prompt=2, made=1)) for text in (b"a", b"b")]) + found.end()
    kept, watching = [], progress(endpoint, upstream="triton")
    watching.take(Splitter().feed(data), kept)
    assert watching.complete
    assert (watching.usage.input_tokens, watching.usage.output_tokens) == (2, 2)
    chunks = [json.loads(frame[6:]) for frame in kept[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    texts = [each["delta"].get("content", "") if "delta" in each else each["text"] for each in choices]
    assert "".join(texts) == "ab"
    assert [each["finish_reason"] for each in choices] == [None, None, "stop"]


def test_text_that_is_no_utf8_does_no_harm():
    assert response(b"a\xffb").text == "a\ufffdb"


def test_an_answer_without_its_text_is_broken():
    with pytest.raises(UpstreamBroken, match="without its text"):
        piece_of(model_of(GENERATE), {})


def test_vectors_are_told_as_lists_or_in_base64():
    model = model_of(EMBED)
    found = vectors_of(model, {"embedding": Tensor("embedding", "FP32", (2, 3), [1.0, 2, 3, 4, 5, 6])}, 2)
    assert found == [[1.0, 2, 3], [4, 5, 6]]
    body = json.loads(embeddings_body("m", found, 4, in_base64=False))
    assert [each["embedding"] for each in body["data"]] == found
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    packed = json.loads(embeddings_body("m", found, None, in_base64=True))
    assert struct.unpack("<3f", base64.b64decode(packed["data"][1]["embedding"])) == (4, 5, 6)
    assert "usage" not in packed
    with pytest.raises(UpstreamBroken, match="an embedding for each input"):
        vectors_of(model, {"embedding": Tensor("embedding", "FP32", (1, 3), [1.0, 2, 3])}, 2)


def test_a_tensor_has_as_many_values_as_its_shape_says():
    with pytest.raises(ValueError, match="2 values for the shape"):
        Tensor("a", "INT32", (3,), [1, 2])
