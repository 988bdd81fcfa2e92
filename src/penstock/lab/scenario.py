"""How the simulator is told to behave: pace, length, and every way in which upstreams fail.

A **script** is a list of options with commas between them: ``ttft=200,tps=50,tokens=300`` or
``cut-after=5,once``.  It stands behind a colon in the model's name (``sim:ttft=200``), in the header
``x-sim-scenario``, or on the command line as default for all.  The header overrides the name, and the name
the command line.  ``x-sim-ttft-ms``, ``x-sim-tokens-per-second`` and ``x-sim-output-tokens`` set one value.

::

    pace and length
      ttft=MS               time to the first token, milliseconds
      spread=S              it varies by chance: log-normal, with ttft in the middle and S its logarithm's deviation
      tps=N                 tokens per second after it; 0: all at once
      tokens=N              how long the answer wants to be; tokens=max: as long as the caller allows
      early-head            status and headers go out at once, not with the first token
      thinking              think first, asked or not
      tool                  call a tool if the request has one
      parallel=N            so many tool calls at once (a caller that forbids it gets one)
      cached=N              so many tokens of the prompt are reported as read from the prompt cache
      prefill=N             so many tokens of prompts are computed per second, one prompt after the other
      prefix-cache=N        so many tokens of prompts are kept: what begins as one of them is not computed, and reported
    going on with an answer that has begun
      no-prefill            a prefill is refused, as by Claude 4.6 and later
      preamble              it says a few words first
      overlap=N             it repeats the last N tokens of what was said
      deaf                  asked in words to begin with the last ones, it does not
    what it has cost, told afterwards (``penstock.lab.told``)
      told=never            nothing is told
      told=nonsense         something is that makes no sense
      told-after=MS         it is told so long after the request
    failures
      401 403 404 429 ...   that status (or 400 408 409 413 422 500 502 503 504 529)
      retry-after=S         with that header
      400-context-length    the prompt is too long
      400-content-filter    the prompt is not allowed
      500-once              500 the first time for a key, then fine
      503-for=N             503 for the first N requests of a key; 503-for=Nms: for so long from the first
      reset-before-headers  the connection is reset
      no-answer             silence until the client leaves
      slow-first-token      5 s later than otherwise; slow-first-token=MS
      cut-after=N           reset after N tokens
      close-after=N         orderly end of the connection after N tokens, the body's end missing
      stall-after=N         silence after N tokens until the client leaves
      malformed-event       an event that is no JSON after 3 tokens; malformed-event=N
      error-event           the API's own error inside the stream after 3 tokens; error-event=N
      no-terminator         the stream ends after its last token: no finish reason, no terminator
      no-done               a finish reason, but no terminator
      slow-trickle          a byte per millisecond, each on its own; slow-trickle=MS
      garbage               bytes that are no HTTP
      html                  200 and a web page
    when
      once                  the failure strikes the first time for a key only
      share=P               it strikes a share P of the requests (0 to 1), the same ones in every run
      key=NAME              whose first time; else the header x-sim-key, else the prompt itself

Failures in mid-stream strike plain answers too: a plain answer is cut after as many tokens' share of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

MAX = -1  # tokens=max


class Script(msgspec.Struct, frozen=True):
    """One behaviour, whole: what no option set is as the defaults say."""

    ttft: float = 0.0  # seconds
    spread: float = 0.0  # deviation of the logarithm of the time to the first token
    tps: float = 0.0  # 0: at once
    tokens: int = 64
    early_head: bool = False
    thinking: bool = False
    tool: bool = False
    parallel: int = 1
    cached: int = 0
    prefill: float = 0.0  # tokens per second; 0: at once
    prefix_cache: int = 0
    no_prefill: bool = False
    preamble: bool = False
    overlap: int = 0
    deaf: bool = False
    failure: str = ""  # a name of the table above
    after: int = 0  # tokens before it strikes
    retry_after: str = ""
    first: int = 0  # the failure strikes so many first requests of a key; 0: all
    first_seconds: float = 0.0  # ... or for so long since the first
    share: float = 1.0
    key: str = ""
    delay: float = 0.0  # slow-first-token: seconds on top of ttft
    byte_seconds: float = 0.0  # slow-trickle
    told: str = ""  # never, nonsense: what is told of the answer afterwards
    told_after: float = 0.0  # seconds after its end


class ScriptError(ValueError):
    """An option that nobody knows, or a value that it does not take."""


_STATUSES = ("400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "504", "529")
_PLAIN_FAILURES = frozenset(
    [
        *_STATUSES,
        "400-context-length",
        "400-content-filter",
        "reset-before-headers",
        "no-answer",
        "no-terminator",
        "no-done",
        "garbage",
        "html",
    ]
)
_WIDEST = 5.0  # what is wider than this makes hours of milliseconds
_SWITCHES = frozenset({"early-head", "thinking", "tool", "no-prefill", "preamble", "deaf"})
_AFTER = {"cut-after": None, "close-after": None, "stall-after": None, "malformed-event": 3, "error-event": 3}
_PRESETS: dict[str, dict[str, Any]] = {
    "sim": {},
    "sim-fast": {"ttft": 0.05, "tps": 200.0},
    "sim-slow": {"ttft": 0.5, "tps": 20.0},
    "sim-thinking": {"thinking": True},
    "sim-tool": {"tool": True},
}
MODELS = tuple(_PRESETS)


def _number(name: str, value: str, kind: Callable[[str], Any] = float) -> Any:
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        raise ScriptError(f"{name}={value}: not a number that makes sense here")
    return number


def _changes(text: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for option in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = option.partition("=")
        if name == "ttft":
            changes["ttft"] = _number(name, value) / 1000
        elif name == "spread":
            changes["spread"] = min(_number(name, value), _WIDEST)
        elif name == "tps":
            changes["tps"] = _number(name, value)
        elif name == "tokens":
            changes["tokens"] = MAX if value == "max" else _number(name, value, int)
        elif name == "parallel":
            changes["parallel"] = max(1, _number(name, value, int))
        elif name in {"cached", "prefix-cache"}:
            changes[name.replace("-", "_")] = _number(name, value, int)
        elif name == "prefill":
            changes["prefill"] = _number(name, value)
        elif name == "share":
            changes["share"] = _number(name, value)
        elif name in {"retry-after", "key"} and value.isascii() and value.isprintable() and value:
            changes[name.replace("-", "_")] = value
        elif name == "told" and value in {"never", "nonsense"}:
            changes["told"] = value
        elif name == "told-after":
            changes["told_after"] = _number(name, value) / 1000
        elif name == "overlap":
            changes["overlap"] = _number(name, value, int)
        elif name in _SWITCHES and not equals:
            changes[name.replace("-", "_")] = True
        elif name == "once" and not equals:
            changes["first"] = 1
        elif name == "500-once" and not equals:
            changes |= {"failure": "500", "first": 1}
        elif name == "503-for":
            changes["failure"] = "503"
            if value.endswith("ms"):
                changes["first_seconds"] = _number(name, value[:-2]) / 1000
            else:
                changes["first"] = _number(name, value, int)
        elif name == "slow-first-token":
            changes |= {"failure": name, "delay": _number(name, value or "5000") / 1000}
        elif name == "slow-trickle":
            changes |= {"failure": name, "byte_seconds": _number(name, value or "1") / 1000}
        elif name in _AFTER and (value or _AFTER[name] is not None):
            changes |= {"failure": name, "after": _number(name, value, int) if value else _AFTER[name]}
        elif name in _PLAIN_FAILURES and not equals:
            changes["failure"] = name
        else:
            raise ScriptError(f"{option}: no such option of the simulator")
    return changes


@functools.lru_cache(maxsize=4096)
def parse(text: str, base: Script | None = None) -> Script:
    """Read a script, over ``base``.

    :raises ScriptError: naming the option that is wrong
    """
    return msgspec.structs.replace(base or Script(), **_changes(text))


@functools.lru_cache(maxsize=4096)
def of_model(model: str, base: Script) -> Script:
    """What a model's name asks for.  Names other than ``sim`` and ``sim-…`` ask for nothing.

    :raises ScriptError: a name that begins so, but is no preset, or has a wrong option
    """
    name, _, options = model.partition(":")
    if name != "sim" and not name.startswith("sim-"):
        return base
    if name not in _PRESETS:
        raise ScriptError(f"{name}: no such model of the simulator; there are {', '.join(MODELS)}")
    return parse(options, msgspec.structs.replace(base, **_PRESETS[name]))


def of_headers(headers: Any, script: Script) -> Script:
    """What the ``x-sim-…`` headers ask for.

    :raises ScriptError: naming the option that is wrong
    """
    wanted = headers.get(b"x-sim-scenario")
    options = wanted.decode("latin-1") if wanted else ""
    for header, name in _HEADERS:
        value = headers.get(header)
        if value:
            options += f",{name}={value.decode('latin-1')}"
    return parse(options, script) if options else script


_HEADERS = (
    (b"x-sim-ttft-ms", "ttft"),
    (b"x-sim-tokens-per-second", "tps"),
    (b"x-sim-output-tokens", "tokens"),
)
