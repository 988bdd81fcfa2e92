"""From the callback ``otel``, and the environment variables by which it is told where spans go.

As LiteLLM reads them (``OpenTelemetryConfig.from_env``): each of OpenTelemetry's own names goes before LiteLLM's, and
what its file says under ``environment_variables`` before the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from penstock.config._upstream_meaning import header_fault
from penstock.config.address import check_base_url
from penstock.config.litellm._draft import Draft, Traces
from penstock.config.litellm._values import Plain, as_list, number, text
from penstock.config.references import variables
from penstock.config.writing import escaped

CALLBACK = "otel"
_LISTS = ("callbacks", "success_callback", "failure_callback", "service_callback")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER")
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_HEADERS")
# Console: unless there is an endpoint.
_OVER_HTTP = frozenset({"otlp_http", "http/protobuf", "http/json", "console"})
_OVER_GRPC = frozenset({"otlp_grpc", "grpc"})
_SAMPLER, _SHARE = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_BY_RESOURCE = ("OTEL_ENVIRONMENT_NAME", "OTEL_MODEL_ID")
_METRICS = "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS"
_EVENTS = "LITELLM_OTEL_INTEGRATION_ENABLE_EVENTS"


class _Variables:
    """What stands under ``environment_variables``, which is taken from there, and the environment."""

    def __init__(self, source: Plain, environ: Mapping[str, str]) -> None:
        written = source.get("environment_variables")
        self._written = written if isinstance(written, dict) else {}
        self._environ = environ

    def take(self, *names: str) -> tuple[str, str | None, str]:
        """Which of them is there first, as it is to stand in our file, and its value ("": not known here)."""
        found: tuple[str, str | None, str] = (names[0], None, "")
        for name in reversed(names):
            written = text(self._written.get(name))
            if written is not None:
                value = str(self._written.pop(name))
                for variable in variables(written):
                    value = self._environ.get(variable, "")
                found = (name, written, value)
            elif self._environ.get(name):
                found = (name, "${" + name + "}", self._environ[name])
        return found


def take_traces(draft: Draft, source: Plain, library: Plain, environ: Mapping[str, str]) -> None:
    """Convert where spans go, if they go anywhere."""
    if not _take_callback(library):
        return
    _take_settings(draft, source)
    key = f"litellm_settings.callbacks.{CALLBACK}"
    told = _Variables(source, environ)
    _, protocol, spoken = told.take(*_PROTOCOLS)
    named, endpoint, address = told.take(*_ENDPOINTS)
    service_name = told.take("OTEL_SERVICE_NAME")[1]
    headers = _headers(draft, told)
    sample = _sample(draft, told)
    _leave_the_rest(draft, told)
    if isinstance(source.get("environment_variables"), dict) and not source["environment_variables"]:
        del source["environment_variables"]
    if protocol is not None and spoken in _OVER_GRPC:
        draft.leave(
            key,
            "spans go over HTTP here: say the collector's port for that, 4318 as a rule, in `traces.endpoint`",
        )
    elif protocol is not None and spoken not in _OVER_HTTP:
        draft.leave(key, "spans go to a collector, by OTLP over HTTP: say where it is in `traces.endpoint`")
    elif endpoint is None:
        draft.leave(
            key,
            f"{' or '.join(_ENDPOINTS)} is not set here; set it and convert again, or say `traces.endpoint`",
        )
    elif address and _fault(address):
        draft.leave(named, f"{_fault(address)}; say `traces.endpoint`")
    else:
        draft.traces = Traces(endpoint, headers, service_name, sample)
        draft.leave(
            key,
            "it is `traces` here, whose spans have no prompts and answers and other names; see docs/topics/traces.md",
        )


def _take_callback(library: Plain) -> bool:
    """Whether it is among the callbacks; they are without it then."""
    found = False
    for name in _LISTS:
        listed = as_list(library.get(name))
        if CALLBACK in listed:
            found = True
            library[name] = [one for one in listed if one != CALLBACK]
            if not library[name]:
                del library[name]
    return found


def _take_settings(draft: Draft, source: Plain) -> None:
    settings = source.get("callback_settings")
    if not isinstance(settings, dict) or not isinstance(settings.get(CALLBACK), dict):
        return
    own = settings.pop(CALLBACK)
    if own.get("message_logging") is False:  # as here
        del own["message_logging"]
    for name in own:
        draft.leave(f"callback_settings.{CALLBACK}.{name}")
    if not settings:
        del source["callback_settings"]


def _headers(draft: Draft, told: _Variables) -> dict[str, str]:
    name, written, said = told.take(*_HEADERS)
    if written is None:
        return {}
    if variables(written):
        if written != "${" + _HEADERS[0] + "}":  # that one is read from there
            draft.leave(name, f"say its header fields in `traces.headers`, or set it as {_HEADERS[0]}")
        return {}
    headers = {}
    for pair in said.split(","):
        field, _, value = pair.partition("=")
        field, value = field.strip().lower(), unquote(value.strip())
        if field and value and not header_fault(field, value):
            headers[field] = escaped(value)
        elif pair.strip():
            draft.leave(name, "an entry is no header field")
    return headers


def _sample(draft: Draft, told: _Variables) -> float | None:
    _, sampler, chosen = told.take(_SAMPLER)
    share = number(told.take(_SHARE)[2])
    if sampler is None or chosen == "parentbased_always_on":
        return None
    if chosen == "parentbased_traceidratio" and (share is None or share <= 1):
        return share
    draft.leave(
        _SAMPLER, "a caller's own decision goes first here; of other calls `traces.sample` is the share"
    )
    return None


def _leave_the_rest(draft: Draft, told: _Variables) -> None:
    for name in _BY_RESOURCE:
        if told.take(name)[1] is not None:
            draft.leave(name, "say it in OTEL_RESOURCE_ATTRIBUTES")
    if told.take(_METRICS)[2].lower() == "true":
        draft.leave(_METRICS, "metrics are there to be scraped; see docs/metrics.md")
    if told.take(_EVENTS)[2].lower() == "true":
        draft.leave(_EVENTS, "prompts and answers are never sent")


def _fault(address: str) -> str:
    try:
        check_base_url(address)
    except ValueError as error:
        return str(error)
    return ""
