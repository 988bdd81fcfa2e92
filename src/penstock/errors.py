"""Every error that a caller can meet, and whose fault each one is.

::

    PenstockError
    ├── ConfigError                      the configuration file is wrong (never reaches a caller)
    ├── CallerError                      you: the request cannot be served as sent (4xx)
    │   ├── BadRequest            400      malformed JSON, wrong type, missing field
    │   │   ├── Untranslatable    400      the chosen upstream's dialect cannot express it
    │   │   ├── DigestMismatch    400      the content is not what its digest says
    │   │   ├── InconsistentLength 400     two things said about an upload's length contradict each other
    │   │   └── UploadCompleted   400      there is nothing to append to
    │   ├── Unauthenticated       401      no key, or one that nobody knows
    │   │   └── KeyExpired        401      a key whose time is over
    │   ├── Forbidden             403      a known key without the right
    │   ├── UnknownModel          404      no route for this model
    │   ├── NotFound              404      no such path, generation, ...
    │   ├── MethodNotAllowed      405
    │   ├── RequestTimeout        408      the body did not come in time
    │   ├── Conflict              409      a position that the log has not reached
    │   │   ├── OffsetMismatch    409      an append does not begin where the upload ends
    │   │   ├── BlocksLacking     409      a body is told in blocks, some of which are not here
    │   │   └── DictionaryLacking 409      a body is coded with a dictionary that is not here
    │   ├── Cancelled             409      the call was cancelled, or nobody waited for its answer any more
    │   ├── Gone                  410      it was there, and has been forgotten
    │   ├── UnsupportedVersion    412      of tus
    │   ├── BodyTooLarge          413
    │   ├── UnsupportedMedia      415
    │   ├── KeyReused             422      this idempotency key came with another body before
    │   ├── NotCached             504      only-if-cached, and nothing is kept
    │   └── UpstreamRefused       4xx      the upstream says that the request is wrong; its own words
    ├── PressureError                    too much at once; come back later
    │   ├── RateLimited           429      refused before queueing: a limit or budget
    │   │   └── LeaseWanted       429      not enough of a shared limit here, but perhaps elsewhere
    │   ├── Overloaded            503      refused before queueing: no room in the queue
    │   │   ├── Evicted           503      had a place in the queue, and had to make room
    │   │   └── DeadlinePassed    503      nobody has begun to answer, and it would be of no use any more
    │   ├── Draining              503      this process is going away
    │   ├── StorageUnavailable    503      files, batches or conversations cannot be reached now
    │   └── StorageFull           507      the disk has no room for them
    ├── UpstreamError                    they: the provider failed
    │   ├── UpstreamUnreachable   502      refused, reset, TLS, DNS
    │   │   └── UpstreamUntrusted 502      its certificate is not one that we trust
    │   ├── UpstreamTimeout       504      one of the four clocks ran out
    │   ├── UpstreamFailed        5xx      an error status from the provider (also its 429)
    │   └── UpstreamBroken        502      the answer broke off, stalled or made no sense
    │       └── UpstreamLeaving   502      it was broken off because the upstream is going away
    ├── ModelUnusable             503    us: a local model cannot be loaded; what to do about it
    └── InternalError             500    us: a defect

Each carries ``status`` (HTTP), ``code`` (machine-readable, stable) and ``kind`` (the ``type`` member
of the OpenAI and Anthropic error objects).  ``wire.problems`` renders one in the caller's dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar


class PenstockError(Exception):
    """Base of all errors raised on purpose.

    :param message: one sentence for the person who reads it; never a secret, never a traceback
    :param param: the request field at fault, if one is
    :param retry_after: seconds after which a retry makes sense, if that is known
    """

    status = 500
    code = "internal_error"
    kind = "api_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class ConfigError(PenstockError):
    """The configuration cannot be used; ``mistakes`` has one line for each fault, with file and line."""

    code = "invalid_config"

    def __init__(self, message: str, mistakes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.mistakes = mistakes


class CallerError(PenstockError):
    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class BadRequest(CallerError):
    pass


class Untranslatable(BadRequest):
    """The request is right, but the upstream that answers this model has no way to express it."""

    code = "untranslatable"


class DigestMismatch(BadRequest):
    code = "digest_mismatch"


class InconsistentLength(BadRequest):
    code = "inconsistent_length"


class UploadCompleted(BadRequest):
    code = "upload_completed"


class Unauthenticated(CallerError):
    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"


class KeyExpired(Unauthenticated):
    """``key``, ``tenant``: whose it was, for the log."""

    code = "expired_api_key"

    def __init__(self, message: str, *, key: str, tenant: str) -> None:
        super().__init__(message)
        self.key = key
        self.tenant = tenant


class Forbidden(CallerError):
    status = 403
    code = "permission_denied"
    kind = "permission_error"


class NotFound(CallerError):
    status = 404
    code = "not_found"
    kind = "not_found_error"


class UnknownModel(NotFound):
    code = "model_not_found"


class MethodNotAllowed(CallerError):
    """``allow``: the methods that the path does take, as its header field lists them."""

    status = 405
    code = "method_not_allowed"

    def __init__(
        self,
        message: str,
        *,
        allow: str = "",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        self.allow = allow


class RequestTimeout(CallerError):
    status = 408
    code = "request_timeout"


class Conflict(CallerError):
    status = 409
    code = "conflict"


class OffsetMismatch(Conflict):
    """``expected``: where the upload ends; ``provided``: where the append would have begun."""

    code = "offset_mismatch"

    def __init__(self, expected: int, provided: int) -> None:
        super().__init__(f"the upload ends at {expected}, and the append begins at {provided}")
        self.expected = expected
        self.provided = provided


class BlocksLacking(Conflict):
    """``lacking``: the digests of the blocks, in hexadecimal digits."""

    code = "blocks_lacking"

    def __init__(self, lacking: list[str]) -> None:
        super().__init__(f"{len(lacking)} of the body's blocks are not here: send them, then this once more")
        self.lacking = lacking


class DictionaryLacking(Conflict):
    code = "dictionary_lacking"


class Cancelled(CallerError):
    status = 409
    code = "cancelled"


class Gone(CallerError):
    status = 410
    code = "expired"


class UnsupportedVersion(CallerError):
    """The client speaks another tus than 1.0.0."""

    status = 412
    code = "unsupported_tus_version"


class BodyTooLarge(CallerError):
    status = 413
    code = "body_too_large"
    kind = "request_too_large"


class UnsupportedMedia(CallerError):
    status = 415
    code = "unsupported_media_type"


class KeyReused(CallerError):
    status = 422
    code = "idempotency_key_reused"


class NotCached(CallerError):
    """The caller wanted only what is kept (RFC 9111, 5.2.1.7 wants this status)."""

    status = 504
    code = "not_cached"


class _FromUpstream(PenstockError):
    """Mixin of the errors that carry an upstream's own answer.

    :ivar fields: of its header, those that the caller may see
    :ivar cause: what of the prompt another model may take: ``context_length``, ``content_filter``; empty: it is not that
    """

    fields: Sequence[tuple[bytes, bytes]] = ()
    cause: Literal["", "context_length", "content_filter"] = ""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        kind: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        upstream: str = "",
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        if status is not None:
            self.status = status
        if kind is not None:
            self.kind = kind
        self.upstream = upstream


class UpstreamRefused(_FromUpstream, CallerError):
    """The provider blames the request (400, 404, 413, 422 ...): another attempt would fail as well."""

    code = "upstream_refused"


class PressureError(PenstockError):
    status = 503
    code = "overloaded"
    kind = "overloaded_error"


Window: TypeAlias = tuple[float, float, float]
"""A rate limit as a caller may see it: the limit, what is left of it, seconds until it is whole again."""


class RateLimited(PressureError):
    """``requests``, ``tokens``: the tightest limits of that kind that hold for the call, if there are any."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        requests: Window | None = None,
        tokens: Window | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after=retry_after)
        self.requests = requests
        self.tokens = tokens


class LeaseWanted(RateLimited):
    """What the call needs of a shared limit this process has not been leased; it may be, within moments."""


class Overloaded(PressureError):
    pass


REFUSED = "degraded"
"""The code of a call that its tier's ladder refuses."""


class Evicted(Overloaded):
    """The call waited, and lost its place to one of a higher tier, or of a tenant with fewer places."""

    code = "evicted"


class DeadlinePassed(Overloaded):
    """Nobody has begun to answer the call, and from now on no answer would be of use."""

    code = "deadline_unreachable"


class Draining(PressureError):
    code = "draining"


class HandedOver(Draining):
    """Another process goes on with it, or has ended it."""


class StorageUnavailable(PressureError):
    code = "storage_unavailable"


class StorageFull(PressureError):
    status = 507
    code = "storage_full"


class UpstreamError(_FromUpstream):
    """The provider failed; another attempt, or another provider, may succeed."""

    status = 502
    code = "upstream_error"
    kind = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    code = "upstream_unreachable"


class UpstreamUntrusted(UpstreamUnreachable):
    """Its certificate is not trusted: somebody has to mend it, no retry will."""

    code = "upstream_untrusted"


class UpstreamTimeout(UpstreamError):
    """A clock ran out; ``clock`` is ``connect``, ``first_token``, ``between_tokens`` or ``total``."""

    status = 504
    code = "upstream_timeout"

    def __init__(self, message: str, *, clock: str, upstream: str = "") -> None:
        super().__init__(message, upstream=upstream)
        self.clock = clock


class UpstreamFailed(UpstreamError):
    """The provider answered with an error status that is not the request's fault (5xx, 429, 401)."""

    code = "upstream_failed"


class UpstreamBroken(UpstreamError):
    """The answer began, and then broke off, stalled or stopped making sense."""

    code = "upstream_broken"


class UpstreamLeaving(UpstreamBroken):
    """The answer was broken off on purpose, because the upstream is going away: it goes on elsewhere."""

    code = "upstream_leaving"


class ModelUnusable(PenstockError):
    """A local model's files are missing, cut off or of no use here; the message names file and remedy."""

    status = 503
    code = "model_unusable"


class InternalError(PenstockError):
    pass


_Error = TypeVar("_Error", bound=BaseException)


def untraced(error: _Error) -> _Error:
    """The same error, without the way that it and what led to it have come.

    A traceback holds its frames, and these what had been received, megabytes maybe, for as long as anybody has the error;
    where a frame has it in turn, until the garbage collector comes.  For who keeps an error, once it has been dealt with.
    """
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            left += (one.__cause__, one.__context__)
    return error
