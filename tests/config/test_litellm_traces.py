"""The callback ``otel`` of a LiteLLM proxy, converted."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.litellm import convert
from penstock.config.load import parse
from penstock.config.model import TracesConfig

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
KEY = "litellm_settings.callbacks.otel"


def converted(environ, written=None, callbacks=("otel",), **more):
    source = {"model_list": [], "litellm_settings": {"callbacks": list(callbacks)}, **more}
    if written is not None:
        source["environment_variables"] = written
    conversion = convert(yaml.safe_dump(source), "config.yaml", environ)
    left = {one.key: one.reason for one in conversion.left}
    return parse(conversion.text, "out.yaml", environ).traces, left, conversion


def revealed(traces):
    return {name: value.reveal() for name, value in traces.headers.items()}


def test_without_the_callback_nothing_is_traced_whatever_the_environment_says():
    traces, left, _ = converted(ENDPOINT, callbacks=["prometheus"])
    assert traces == TracesConfig()
    assert list(left) == ["litellm_settings.callbacks"]


@pytest.mark.parametrize(
    ("environ", "endpoint", "written"),
    [
        (ENDPOINT, "http://collector:4318", "${OTEL_EXPORTER_OTLP_ENDPOINT}"),
        (
            {"OTEL_ENDPOINT": "http://b/v1/traces", "OTEL_EXPORTER": "otlp_http"},
            "http://b/v1/traces",
            "${OTEL_ENDPOINT}",
        ),
        (
            {**ENDPOINT, "OTEL_ENDPOINT": "http://b"},
            "http://collector:4318",
            "${OTEL_EXPORTER_OTLP_ENDPOINT}",
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "http://collector:4318",
            "${OTEL_EXPORTER",
        ),
        ({**ENDPOINT, "OTEL_EXPORTER": "console"}, "http://collector:4318", "${OTEL_EXPORTER_OTLP_ENDPOINT}"),
    ],
)
def test_an_endpoint_of_the_environment_stays_there(environ, endpoint, written):
    traces, left, conversion = converted(environ)
    assert traces == TracesConfig(endpoint=endpoint)
    assert f"endpoint: {written}" in conversion.text
    assert list(left) == [KEY]  # what its spans say otherwise


def test_what_the_file_sets_goes_before_the_environment_and_is_taken_from_it():
    written = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://file:4318", "OTEL_SERVICE_NAME": "os.environ/NAME"}
    traces, left, conversion = converted({**ENDPOINT, "NAME": "llm"}, written)
    assert (traces.endpoint, traces.service_name) == ("http://file:4318", "llm")
    assert conversion.variables == ("NAME",)
    assert "environment_variables" not in left
    assert "environment_variables" in converted({"NAME": "llm"}, {**written, "A": "b"})[1]


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "is not set here"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "4318"),
        ({"OTEL_ENDPOINT": "http://b:4317", "OTEL_EXPORTER": "otlp_grpc"}, "4318"),
        ({**ENDPOINT, "OTEL_EXPORTER": "in_memory"}, "by OTLP over HTTP"),
    ],
)
def test_spans_that_cannot_go_where_they_went_are_listed(environ, reason):
    traces, left, _ = converted(environ)
    assert traces == TracesConfig()
    assert reason in left[KEY]


def test_an_endpoint_that_is_none_is_listed_under_its_name():
    traces, left, _ = converted({"OTEL_ENDPOINT": "collector:4318"})
    assert traces == TracesConfig()
    assert "http://" in left["OTEL_ENDPOINT"]


def test_header_fields_of_the_file_come_along_decoded():
    written = {"OTEL_HEADERS": "Authorization=Bearer%20a=b, x-team=${T},,no field, x-empty="}
    traces, left, conversion = converted(ENDPOINT, written)
    assert revealed(traces) == {"authorization": "Bearer a=b", "x-team": "${T}"}
    assert left["OTEL_HEADERS"] == "an entry is no header field"
    assert "better in the environment" in conversion.text


@pytest.mark.parametrize("written", [None, {"OTEL_HEADERS": "os.environ/OTEL_HEADERS"}])
def test_header_fields_of_the_environment_are_not_written_down(written):
    traces, left, conversion = converted({**ENDPOINT, "OTEL_HEADERS": "x-key=secret"}, written)
    assert revealed(traces) == {}
    assert "OTEL_EXPORTER_OTLP_HEADERS" in left["OTEL_HEADERS"]
    assert "secret" not in conversion.text


def test_header_fields_that_opentelemetry_finds_itself_are_left_to_it():
    traces, left, _ = converted({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"})
    assert revealed(traces) == {}
    assert list(left) == [KEY]


@pytest.mark.parametrize(
    ("sampler", "share", "sample", "listed"),
    [
        ("parentbased_traceidratio", "0.25", 0.25, False),
        ("parentbased_traceidratio", "7", 1.0, True),
        ("parentbased_always_on", "0.25", 1.0, False),
        ("always_off", "", 1.0, True),
    ],
)
def test_a_sampler_that_asks_the_caller_first_comes_along(sampler, share, sample, listed):
    environ = {**ENDPOINT, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": share}
    traces, left, _ = converted(environ)
    assert traces.sample == sample
    assert ("OTEL_TRACES_SAMPLER" in left) == listed


def test_what_else_it_is_told_is_listed_unless_it_is_so_here():
    environ = {
        **ENDPOINT,
        "OTEL_ENVIRONMENT_NAME": "prod",
        "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true",
        "LITELLM_OTEL_INTEGRATION_ENABLE_EVENTS": "false",
    }
    settings = {"otel": {"message_logging": False}}
    _, left, _ = converted(environ, callback_settings=settings)
    assert set(left) == {KEY, "OTEL_ENVIRONMENT_NAME", "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS"}
    _, left, _ = converted(ENDPOINT, callback_settings={"otel": {"message_logging": True, "x": 1}, "y": {}})
    assert set(left) == {
        KEY,
        "callback_settings.otel.message_logging",
        "callback_settings.otel.x",
        "callback_settings",
    }


_NAMES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_ENDPOINT",
    "OTEL_EXPORTER",
    "OTEL_HEADERS",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
)
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
_TEXT = st.sampled_from(["http://h", "grpc", "otlp_http", "os.environ/X", "${X}", "a=b", "a=b\n", "0.5", "parentbased_traceidratio"])  # fmt: skip
_ANY = (
    _TEXT
    | st.text(_CHARACTERS, max_size=6)
    | st.integers(-3, 3)
    | st.booleans()
    | st.none()
    | st.lists(_TEXT, max_size=2)
)


@given(
    st.dictionaries(st.sampled_from(_NAMES), _ANY),
    st.dictionaries(st.sampled_from(_NAMES), _TEXT),
    st.sampled_from(["callbacks", "success_callback"]),
    st.just("otel") | st.lists(_ANY | st.just("otel"), max_size=3),
    st.dictionaries(
        st.sampled_from(["otel", "x"]),
        st.dictionaries(st.text(_CHARACTERS, max_size=2), _ANY, max_size=2) | _ANY,
    ),
)
def test_whatever_is_said_of_spans_the_result_can_be_loaded(written, environ, where, callbacks, settings):
    source = {"model_list": [], "environment_variables": written, "callback_settings": settings}
    source["litellm_settings"] = {where: callbacks}
    conversion = convert(yaml.safe_dump(source), "config.yaml", environ)
    parse(conversion.text, "out.yaml", dict.fromkeys(conversion.variables, "http://127.0.0.1:1"))
