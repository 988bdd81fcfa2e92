import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.messages import Call, Endpoint, Tenant, Usage
from penstock.wire import merge, opaque, request


def a_call(endpoint=Endpoint.EMBEDDINGS, **body):
    data = json.dumps({"model": "m", **body}).encode()
    opening = request.read(endpoint, data)
    return Call("gen_0", endpoint, opening.model, opening.stream, opening.fields, data, {}, 0.0, Tenant())


def a_moderation(**body):
    read = opaque.read(Endpoint.MODERATIONS, {}, json.dumps({"model": "m", **body}).encode())
    return Call("gen_0", Endpoint.MODERATIONS, "m", False, read.fields, read.body, {}, 0.0, Tenant())


def part(endpoint=Endpoint.EMBEDDINGS, **body):
    return merge.part_of(a_call(endpoint, **body))


def values(found):
    return [json.loads(bytes(one)) for one in found.inputs]


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 22, 3], [[1, 22, 3]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_inputs_are_texts_or_lists_of_token_ids(given_input, inputs):
    assert values(part(input=given_input)) == inputs


@pytest.mark.parametrize("nonsense", [None, 5, {}, [], ["a", [1]], [{}], [None], [1, "a"], True, [-1]])
def test_what_is_neither_goes_alone(nonsense):
    assert part(input=nonsense) is None


def test_only_calls_that_ask_for_the_same_are_alike():
    alike = part(input="a", dimensions=3).alike
    assert part(dimensions=3, input="b").alike == alike
    assert part(input="a", dimensions=4).alike != alike
    assert part(input="a", dimensions=3, user="u").alike != alike
    assert part(input=[1], dimensions=3).alike != alike


def test_streams_and_other_endpoints_go_alone():
    assert part(Endpoint.COMPLETIONS, prompt="a", stream=True) is None
    assert part(Endpoint.COMPLETIONS, prompt="a", n=0) is None
    assert part(Endpoint.COMPLETIONS, prompt="a", n="x") is None
    assert merge.part_of(a_call(Endpoint.CHAT, messages=[])) is None


def test_moderations_of_texts_share_a_request_and_others_go_alone():
    assert values(merge.part_of(a_moderation(input="a"))) == ["a"]
    assert values(merge.part_of(a_moderation(input=["a", "b"]))) == ["a", "b"]
    several = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "b"}}]
    for alone in ({"input": several}, {"input": [1, 2]}, {"input": [[1]]}, {"input": []}, {}):
        assert merge.part_of(a_moderation(**alone)) is None


def test_results_of_moderations_stand_in_the_order_of_the_inputs():
    parts = [merge.part_of(a_moderation(input=given)) for given in ("a", ["b", "c"])]
    results = [{"flagged": flagged, "categories": {}} for flagged in (True, False, True)]
    bodies = merge.split(Endpoint.MODERATIONS, json.dumps({"id": "x", "results": results}).encode(), parts)
    assert [json.loads(body) for body in bodies] == [
        {"id": "x", "results": results[:1]},
        {"id": "x", "results": results[1:]},
    ]
    for wrong in (results[:2], [*results, results[0]], [1, 2, 3]):
        assert merge.split(Endpoint.MODERATIONS, json.dumps({"results": wrong}).encode(), parts) is None


def test_a_merged_request_has_all_inputs_in_order():
    calls = [a_call(input="a", dimensions=2), a_call(input=["b", "c"], dimensions=2)]
    fields = merge.merged(calls[0], [merge.part_of(call) for call in calls])
    body = json.loads(request.rewritten(fields, "theirs"))
    assert body == {"model": "theirs", "input": ["a", "b", "c"], "dimensions": 2}


def embeddings(*vectors, tokens=0, order=None):
    data = [{"object": "embedding", "index": i, "embedding": [v]} for i, v in enumerate(vectors)]
    data = [data[i] for i in order] if order else data
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": "theirs", "usage": usage}).encode()


def test_each_gets_its_own_answers_numbered_from_zero_and_its_share_of_the_usage():
    parts = [part(input="aaaa"), part(input=["b" * 8, "c" * 8])]
    first, second = map(
        json.loads, merge.split(Endpoint.EMBEDDINGS, embeddings(1.5, 2.5, 3.5, tokens=10), parts)
    )
    assert first["data"] == [{"object": "embedding", "index": 0, "embedding": [1.5]}]
    assert [(one["index"], one["embedding"]) for one in second["data"]] == [(0, [2.5]), (1, [3.5])]
    assert (first["object"], first["model"]) == ("list", "theirs")
    assert (first["usage"]["prompt_tokens"], second["usage"]["prompt_tokens"]) == (2, 8)
    assert (first["usage"]["total_tokens"], second["usage"]["total_tokens"]) == (2, 8)


def test_answers_are_found_by_their_number_not_by_their_place():
    parts = [part(input="a"), part(input="b")]
    bodies = merge.split(Endpoint.EMBEDDINGS, embeddings(1.0, 2.0, order=[1, 0]), parts)
    assert [json.loads(body)["data"][0]["embedding"] for body in bodies] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense",
        b"[]",
        b"{}",
        b'{"data": 5}',
        b'{"data": [{}]}',
        embeddings(1.0),
        embeddings(1.0, 2.0, 3.0),
        embeddings(1.0, 2.0).replace(b'"index": 1', b'"index": 0'),
        embeddings(1.0, 2.0).replace(b'"index": 1', b'"index": 2'),
        embeddings(1.0, 2.0).replace(b'"index": 1', b'"index": "1"'),
    ],
)
def test_an_answer_that_does_not_fit_is_not_given_to_anybody(answer):
    assert merge.split(Endpoint.EMBEDDINGS, answer, [part(input="a"), part(input="b")]) is None


def test_completions_get_as_many_choices_for_each_prompt_as_they_ask_for():
    parts = [part(Endpoint.COMPLETIONS, prompt=text, n=2) for text in ("a", "b")]
    choices = [{"index": i, "text": "x" * (1 + i)} for i in range(4)]
    usage = {
        "prompt_tokens": 4,
        "completion_tokens": 100,
        "total_tokens": 104,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None},
    }
    bodies = merge.split(
        Endpoint.COMPLETIONS, json.dumps({"choices": choices, "usage": usage}).encode(), parts
    )
    first, second = map(json.loads, bodies)
    assert [(one["index"], one["text"]) for one in second["choices"]] == [(0, "xxx"), (1, "xxxx")]
    assert first["usage"]["completion_tokens"] < second["usage"]["completion_tokens"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert first["usage"][name] + second["usage"][name] == usage[name]
    for each in (first["usage"], second["usage"]):
        assert each["total_tokens"] == each["prompt_tokens"] + each["completion_tokens"]
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 1, "audio_tokens": None}


def test_without_usage_nobody_gets_any():
    answer = b'{"data": [{"index": 0}, {"index": 1}], "usage": null}'
    bodies = merge.split(Endpoint.EMBEDDINGS, answer, [part(input="a"), part(input="b")])
    assert json.loads(bodies[0])["usage"] is None


@given(st.integers(0, 10**6), st.lists(st.integers(0, 1_000), min_size=1, max_size=40))
def test_shares_add_up_and_follow_the_weights(total, weights):
    shares = merge.shares_of(total, weights)
    assert sum(shares) == total
    if sum(weights):
        exact = [total * weight / sum(weights) for weight in weights]
        assert all(abs(share - one) < 1 + 1e-6 for share, one in zip(shares, exact, strict=True))


@given(st.lists(st.text(min_size=1, max_size=50), min_size=2, max_size=8), st.integers(0, 5_000))
def test_what_is_merged_and_answered_comes_back_to_whom_it_belongs(texts, tokens):
    parts = [part(input=text) for text in texts]
    bodies = merge.split(
        Endpoint.EMBEDDINGS, embeddings(*map(float, range(len(texts))), tokens=tokens), parts
    )
    answers = [json.loads(body) for body in bodies]
    assert [one["data"][0]["embedding"] for one in answers] == [[float(i)] for i in range(len(texts))]
    assert sum(one["usage"]["prompt_tokens"] for one in answers) == tokens


def test_a_usage_is_split_to_the_token_and_marked_as_estimated():
    parts = [part(input="a" * 3), part(input="b" * 9)]
    first, second = merge.split_usage(Usage(input_tokens=10, cached_input_tokens=1), parts)
    assert first.input_tokens + second.input_tokens == 10
    assert first.cached_input_tokens + second.cached_input_tokens == 1
    assert first.estimated
    assert second.estimated
