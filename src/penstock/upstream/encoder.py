"""What an upstream is asked: head and body of each request, of a call or of the rest of a broken answer.  No I/O.

If it speaks the caller's API, the members' own bytes go on, with its name for the model; if not, the call is translated.
"""

from __future__ import annotations

from zlib import crc32

from penstock.config.model import UpstreamConfig
from penstock.errors import Untranslatable
from penstock.messages import Call, Dialect, Endpoint
from penstock.net.origin import Origin
from penstock.upstream.capabilities import ANTHROPICS, Capabilities, capabilities
from penstock.upstream.fields import Fields
from penstock.upstream.ladder import How, Point
from penstock.upstream.prompt_cache import PromptCare, takes_key
from penstock.upstream.streamed import StreamTransfer
from penstock.upstream.transfer import Transfer
from penstock.upstream.unsaid import without
from penstock.wire import boundary, further, opaque, request
from penstock.wire.request import Extra
from penstock.wire.translate import Translation, translation

_ANTHROPIC = Dialect.ANTHROPIC
_RESPONSES = Endpoint.RESPONSES
_TELLS_USAGE = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})  # if a stream is asked for it

_HEAD = b"POST %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n"  # path, fixed fields, the call's fields, length
_JSON = b"content-type: application/json\r\n"
_IN_BACKGROUND = {"background": b"true", "store": b"true", "stream": b"true"}


class Encoder:
    """Makes the requests of one upstream.

    :param native: the endpoints that the upstream serves itself; for the others a call is translated
    :param base: path of its API
    :ivar running_usage: whether streams are to tell what was used as they go
    :ivar keeps_runs: whether it goes on with an answer whose connection broke, and tells the rest
    """

    def __init__(
        self, config: UpstreamConfig, origin: Origin, base: str, fields: Fields, native: frozenset[Endpoint]
    ) -> None:
        self.native = native
        self.running_usage = config.running_usage or config.kind in {"sim", "local"}
        self.keeps_runs = config.capabilities.generations
        self._config = config
        self._host = origin.host
        self._fields = fields
        self._speaks = _ANTHROPIC if config.kind in ANTHROPICS else Dialect.OPENAI
        self._token_ids = config.capabilities.token_ids or (
            config.kind == "local" and config.capabilities.token_ids is None
        )
        self._base = base.removesuffix("/v1")
        # OpenAI's SDK takes a base URL that ends in /v1 (or what stands for it), Anthropic's one without.
        versioned = config.kind == "openai" or base.endswith("/v1")
        self._root = base if versioned else base + "/v1"
        self._paths = {endpoint: self.place_of(endpoint.path).encode() for endpoint in Endpoint}

    def __repr__(self) -> str:
        return f"<Encoder for {self._config.base_url} in {self._speaks.value}>"

    def place_of(self, path: str) -> str:
        """Where what has this path in the provider's API (``/v1/...``) stands, from the server's root."""
        return self._root + path.removeprefix("/v1")

    def capabilities(self, model: str) -> Capabilities:
        """What the upstream can do for an answer that broke off; ``model`` is its own name."""
        return capabilities(self._config, self._host, model)

    # ---- a call ----

    def translated(self, call: Call) -> tuple[Endpoint, Translation]:
        """Where it is asked instead, and how, if the call's endpoint is not :attr:`native`.

        :raises penstock.errors.Untranslatable: this upstream cannot serve the call's endpoint
        """
        call = without(call, self._config.leave_out)
        translated = translation(call.endpoint, self._speaks, call.body, call.id)
        return translated.endpoint, translated

    def encode(
        self, call: Call, transfer: Transfer, model: str, care: PromptCare | None = None, extra: Extra = None
    ) -> tuple[bytes, bytes]:
        """Head and body of the upstream's request; ``model`` is its own name for the model.

        :param care: for its prompt cache; None: the prompt goes on as it came
        :param extra: members that it is asked with besides
        :raises penstock.errors.Untranslatable: this upstream's dialect cannot express the call
        """
        job = transfer.job
        if job.endpoint.opaque:
            body = opaque.renamed(call, model)
            head = self._head(call, job.endpoint, self._paths[job.endpoint], len(body))
            return head.replace(_JSON, b"content-type: %b\r\n" % opaque.content_type(call), 1), body
        # What the caller wants not kept is not made to be, whatever the upstream is told.
        in_background = job.endpoint is _RESPONSES and call.stream and self._asks_in_background(call, model)
        call = without(call, self._config.leave_out)
        body = self._body(call, job.endpoint, job.translation, model)
        if in_background:
            assert isinstance(transfer, StreamTransfer)
            body = request.rewritten(call.fields, model, _IN_BACKGROUND)
            transfer.keep_run()
            transfer.generation.kept = transfer.generation.attempts + 1
        if care is not None:
            fields = request.members(body)
            keyed = self._speaks is not _ANTHROPIC and takes_key(self._host)
            changes = care.changes(call, job.endpoint, fields, job.upstream, model, keyed=keyed)
            if changes:
                body = request.rewritten(fields, model, changes)
        if extra:
            body = request.with_members(body, extra)
        head, body = self.as_sent(call, job.endpoint, self._paths[job.endpoint], model, body)
        if job.keeps_runs:
            # So it waits for us after a break.  Each attempt has a name of its own: none is taken for another's.  Who
            # takes the answer over counts anew: asking the same he finds what runs, and anything else is another name.
            generation = transfer.generation
            name = f"{generation.id}-{generation.attempts + 1 if generation.attempt else 1}-{crc32(body):08x}"
            head = b"%bidempotency-key: %b\r\n\r\n" % (head[:-2], name.encode())
        return head, body

    def _asks_in_background(self, call: Call, model: str) -> bool:
        """Whether a streamed response is made where nothing breaks it; never where the caller wants it not kept."""
        if call.endpoint is not _RESPONSES or not (call.background or self._config.background):
            return False
        store = call.fields.get("store")
        return (store is None or bytes(store) != b"false") and self.capabilities(model).background

    def as_sent(
        self,
        call: Call,
        endpoint: Endpoint,
        path: bytes,
        model: str,  # noqa: ARG002 - it stands in the body; some want it elsewhere
        body: bytes,
    ) -> tuple[bytes, bytes]:
        """Head and body as they go out."""
        fields = self._fields.of_caller(call, endpoint.dialect)
        return _HEAD % (path, self._fields.own, fields, len(body)), body

    def _body(self, call: Call, endpoint: Endpoint, translated: Translation | None, model: str) -> bytes:
        if translated is not None:
            return translated.request(call.body, model)
        changes = None
        if call.stream and endpoint in _TELLS_USAGE:
            changes = {"stream_options": request.usage_wanted(call.fields, running=self.running_usage)}
            if self._token_ids:
                changes["return_token_ids"] = b"true"
        return request.rewritten(call.fields, model, changes)

    def _head(self, call: Call, endpoint: Endpoint, path: bytes, length: int) -> bytes:
        return _HEAD % (path, self._fields.own, self._fields.of_caller(call, endpoint.dialect), length)

    # ---- the rest of an answer that broke ----

    def asked_more(self, call: Call, model: str, how: How, point: Point) -> tuple[Endpoint, bytes, bytes]:
        """Endpoint, path and body of the request for the rest of an answer; :meth:`as_sent` makes its head.

        :raises penstock.errors.Untranslatable: this upstream cannot be asked in this way
        """
        endpoint, translated = self._asked_for_more(call, how)
        body = self._body(without(call, self._config.leave_out), endpoint, translated, model)
        path = self._paths[endpoint]
        text = point.delivered.text or ""
        received = point.delivered.output_tokens
        if how is How.TOKENS:
            assert point.token_ids is not None
            body = further.tokenised(body, *point.token_ids)
            endpoint, path = Endpoint.COMPLETIONS, self._paths[Endpoint.COMPLETIONS]
        elif how is How.PREFILL:
            capable = self.capabilities(model)
            form = capable.prefill_at(endpoint)
            if form is None:
                raise Untranslatable("this upstream takes no beginning of an answer")
            body = further.prefilled(endpoint, body, form, text[: boundary.safe_end(text)], received)
            if capable.prefill_base and endpoint is not Endpoint.MESSAGES:  # it is one of OpenAI's API
                path = (capable.prefill_base + endpoint.path.removeprefix("/v1")).encode()
        elif how is How.PROMPT:
            body = further.prompted(endpoint, body, text, boundary.anchor_of(text), received)
        if self.running_usage and translated is not None and endpoint is Endpoint.CHAT:
            body = further.with_running_usage(body)
        return endpoint, path, body

    def endpoint_for_more(self, call: Call) -> Endpoint | None:
        """Where it would be asked to go on with a text of the call's answer; None: nowhere."""
        try:
            return self._asked_for_more(call, How.PREFILL)[0]
        except Untranslatable:
            return None

    def _asked_for_more(self, call: Call, how: How) -> tuple[Endpoint, Translation | None]:
        # The Responses API has no form for an answer's beginning; whoever has that API has chats, too.
        formless = call.endpoint is Endpoint.RESPONSES and how in {How.PREFILL, How.PROMPT, How.TOKENS}
        if formless or call.endpoint not in self.native:
            endpoint, translated = self.translated(call)
            if translated.has_custom_tools:  # what goes on with a log knows nothing of the request's tools
                raise Untranslatable("an answer that may call custom tools is not gone on with here")
            return endpoint, translated
        return call.endpoint, None
