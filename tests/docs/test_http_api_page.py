"""The page about the HTTP API has every endpoint, header, status and code, and no others."""

from __future__ import annotations

import ast
import http.client
import importlib
import json
import re
import threading
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
from doc_pages import PATIENCE, Page

import penstock
from penstock import errors
from penstock.admin.control import make_app
from penstock.config.model import LimitConfig
from penstock.flow.account import Account
from penstock.flow.budget import Calendar
from penstock.gateway import own_key
from penstock.gateway.routes import RELAYED
from penstock.gateway.stored import _METHODS
from penstock.messages import PROCESS_DIED, Dialect, Endpoint
from penstock.upstream import fields, transfer
from penstock.wire import credentials, problems, ratelimits

PAGE = Page("docs/http-api.md")
SOURCE = Path(penstock.__file__).parent
# Rooms whose errors no caller of the gateway meets.
JSON = [block.text for block in PAGE.blocks if block.language == "json"]
NOT_SERVED = {"optimize", "lab", "cli", "testing", "config", "engine"}


def rows(section):
    """The cells of the tables under a heading."""
    found = [line.strip("| ").split(" | ") for line in PAGE.section(section).splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in found if "---" not in row[0]]


# ---- endpoints -------------------------------------------------------------------------------------------

ENDPOINT = re.compile(r"`([A-Z]+) (/[^`]*)`")


KEPT = {
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/{id}"),
    ("GET", "/v1/files/{id}/content"),
    ("DELETE", "/v1/files/{id}"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", "/v1/batches/{id}"),
    ("POST", "/v1/batches/{id}/cancel"),
}
MESSAGE_BATCHES = {
    ("POST", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches"),
    ("GET", "/v1/messages/batches/{id}"),
    ("GET", "/v1/messages/batches/{id}/results"),
    ("POST", "/v1/messages/batches/{id}/cancel"),
    ("DELETE", "/v1/messages/batches/{id}"),
}
CONVERSATIONS = {
    ("POST", "/v1/conversations"),
    *((method, "/v1/conversations/{id}") for method in ("GET", "POST", "DELETE")),
    *((method, "/v1/conversations/{id}/items") for method in ("GET", "POST")),
    *((method, "/v1/conversations/{id}/items/{item}") for method in ("GET", "DELETE")),
}
UPLOADS = {
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/{id}/parts"),
    ("POST", "/v1/uploads/{id}/complete"),
    ("POST", "/v1/uploads/{id}/cancel"),
    ("HEAD", "/v1/uploads/{id}"),
    ("GET", "/v1/uploads/{id}"),
    ("PATCH", "/v1/uploads/{id}"),
    ("DELETE", "/v1/uploads/{id}"),
    ("OPTIONS", "/v1/uploads"),
    ("PUT", "/v1/blocks/{sha256}"),
}


def test_every_endpoint_of_the_data_port_is_there():
    told = {found for row in rows("Data port") for found in ENDPOINT.findall(row[0])}
    own = {("GET", path) for path in ("/v1/models", "/v1/models/{name}", "/v1/key", "/", "/healthz")}
    stored = {
        (method, f"/v1/{kind}/{{id}}" + (f"/{rest}" if rest else ""))
        for (kind, rest), methods in _METHODS.items()
        for method in methods
    }
    assert told == own | KEPT | MESSAGE_BATCHES | CONVERSATIONS | UPLOADS | stored | {
        ("POST", path) for path in RELAYED
    }


def test_each_endpoint_answers(gateway):
    told = {found for row in rows("Data port") for found in ENDPOINT.findall(row[0])}
    for method, path in told - KEPT - UPLOADS:
        found = path.replace("{name}", "sim").replace("{id}", "gen_" + "0" * 32)
        body = b'{"items": [{"role": "user", "content": "hi"}]}' if path.endswith("/items") else b"{}"
        status, _, _ = ask(gateway.url, method, found, body=body)
        wants_nothing = method == "GET" or path == "/v1/conversations"
        assert status == (404 if "{id}" in path else 200 if wants_nothing else 400), path
    assert ask(gateway.url, "GET", "/v1/nothing")[0] == 404


def test_each_endpoint_of_files_and_batches_answers(gateway):
    form = (
        '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nno batch\r\n--b--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=b"}
    file = json.loads(ask(gateway.url, "POST", "/v1/files", body=form.encode(), **kind)[2])
    asked = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch = json.loads(ask(gateway.url, "POST", "/v1/batches", body=json.dumps(asked).encode())[2])
    for method, path in sorted(KEPT - {("POST", "/v1/files"), ("POST", "/v1/batches")}, reverse=True):
        found = file if path.startswith("/v1/files") else batch
        status, _, _ = ask(gateway.url, method, path.replace("{id}", found["id"]))
        # It may have failed by then.
        assert status in ({200, 409} if path.endswith("/cancel") else {200}), path
    assert ask(gateway.url, "GET", f"/v1/files/{file['id']}")[0] == 404
    assert ask(gateway.url, "PUT", "/v1/batches")[0] == 405
    assert ask(gateway.url, "GET", "/v1/batches/a/b")[0] == 404


def test_each_endpoint_of_uploads_answers(gateway):
    for method, path in sorted(UPLOADS):
        found = path.replace("{id}", "upload_" + "0" * 32).replace("{sha256}", "0" * 64)
        kind = "application/partial-upload" if method == "PATCH" else "multipart/form-data; boundary=b"
        said = {"content-type": kind, "upload-offset": "0", "upload-complete": "?0"}
        body = b'{"part_ids": ["part_0"]}' if path.endswith("/complete") else b"{}"
        status, _, _ = ask(gateway.url, method, found, body=body, **said)
        assert status == (404 if "{id}" in path else 204 if method == "OPTIONS" else 400), (method, path)


def test_every_endpoint_of_the_control_port_is_there():
    told = {found for row in rows("Control port") for found in ENDPOINT.findall(row[0])}
    app = make_app(Mock())
    served = {
        (method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods
    }
    assert told == served | {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json")}


def test_the_endpoints_of_the_control_port_answer(gateway):
    bodies = {"/v1/cache/purge": b'{"everything": true}', "/v1/explain": b'{"body": "{}"}'}
    bodies["/v1/keys"] = b'{"name": "sim"}'
    # This gateway has no place for these, and says so.
    homeless = {("POST", "/v1/keys"), ("DELETE", "/v1/keys/sim"), ("GET", "/v1/ledger")}
    bodies |= {f"/v1/versions/{what}": b'{"model": "tried"}' for what in ("promote", "rollback", "restart")}
    for row in rows("Control port"):
        for method, path in ENDPOINT.findall(row[0]):
            kind = {"content-type": "application/json"}
            body = bodies.get(path, b"{}")
            path = path.replace("{name}", "sim")  # noqa: PLW2901
            expected = 409 if (method, path) in homeless else 200
            assert ask(gateway.control_url, method, path, body=body, **kind)[0] == expected, path


# ---- headers ---------------------------------------------------------------------------------------------


def headers_of(section):
    return {name.lower() for row in rows(section) for name in re.findall("`([^`]+)`", row[0])}


def test_every_header_of_a_request_that_means_something_is_there():
    """Those that the source asks for by name, but for what is HTTP's own affair."""
    http_own = {"connection", "content-length", "content-type", "expect", "host"}
    http_own |= {"transfer-encoding"}
    read = {name.decode() for names in fields._FORWARDED.values() for name in names}
    read |= {name.decode() for name in credentials.ACCOUNTS}
    for path in (
        (SOURCE / "gateway").rglob("*.py"),
        (SOURCE / "upload").rglob("*.py"),
        [
            SOURCE / "flow" / "deadline.py",
            SOURCE / "wire" / "credentials.py",
            SOURCE / "wire" / "trace_context.py",
        ],
        [SOURCE / "upstream" / "http.py", SOURCE / "net" / "_proxies.py"],
    ):
        for file in path:
            text = file.read_text()
            read |= set(re.findall(r'headers\.get\(b"([a-z-]+)"', text))
            read |= set(re.findall(r'b"([a-z-]+)" in (?:\w+\.)*headers', text))
            read |= set(re.findall(r'\(headers, b"([a-z-]+)"\)', text))
    assert headers_of("Headers of a request") == read - http_own


def test_every_header_of_an_answer_is_there(gateway):
    """Those that the source writes by name, and those that answers of all kinds have."""
    told = headers_of("Headers of an answer")
    seen = {name.decode() for name in transfer._SHOWN}
    for dialect in Dialect:
        seen |= {name.decode() for name, _ in ratelimits.render(dialect, (1, 1, 1), (1, 1, 1), 0)}
    rooms = [path for room in ("gateway", "upload") for path in (SOURCE / room).rglob("*.py")]
    for path in *rooms, SOURCE / "wire" / "problems.py":
        seen |= set(re.findall(r'(?<!get)\(b"([a-z-]+)", ', path.read_text()))
    for body in ({}, {"model": "sim"}, {"model": "sim:429,retry-after=0"}, {"stream": True}):
        whole = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], **body} if body else body
        _, headers, _ = ask(gateway.url, "POST", "/v1/chat/completions", body=json.dumps(whole).encode())
        seen |= set(headers)
    usual = {"date", "content-type", "content-length", "transfer-encoding", "connection", "cache-control"}
    assert seen - usual - {"x-accel-buffering"} == told


def test_the_statuses_of_an_answer_are_as_told(gateway):
    """The second call comes while the first one waits for its first token, the third when it has ended."""
    body = {"model": "sim:ttft=1500", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    heard = []

    def call(**headers):
        answer = ask(gateway.url, "POST", "/v1/chat/completions", body=json.dumps(body).encode(), **headers)
        heard.append(answer)

    key = {"Idempotency-Key": "docs"}
    threads = [threading.Thread(target=call, kwargs=key) for _ in range(2)]
    threads[0].start()
    while not gateway.generations():  # each look is a request of its own; pytest's timeout ends it
        pass
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    call(**key)
    assert len({headers["penstock-generation"] for _, headers, _ in heard}) == 1
    assert len({body for _, _, body in heard}) == 1
    always = {"Penstock-Join": "always"}
    threads = [threading.Thread(target=call, kwargs=always) for _ in range(2)]
    threads[0].start()
    while not gateway.generations():
        pass
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    body = {**body, "model": "sim", "stream": True}
    call()
    _, headers, _ = heard[-1]
    heard.append(ask(gateway.url, "GET", f"/v1/generations/{headers['penstock-generation']}/events"))
    statuses = {headers["penstock-status"] for _, headers, _ in heard}
    (cell,) = (row[1] for row in rows("Headers of an answer") if "Penstock-Status" in row[0])
    told = set(re.findall(r"`(\w+)`:", cell))
    assert statuses == told == {"created", "attached", "replayed", "joined", "resumed"}


# ---- errors ----------------------------------------------------------------------------------------------


def told_codes():
    return [(status, code.strip("`")) for status, code, _ in rows("Errors") if code.startswith("`")]


def sources():
    for path in sorted(SOURCE.rglob("*.py")):
        where = path.relative_to(SOURCE)
        if where.parts[0] not in NOT_SERVED:
            name = ".".join(("penstock", *where.with_suffix("").parts)).removesuffix(".__init__")
            yield importlib.import_module(name), ast.parse(path.read_text())


def strings_in(node, module):
    """The string constants of an expression, also those that a module gives a name."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value:
            yield part.value
        elif isinstance(part, ast.Name) and isinstance(getattr(module, part.id, None), str):
            yield getattr(module, part.id)


def raised():
    """Every code that the source gives to an error, with its status where it stands beside it."""
    found = set()
    for module, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            kind = getattr(errors, name, None)
            is_error = isinstance(kind, type) and issubclass(kind, errors.PenstockError)
            given = [word.value for word in node.keywords if word.arg == "code"]
            for value in given:
                codes = {code for code in strings_in(value, module) if re.fullmatch("[a-z_]+", code)}
                found |= {("", code) for code in codes}
            if is_error and not given and module is not errors:
                found.add((str(kind.status), kind.code))
            elif name == "Refusal" and len(node.args) == 3:  # the listener's
                status, code, _ = node.args
                if isinstance(status, ast.Constant):
                    found.add((str(status.value), code.value))
            elif name == "error_answer" and isinstance(node.args[0], ast.Constant):
                found.add(("", node.args[0].value))
    return found


def test_every_code_is_there_with_its_status():
    told = told_codes()
    codes = {code for _, code in told}
    assert codes >= problems.CODES
    for status, code in raised():
        if code in {
            "invalid_config",
            "upstream_refused",
        }:  # never reaches a caller; has the upstream's status
            continue
        assert code in codes
        if status:
            assert (status, code) in told


def test_no_code_is_there_that_nobody_raises():
    known = {code for _, code in raised()} | problems.CODES | {"upstream_refused"}
    assert {code for _, code in told_codes()} <= known


def test_codes_that_only_the_log_knows_are_there():
    assert {"client_gone", "cancelled", PROCESS_DIED} <= set(
        re.findall("`([a-z_]+)`", PAGE.section("Errors"))
    )


def test_what_is_shown_of_a_key_has_the_form_that_its_owner_gets(gateway):
    (block,) = [text for text in JSON if '"object": "key"' in text]
    shown = json.loads(block)
    got = json.loads(ask(gateway.url, "GET", "/v1/key")[2])
    assert set(shown) == set(got)
    account = Account("key", "alice", LimitConfig(concurrent=1, usd_per_day=1), None)
    limiter = Mock(calendar=Calendar(0.0))
    for rows_shown, made in (
        (shown["limits"], own_key._limits(account, 0.0)),
        (shown["budgets"], own_key._budgets(account, limiter, is_in_ledger=True)),
    ):
        assert all(set(row) == set(made[0]) for row in rows_shown)
    assert [float(row["left"]) for row in shown["budgets"]] == [
        pytest.approx(float(row["limit"]) - float(row["spent"]) - float(row["reserved"]))
        for row in shown["budgets"]
    ]


@pytest.mark.parametrize("block", [text for text in JSON if "error" in json.loads(text)])
def test_the_errors_shown_have_the_form_that_callers_get(block, gateway):
    shown = json.loads(block)
    anthropic = "type" in shown
    path = "/v1/messages" if anthropic else "/v1/chat/completions"
    body = {"model": "sim:404", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    _, _, got = ask(gateway.url, "POST", path, body=json.dumps(body).encode())
    assert members(json.loads(got)) == members(shown)


def members(value, path=""):
    if not isinstance(value, dict):
        return {path}
    return set().union(*(members(inner, f"{path}.{name}") for name, inner in value.items()))


# ---- translation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "upstream", "body"),
    [
        ("chat", "anthropic", {"n": 2}),
        ("chat", "anthropic", {"seed": 1}),
        ("chat", "anthropic", {"frequency_penalty": 0.5}),
        ("chat", "anthropic", {"presence_penalty": 0.5}),
        ("chat", "anthropic", {"logit_bias": {"1": 1}}),
        ("chat", "anthropic", {"logprobs": True}),
        ("chat", "anthropic", {"top_logprobs": 2}),
        ("chat", "anthropic", {"temperature": 1.5}),
        ("chat", "anthropic", {"verbosity": "low"}),
        ("chat", "anthropic", {"service_tier": "flex"}),
        ("chat", "anthropic", {"response_format": {"type": "json_object"}}),
        ("chat", "anthropic", {"modalities": ["text", "audio"]}),
        ("chat", "anthropic", {"store": True}),
        ("messages", "openai", {"top_k": 3}),
        ("messages", "openai", {"max_tokens": 0}),
        ("messages", "openai", {"speed": "fast"}),
        ("messages", "openai", {"inference_geo": "us"}),
        ("messages", "openai", {"thinking": {"type": "adaptive", "display": "omitted"}}),
    ],
)
def test_what_is_said_to_be_refused_is_refused(caller, upstream, body):
    from penstock.messages import Dialect
    from penstock.wire.translate import translation

    endpoint = Endpoint.CHAT if caller == "chat" else Endpoint.MESSAGES
    asked = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    way = translation(endpoint, Dialect(upstream))
    way.request(json.dumps(asked).encode(), "m")
    with pytest.raises(errors.Untranslatable) as refused:
        way.request(json.dumps(asked | body).encode(), "m")
    (name,) = body
    assert refused.value.param.startswith(name)
    assert f"`{name}" in PAGE.section("Translation")


def test_numbers_of_the_translation_are_those_of_the_source():
    from penstock.wire.anthropic.write_prompt import DEFAULT_MAX_TOKENS
    from penstock.wire.chat.write_prompt import TOOL_FAILED
    from penstock.wire.thinking import effort_of

    section = PAGE.section("Translation")
    assert f"`max_tokens: {DEFAULT_MAX_TOKENS}`" in section
    assert f"`{TOOL_FAILED}`" in section
    efforts = [effort_of(budget) for budget in (4_095, 4_096, 12_287, 12_288)]
    assert efforts == ["low", "medium", "medium", "high"]


def ask(url, method, path, body=b"", **headers):
    """``(status, headers, body)`` of one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body if method == "POST" else None, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
