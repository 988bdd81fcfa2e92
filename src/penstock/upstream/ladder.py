"""In which ways can a broken answer go on at one upstream, the best first?

::

    restart    nothing was said yet: ask again
    rerun      the call is deterministic: ask again, and deliver what goes beyond
    tokens     begin with exactly the tokens that the model had read and written; before rerun where each token is the
               likeliest one: it comes to the same, and computes nothing twice
    prefill    give the model its own text as the beginning of its answer
    prompt     ask it in words to go on, where the configuration allows it

(Before all of them an upstream that keeps its own run of the answer is asked for the rest of that:
``upstream.run``.  That is no new call.)  ``tokens``, ``prefill`` and ``prompt`` go on with a text that is
the last thing that was said: never inside of a tool call, of a thought, or of JSON that a schema rules, whose
grammar would begin anew; nor with several choices or log probabilities, which a second stream cannot
take up.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from penstock.messages import Endpoint, Usage
from penstock.upstream.capabilities import Capabilities
from penstock.wire import anthropic, boundary, chat, completions
from penstock.wire.delivered import Delivered
from penstock.wire.demand import Demand
from penstock.wire.dialect import Decoder
from penstock.wire.splice import Continuation, Reproduction, Seam, Splice

LEAST_ANCHOR = 20  # characters: a shorter one may come by chance


class How(enum.Enum):
    """The ways in which an answer goes on after a break; values are those of the metric's label."""

    CLOSE = "close"  # all was said: only the end was missing
    RESUME = "resume"
    RESTART = "restart"
    RERUN = "rerun"
    TOKENS = "tokens"
    PREFILL = "prefill"
    PROMPT = "prompt"


class Point(msgspec.Struct):
    """Where an answer broke: what was delivered, and what was asked.

    ``token_ids``: of the prompt and of the answer so far, if the log has them; ``prompt``: what the prompt
    cost, if the upstream that began the answer has told.
    """

    delivered: Delivered
    demand: Demand
    token_ids: tuple[list[int], list[int]] | None = None
    prompt: Usage | None = None


def rungs(
    point: Point, endpoint: Endpoint | None, capable: Capabilities, *, same_model: bool, prompt: bool
) -> list[How]:
    """The ways that can be tried at an upstream.

    :param endpoint: that it would be asked at to go on with a text; None: it has none for that
    :param same_model: whether its model is the one that began the answer
    :param prompt: whether it may be asked in words
    """
    delivered, demand = point.delivered, point.demand
    if demand.choices != 1 or demand.logprobs:
        return []
    if delivered.nothing:
        return [How.RESTART]
    ways = []
    if demand.deterministic and capable.deterministic and same_model:
        ways.append(How.RERUN)
    text = delivered.text
    if text is None or endpoint is None or demand.ruled or demand.odd:
        return ways
    open_ = not delivered.said[-1].ended
    if (
        point.token_ids
        and capable.token_ids
        and same_model
        and open_
        and not (demand.tools or demand.thinking)
    ):
        ways.insert(0 if demand.greedy else len(ways), How.TOKENS)
    # Anthropic refuses a prefill where the model is to think first.
    thinks = demand.thinking and endpoint is Endpoint.MESSAGES
    if capable.prefill != "none" and not thinks and boundary.safe_end(text):
        ways.append(How.PREFILL)
    if prompt and endpoint is not Endpoint.COMPLETIONS and len(boundary.anchor_of(text)) >= LEAST_ANCHOR:
        ways.append(How.PROMPT)
    return ways


def spliced(how: How, point: Point, endpoint: Endpoint, prompt_tokens: int) -> Splice:
    """The splice for an attempt that goes on in this way.

    :param endpoint: that is asked of the upstream
    :param prompt_tokens: of the caller's own prompt, estimated
    """
    delivered = point.delivered
    seam: Seam
    total: Callable[[Usage], Usage] = _as_told
    if how in {How.RESTART, How.RERUN}:
        seam = Reproduction(delivered.said)
    else:
        text = delivered.text or ""
        seam = Continuation(_trimmer(how, text), open=not delivered.said[-1].ended)
        total = _added_up(how, point, prompt_tokens)
    return Splice(_decoder(endpoint), delivered.encoder, seam, total)


def _trimmer(how: How, text: str) -> Callable[[str, bool], str | None]:
    if how is How.TOKENS:
        return lambda head, whole: head  # noqa: ARG005 - the very next token is new
    if how is How.PREFILL:
        shown = boundary.safe_end(text)
        return lambda head, whole: boundary.joined(text, shown, head, whole=whole)
    anchor = boundary.anchor_of(text)
    return lambda head, whole: boundary.anchored(text, anchor, head, whole=whole)


def _decoder(endpoint: Endpoint) -> Decoder:
    if endpoint is Endpoint.MESSAGES:
        return anthropic.StreamDecoder()
    if endpoint is Endpoint.COMPLETIONS:
        return completions.StreamDecoder()
    if endpoint is Endpoint.RESPONSES:
        from penstock.wire import responses  # noqa: PLC0415 - not every process needs it

        return responses.StreamDecoder()
    return chat.StreamDecoder()


def _as_told(used: Usage) -> Usage:
    return used


def _added_up(how: How, point: Point, prompt_tokens: int) -> Callable[[Usage], Usage]:
    """The caller's usage: the prompt once, as it was; and all of the output."""
    before = point.delivered.output_tokens
    prompt = point.prompt or point.delivered.prompt

    def total(used: Usage) -> Usage:
        if prompt is not None:
            inputs, cached, written = (
                prompt.input_tokens,
                prompt.cached_input_tokens,
                prompt.cache_write_tokens,
            )
        else:
            # The continued attempt's prompt was the caller's and what was said until then.
            inputs = prompt_tokens if how is How.PROMPT else max(used.input_tokens - before, 0)
            cached, written = min(used.cached_input_tokens, inputs), 0
        return Usage(
            inputs,
            before + used.output_tokens,
            cached,
            written,
            used.reasoning_tokens,
            used.audio_input_tokens,
            used.audio_output_tokens,
            estimated=True,
        )

    return total
