"""One request's answer: from the engine's progress to the client, streamed or whole.

All of it happens in callbacks: the engine tells of ids, and what is certain of their text goes out in the same turn
of the loop.  A client that leaves gives its generations up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan

from penstock.engine.backend import Logprob, Progress
from penstock.engine.engine import Engine
from penstock.engine.forced import ForcedText
from penstock.engine.form import Form
from penstock.engine.readings import Readings
from penstock.engine.request import Asked
from penstock.engine.text import Piece, TextStream
from penstock.engine.tools import Called, Said, ToolText
from penstock.errors import BadRequest, Overloaded, PenstockError
from penstock.messages import Dialect
from penstock.net.exchange import Exchange, HeaderList
from penstock.wire import problems

JSON_HEADERS: HeaderList = ((b"content-type", b"application/json"),)
_SSE: HeaderList = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_AMBIGUOUS = (
    "the grammar, or the expression, is ambiguous: there are so many ways in which it reads this answer that the next "
    "token would take too long; write it so that a text can be read in one way, or ask for a shorter answer"
)


class Choice:
    """One generation of an answer; an engine's ``Follower``."""

    __slots__ = (
        "_answer",
        "begun",
        "called",
        "echo",
        "finish",
        "index",
        "letters",
        "number",
        "of_prompt",
        "pieces",
        "readings",
        "text",
        "tools",
    )

    def __init__(
        self,
        answer: Answer,
        index: int,
        text: TextStream,
        tools: ToolText | ForcedText | None = None,
        echo: str = "",
        readings: Readings | None = None,
    ) -> None:
        self._answer = answer
        self.readings = readings  # of its grammar; None: they need not be counted
        self.echo = echo  # what its text begins with, until that is told
        self.index = index
        self.text = text
        self.tools = tools  # None: there are none to call
        self.number = 0  # in the engine
        self.finish = ""
        self.pieces: list[Said] = []  # of a plain answer
        self.of_prompt: Sequence[Logprob] = ()  # of its tokens from the second on
        self.begun = False  # its first chunk was sent
        self.letters = 0  # of text that was sent
        self.called = 0  # calls that were sent

    def on_progress(self, progress: Progress) -> None:
        self._answer.progressed(self, progress)

    def on_failure(self, error: PenstockError) -> None:
        self._answer.failed(error)

    def __repr__(self) -> str:
        return f"<Choice {self.index} {self.finish or 'under way'}, {self.text!r}>"


class Answer:
    """Answers one exchange.

    :param on_first: told when the first tokens are there
    :param on_end: told the status once, and the tokens of the answer: 499 if the client left
    """

    __slots__ = (
        "_asked",
        "_engine",
        "_exchange",
        "_form",
        "_on_end",
        "_on_first",
        "_open",
        "_started",
        "choices",
    )

    def __init__(
        self,
        exchange: Exchange,
        engine: Engine,
        asked: Asked,
        form: Form,
        on_first: Callable[[], None],
        on_end: Callable[[int, int], None],
    ) -> None:
        self._exchange = exchange
        self._engine = engine
        self._asked = asked
        self._form = form
        self._on_first = on_first
        self._on_end = on_end
        self._started = False
        self._open = True
        self.choices: list[Choice] = []

    def __repr__(self) -> str:
        return f"<Answer {'open' if self._open else 'ended'}, {self.choices}>"

    @property
    def output_tokens(self) -> int:
        return sum(choice.text.tokens for choice in self.choices)

    # ---- what the engine tells ----

    def progressed(self, choice: Choice, progress: Progress) -> None:
        if not self._started:
            self._started = True
            self._on_first()
        if progress.finish == "memory":
            self.failed(Overloaded("the model's cache has no room for this call", retry_after=1.0))
            return
        pieces = choice.text.feed(progress.ids, progress.logprobs)
        if choice.readings is not None and not all(choice.readings.take(piece.text) for piece in pieces):
            self.failed(BadRequest(_AMBIGUOUS, code="ambiguous_grammar"))
            return
        if choice.text.stopped:
            choice.finish = "stop"
            self._engine.cancel(choice.number)
        elif progress.finish:
            pieces.append(choice.text.end())
            choice.finish = "stop" if choice.text.stopped else progress.finish
        said: Sequence[Said] = (
            pieces if choice.tools is None else self._with_calls(choice, choice.tools, pieces)
        )
        choice.of_prompt = choice.of_prompt or progress.prompt
        if choice.echo and said:
            said = [self._echo(choice), *said]
            choice.echo = ""
        if self._asked.stream:
            self._send(choice, said)
        else:
            choice.pieces += said
        if choice.finish and all(each.finish for each in self.choices):
            self._complete()

    def _echo(self, choice: Choice) -> Piece:
        """The prompt's text, with its tokens where their log probabilities are wanted; nothing is before the first."""
        if self._asked.sampling.prompt_logprobs is None:
            return Piece(choice.echo, [], [])
        prompt = self._asked.prompts[choice.index // self._asked.choices]
        return Piece(choice.echo, prompt, [Logprob(nan), *choice.of_prompt])

    def _with_calls(self, choice: Choice, tools: ToolText | ForcedText, pieces: list[Piece]) -> list[Said]:
        said = tools.feed(pieces)
        if choice.finish:
            said += tools.end(whole=choice.finish == "stop")
            said = said or [Piece("", [], [])]  # something has to bear the end
            if tools.calls and choice.finish == "stop":
                choice.finish = "tool_calls"
        return said

    def failed(self, error: PenstockError) -> None:
        if not self._open:
            return
        self._give_up()
        exchange = self._exchange
        exchange.watch(None)
        if exchange.started:
            exchange.write(problems.render_event(error, self._asked.endpoint))
            exchange.end()
            self._on_end(200, self.output_tokens)
        else:
            self._on_end(refuse(exchange, error), self.output_tokens)

    # ---- what becomes of the client ----

    def on_gone(self) -> None:
        if self._open:
            self._give_up()
            self._on_end(499, self.output_tokens)

    def on_writable(self) -> None:
        pass  # what is not taken is bounded by the model's context

    # ---- sending ----

    def _send(self, choice: Choice, said: Sequence[Said]) -> None:
        if not said:
            return
        exchange, form = self._exchange, self._form
        prompt = self._asked.prompts[choice.index // self._asked.choices]
        data = b""
        if not exchange.started:
            exchange.start(200, _SSE)
            for each in self.choices:
                data += form.opening(each.index, prompt)
        output_tokens = self.output_tokens if self._asked.running_usage else 0
        parts = said if choice.tools is not None or len(said) == 1 else (merged(said),)
        for place, part in enumerate(parts, 1):
            finish = choice.finish if place == len(parts) else ""
            if isinstance(part, Called):
                data += form.call_chunk(choice.index, part, choice.called, finish, output_tokens)
                choice.called += 1
                continue
            first = None if choice.begun else prompt
            choice.begun = True
            data += form.chunk(choice.index, part, finish, output_tokens, first, choice.letters)
            choice.letters += len(part.text)
        exchange.write(data)

    def _complete(self) -> None:
        self._open = False
        exchange = self._exchange
        exchange.watch(None)
        output_tokens = self.output_tokens
        if self._asked.stream:
            exchange.write(self._form.closing(output_tokens))
            exchange.end()
        else:
            whole = [(merged(choice.pieces), choice.finish) for choice in self.choices]
            calls = (
                [[each for each in choice.pieces if isinstance(each, Called)] for choice in self.choices]
                if self._asked.tools
                else ()
            )
            scores = [choice.of_prompt for choice in self.choices]
            exchange.respond(200, JSON_HEADERS, self._form.whole(whole, output_tokens, calls, scores))
        self._on_end(200, output_tokens)

    def _give_up(self) -> None:
        self._open = False
        for choice in self.choices:
            if not choice.finish:
                self._engine.cancel(choice.number)


def merged(said: Sequence[Said]) -> Piece:
    """Several pieces as one, also those that calls were written in."""
    pieces = [each.piece if isinstance(each, Called) else each for each in said]
    return Piece(
        "".join(piece.text for piece in pieces),
        [token for piece in pieces for token in piece.ids],
        [value for piece in pieces for value in piece.logprobs],
    )


def refuse(exchange: Exchange, error: PenstockError) -> int:
    """Answer with an error, in the API's own form."""
    status, headers, body = problems.render(error, Dialect.OPENAI)
    exchange.respond(status, headers, body)
    return status


__all__ = ["JSON_HEADERS", "Answer", "Choice", "merged", "refuse"]
