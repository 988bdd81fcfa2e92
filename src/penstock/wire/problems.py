"""Errors on the wire: ours in the caller's dialect, and an upstream's in our own words.

Both SDKs choose their exception class by the HTTP status; ``type``, ``code`` and ``param`` become
attributes of the exception.  Inside a stream the status is long gone: the ``openai`` SDK raises for any
event whose data has an ``error`` member, the ``anthropic`` SDK for an event named ``error``.

An upstream's words reach the caller cleaned and shortened, and never where the upstream speaks of *our*
account (its key, its credit): that is nobody's business but the operator's.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import http
import math
import re
import time

import msgspec

from penstock.errors import Draining, MethodNotAllowed, PenstockError, UpstreamFailed, UpstreamRefused
from penstock.messages import JSON, Dialect, Endpoint, Headers
from penstock.wire import sse
from penstock.wire.not_json import NOT_JSON
from penstock.wire.refusal_causes import CODE_OF, cause_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

# ---- ours, in the caller's dialect -----------------------------------------------------------------

_ANTHROPIC_TYPES = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "timeout_error",
        "api_error",
        "overloaded_error",
        "conflict_error",
    }
)
_ANTHROPIC_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def render(
    error: PenstockError, dialect: Dialect, generation_id: str = ""
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, header fields and body of the answer that tells a caller of this error."""
    headers = [(b"content-type", b"application/json")]
    if error.retry_after is not None and error.retry_after >= 0 and math.isfinite(error.retry_after):
        # Whole seconds for everybody (RFC 9110, 10.2.3); both SDKs prefer the milliseconds.
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(error.retry_after * 1000)))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, 15.5.2: a 401 must carry one
    if isinstance(error, MethodNotAllowed) and error.allow:
        headers.append((b"allow", error.allow.encode()))  # 15.5.6: so must a 405
    if isinstance(error, Draining):  # for clients that know another gateway, before they have read the body
        headers.append((b"penstock-status", Draining.code.encode()))
    form = _anthropic_form if dialect is Dialect.ANTHROPIC else _openai_form
    return error.status, headers, _encode(form(error, generation_id))


def render_event(error: PenstockError, endpoint: Endpoint, generation_id: str = "") -> bytes:
    """The frame that ends a stream which cannot go on; the official SDK raises on it."""
    form = _anthropic_form if endpoint.dialect is Dialect.ANTHROPIC else _openai_form
    return _event(form(error, generation_id), endpoint)


def event_of(body: bytes, endpoint: Endpoint) -> bytes:
    """The same frame, of the body of an answer that tells of an error; empty: the body tells of none."""
    try:
        told = _decode(body)
    except NOT_JSON:
        return b""
    if not isinstance(told, dict) or not isinstance(told.get("error"), dict):
        return b""
    return _event(told, endpoint)


def _event(form: dict[str, JSON], endpoint: Endpoint) -> bytes:
    if endpoint.dialect is Dialect.ANTHROPIC:
        return sse.encode(_encode(form), "error")
    if endpoint is Endpoint.RESPONSES:
        # The documented members, and `error` beside them: only on that one does the SDK raise.
        told: dict[str, JSON] = form["error"]
        event = {
            "type": "error",
            "sequence_number": 0,
            "code": told.get("code"),
            "message": told.get("message"),
            "param": told.get("param"),
            **form,
        }
        return sse.encode(_encode(event), "error")
    return sse.encode(_encode(form))


def _openai_form(error: PenstockError, generation_id: str) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        "message": error.message,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    if generation_id:
        told["generation_id"] = generation_id
    return {"error": told}


def _anthropic_form(error: PenstockError, generation_id: str) -> dict[str, JSON]:
    kind = error.kind
    if kind not in _ANTHROPIC_TYPES or error.status in (404, 408, 409, 413, 504):
        default = "api_error" if error.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPE_OF_STATUS.get(error.status, default)
    message = error.message
    if error.param:
        message = f"{error.param}: {message}"  # Anthropic has no member for it, and writes it like this
    told = {"type": kind, "message": message, "details": {"error_code": error.code}}
    return {"type": "error", "error": told, "request_id": generation_id or None}


# ---- an upstream's, in our words -------------------------------------------------------------------

# Of a longer body only this much is looked at: enough for any honest error.
_READ_BYTES = 65_536
_MESSAGE_LENGTH = 1_000
_DEEPEST = 8  # objects and lists in each other around an error's words

# Keys as providers write them; the loose prefixes only where a digit or an asterisk shows that it is no name.
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai)-[\w*.-]{6,}|\b(?:key|api)[-_](?=[\w*-]*[\d*])[\w*-]{16,}|\bBearer\s+\S+",
    re.IGNORECASE,
)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

_REFUSED = "upstream_refused"
_AUTHENTICATION = "upstream_authentication"
_FORBIDDEN = "upstream_forbidden"
_BILLING = "upstream_billing"

CODES = frozenset({_REFUSED, _AUTHENTICATION, _FORBIDDEN, _BILLING, *CODE_OF.values()})
"""The codes that are given here; besides, a provider's own code is passed on."""
OF_THE_ACCOUNT = frozenset({_AUTHENTICATION, _BILLING})
"""Those of a failure that lasts until a person mends it, whatever is asked: of the gateway's key, or of its credit."""
NOT_MENDED_SOON = OF_THE_ACCOUNT | {_FORBIDDEN}
"""Those of failures that another attempt at the same upstream would meet, too."""

# Most providers say 401 of a key that they do not accept, some 403; others say 403 of a model, a feature or a prompt.
_BAD = r"\b(?:incorrect|invalid|expired|revoked|disabled|missing|leaked|unrecognized|not match)\b"
_KEY = r"\b(?:key|token|credentials?|signature)\b"
_BAD_KEY = re.compile(f"{_BAD}.{{0,60}}{_KEY}|{_KEY}.{{0,60}}{_BAD}", re.IGNORECASE)
_NO_CREDIT = re.compile(r"credit balance|insufficient balance", re.IGNORECASE)
# By code or type: OpenAI's and Moonshot's.  By its words alone it cannot be told: Gemini has the same for a minute's rate.
_NO_QUOTA = frozenset({"insufficient_quota", "exceeded_current_quota_error"})
_OF_KEY = frozenset({401, 402, 403})

_LONGEST_WAIT = 86_400.0  # seconds that a caller is told to wait because an upstream says so

_STATUS_OF_FAILURE = {408: 504, 424: 502, 425: 503, 503: 503, 504: 504, 522: 504, 524: 504, 529: 503}


class _Told(msgspec.Struct):
    """What an upstream's error object says, whatever its form."""

    message: str = ""
    kind: str = ""
    code: str = ""
    param: str | None = None
    status: int = 0


def from_upstream(
    upstream: str,
    status: int,
    headers: Headers,
    body: bytes,
    *,
    now: float | None = None,
    callers_key: bool = False,
) -> PenstockError:
    """What an error status of an upstream means to us and to the caller.

    Many answer in another dialect's form than their own, or in none, so all are understood.

    :param now: Unix time, against which a date in ``Retry-After`` is read
    :param callers_key: the key that the upstream saw was the caller's own, not the gateway's
    """
    retry_after = _retry_after(headers, time.time() if now is None else now)
    return _meant(upstream, status, _told(body), retry_after, callers_key=callers_key)


def _meant(
    upstream: str, status: int, told: _Told, retry_after: float | None, *, callers_key: bool = False
) -> PenstockError:
    no_credit = status == 402 or (400 <= status <= 429 and _says_no_credit(told))
    if callers_key and (no_credit or status in (401, 403)):
        missed = "says that your account has no credit left" if no_credit else "did not accept your key"
        message = f"{upstream}: {told.message}" if told.message else f"{upstream} {missed}"
        code = (told.code or _BILLING) if no_credit else _AUTHENTICATION
        kind = told.kind if no_credit and told.kind in _ANTHROPIC_TYPES else _kind_of_refusal(status)
        return UpstreamRefused(message, status=status, code=code, kind=kind, upstream=upstream)
    if status == 401 or (status == 403 and _BAD_KEY.search(told.message)):
        return UpstreamFailed(
            f"{upstream} did not accept the gateway's credentials",
            status=502,
            code=_AUTHENTICATION,
            upstream=upstream,
        )
    if status == 403:
        why = f": {told.message}" if told.message else ""
        forbidden = UpstreamFailed(
            f"{upstream} does not allow the gateway's account this call{why}",
            status=502,
            code=_FORBIDDEN,
            upstream=upstream,
        )
        forbidden.cause = cause_of(told.code, told.kind, told.message)
        return forbidden
    if no_credit:
        return UpstreamFailed(
            f"{upstream} has no credit left for the gateway's account",
            status=502,
            code=_BILLING,
            upstream=upstream,
        )
    message = f"{upstream}: {told.message}" if told.message else f"{upstream} answered {_phrase(status)}"
    if status == 429:
        return UpstreamFailed(
            message,
            status=429,
            code=told.code or "rate_limit_exceeded",
            kind="rate_limit_error",
            retry_after=retry_after,
            upstream=upstream,
        )
    if 400 <= status < 500 and status not in _STATUS_OF_FAILURE:
        cause = cause_of(told.code, told.kind, told.message)
        code = told.code or CODE_OF.get(cause, _REFUSED)
        kind = told.kind if told.kind in _ANTHROPIC_TYPES else _kind_of_refusal(status)
        refused = UpstreamRefused(
            message, status=status, code=code, kind=kind, param=told.param, upstream=upstream
        )
        refused.cause = cause
        return refused
    failed = _STATUS_OF_FAILURE.get(status, 502)
    return UpstreamFailed(
        message,
        status=failed,
        kind="overloaded_error" if failed == 503 else None,
        retry_after=retry_after,
        upstream=upstream,
    )


def _says_no_credit(told: _Told) -> bool:
    return told.code in _NO_QUOTA or told.kind in _NO_QUOTA or _NO_CREDIT.search(told.message) is not None


def says_overload(error: PenstockError) -> bool:
    """Whether the upstream's words say that it has too much to do, whatever its status."""
    return "overload" in error.code or "overload" in error.message.lower()


def is_of_key(error: BaseException | None) -> bool:
    """Whether an upstream's error concerns the owner of the key alone: the key itself, its credit, or its rate."""
    if not isinstance(error, UpstreamFailed | UpstreamRefused):
        return False
    if error.code in NOT_MENDED_SOON or error.status in _OF_KEY:
        return True
    return error.status == 429 and not says_overload(error)


def error_in_event(data: bytes, upstream: str = "", *, callers_key: bool = False) -> PenstockError | None:
    """The error that an event inside an upstream's stream reports; None: it reports none."""
    if b"error" not in data:
        return None
    try:
        event = _decode(data)
    except NOT_JSON:
        return None
    if not isinstance(event, dict):
        return None
    if not event.get("error") and "error" not in (event.get("type"), event.get("object")):
        return None
    told = _told_by(event)
    status = told.status or status_of_type(told.kind) or status_of_type(told.code) or 500
    if not told.message:
        told = _Told(message="an error in mid-stream, without a message")
    return _meant(upstream or "the upstream", status, told, None, callers_key=callers_key)


_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "tokens": 429,
    "requests": 429,
    "insufficient_quota": 429,
    "exceeded_current_quota_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    "server_overloaded": 529,
}


def status_of_type(kind: str) -> int | None:
    """The status with which an error of this type, or with this code, is answered by who says no status; None: unknown."""
    return _STATUS_OF_TYPE.get(kind)


def _kind_of_refusal(status: int) -> str:
    return _ANTHROPIC_TYPE_OF_STATUS.get(status, "invalid_request_error")


def _phrase(status: int) -> str:
    try:
        return f"{status} ({http.HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)


def _told(body: bytes) -> _Told:
    if not body or len(body) > _READ_BYTES:
        return _Told()
    try:
        return _told_by(_decode(body))
    except NOT_JSON:
        pass
    text = body[:_MESSAGE_LENGTH].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if not text or text[0] in "<{[" or "\ufffd" in text:  # a page of HTML, broken JSON, no text at all
        return _Told()
    return _Told(message=_clean(text.splitlines()[0]))


def _told_by(value: JSON) -> _Told:
    """Understands OpenAI's and Anthropic's form, and those of vLLM, Mistral, Ollama, FastAPI, Gemini."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return _Told()
    inner = value.get("error")
    if isinstance(inner, str):
        return _Told(message=_clean(inner))
    source = inner if isinstance(inner, dict) else value
    message = source.get("message") or source.get("detail") or value.get("detail")
    kind = source.get("type")
    code = source.get("code")
    details = source.get("details")
    if not isinstance(code, str) and isinstance(details, dict):
        code = details.get("error_code")
    param = source.get("param")
    number = source.get("code") or source.get("status")
    return _Told(
        message=_clean(_sentence(message)),
        kind=kind if isinstance(kind, str) and kind != "error" else "",
        code=code if isinstance(code, str) and len(code) <= 100 and not code.isdigit() else "",
        param=_clean(param)[:200] if isinstance(param, str) else None,
        status=number if isinstance(number, int) and 400 <= number < 600 else 0,
    )


def _sentence(message: JSON) -> str:
    """A message may be a string, or what a validator wrote: a list of objects with ``loc`` and ``msg``."""
    places: list[str] = []
    for _ in range(_DEEPEST):
        if isinstance(message, dict):
            message = message.get("message") or message.get("detail") or message.get("msg")
        elif isinstance(message, list) and message and isinstance(first := message[0], dict):
            place = first.get("loc")
            steps = [str(step) for step in place if step != "body"] if isinstance(place, list) else []
            places.append(".".join(steps))
            message = first.get("msg") or first.get("message")
        else:
            break
    if not isinstance(message, str) or not message:
        return ""
    return ": ".join([*filter(None, places), message])


def _clean(text: str) -> str:
    text = _SECRET.sub("[redacted]", text[: 4 * _MESSAGE_LENGTH])
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= _MESSAGE_LENGTH else text[:_MESSAGE_LENGTH] + "…"


def _retry_after(headers: Headers, now: float) -> float | None:
    for name, scale in ((b"retry-after-ms", 1000.0), (b"retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            if name == b"retry-after":
                return _until(value, now)
            continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), _LONGEST_WAIT)
    return None


def _until(date: bytes, now: float) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date.decode("latin-1"))
        if moment.tzinfo is None:  # as asctime() prints it, which is UTC, wherever we are (RFC 9110, 5.6.7)
            moment = moment.replace(tzinfo=dt.UTC)
        return min(max(moment.timestamp() - now, 0.0), _LONGEST_WAIT)
    except (TypeError, ValueError, OverflowError):
        return None
