"""One short real round of each framework through a gateway: plain, streamed, and with a tool that is called and answered.

Every framework is installed in an environment of its own, in its newest version, and asks one model whose upstream
speaks its dialect and one whose upstream speaks the other.  Behind both is the simulator.  Which programs there are, and
what each is told, docs/frameworks.md says::

    python -m benchmarks.frameworks [NAME ...]

The environments are kept in ``.cache/frameworks``; delete one to get a newer version.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.testing import GatewayProcess, SimulatorProcess

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".cache" / "frameworks"
ROUNDS = Path(__file__).parent
PATIENCE = 600  # seconds for an installation, and for a round
TOOL = "Please call the tool."  # what the simulator needs to hear
MODELS = {  # by the dialect of its callers: the upstream of the same dialect first
    "openai": ("gpt-4.1", "gpt-4o"),
    "anthropic": ("claude-sonnet-4-5", "claude-haiku-4-5"),
}
UPSTREAMS = {
    "gpt-4.1": "openai",
    "gpt-4o": "anthropic",
    "claude-sonnet-4-5": "anthropic",
    "claude-haiku-4-5": "openai",
}


class Round(msgspec.Struct, frozen=True):
    """What is installed, and what is run: a file here, or a program with its words (``{model}`` in them is the model)."""

    packages: tuple[str, ...]  # the first one's version is told
    dialect: str = "openai"
    npm: bool = False
    file: str = ""
    program: tuple[str, ...] = ()


PIP = {
    "openai": Round(("openai",), file="openai_round.py"),
    "anthropic": Round(("anthropic",), "anthropic", file="anthropic_round.py"),
    "pydantic-ai": Round(("pydantic-ai-slim[openai]",), file="pydantic_ai_round.py"),
    "openai-agents": Round(("openai-agents",), file="openai_agents_round.py"),
    "langgraph": Round(
        ("langchain-anthropic", "langgraph", "langchain"), "anthropic", file="langgraph_round.py"
    ),
    "autogen": Round(("autogen-agentchat", "autogen-ext[openai]"), file="autogen_round.py"),
    "haystack": Round(("haystack-ai",), file="haystack_round.py"),
    "smolagents": Round(("smolagents[openai]",), file="smolagents_round.py"),
}
NPM = {
    "ai": Round(("ai", "@ai-sdk/openai", "zod"), npm=True, file="ai_round.mjs"),
    "anthropic-js": Round(("@anthropic-ai/sdk",), "anthropic", npm=True, file="anthropic_round.mjs"),
    "claude-code": Round(
        ("@anthropic-ai/claude-code",), "anthropic", npm=True, program=("claude", "-p", TOOL)
    ),
    "codex": Round(
        ("@openai/codex",),
        npm=True,
        program=("codex", "exec", "--skip-git-repo-check", "-m", "{model}", TOOL),
    ),
    "opencode": Round(
        ("opencode-ai",), npm=True, program=("opencode", "run", "-m", "penstock/{model}", TOOL)
    ),
}
ALL = PIP | NPM

CODEX = """\
model_provider = "penstock"
web_search = "disabled"
check_for_update_on_startup = false
[model_providers.penstock]
name = "Penstock"
base_url = "{url}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all, if none is said")
    names = parser.parse_args().names or list(ALL)
    if unknown := set(names) - set(ALL):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(ALL)}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess() as simulator:
        config = {
            "upstreams": {
                "openai": {"kind": "openai", "base_url": simulator.base_url, "api_key": "o"},
                "anthropic": {"kind": "anthropic", "base_url": simulator.url, "api_key": "a"},
            },
            "models": {
                name: {"candidates": [{"upstream": upstream, "model": "sim"}]}
                for name, upstream in UPSTREAMS.items()
            },
        }
        with GatewayProcess(config, Path(folder)) as gateway:
            for name in names:
                failed += not show(name, gateway.url)
    return 1 if failed else 0


def show(name: str, url: str) -> bool:
    """Run one framework's rounds, and print a line for each."""
    about = ALL[name]
    home = HOME / name
    try:
        version = install(about, home)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{name:14} not installed: {told(error)}", flush=True)
        return False
    well = True
    for model in MODELS[about.dialect]:
        with tempfile.TemporaryDirectory() as work:
            done = run(about, home, Path(work), url, model)
        well &= done == ""
        print(f"{name:14} {version:12} before {UPSTREAMS[model]:10} {done or 'ok'}", flush=True)
    return well


def install(about: Round, home: Path) -> str:
    """Make the environment, if it is not there yet; the version of what was installed."""
    first = about.packages[0].partition("[")[0]
    if about.npm:
        if not (home / "node_modules").exists():
            home.mkdir(parents=True, exist_ok=True)
            command(
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *about.packages], home
            )
        return str(
            msgspec.json.decode((home / "node_modules" / first / "package.json").read_bytes())["version"]
        )
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        venv.create(home, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        command([*pip, "--disable-pip-version-check", *about.packages], home)
        ready.touch()
    code = f"import importlib.metadata as m; print(m.version({first!r}))"
    return command([str(python), "-c", code], home).strip()


def run(about: Round, home: Path, work: Path, url: str, model: str) -> str:
    """One round; empty, or what went wrong."""
    (work / ".codex").mkdir()
    (work / ".codex" / "config.toml").write_text(CODEX.format(url=url))
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": url + "/v1", "apiKey": "any"},
        "models": {model: {}},
    }
    (work / "opencode.json").write_bytes(
        msgspec.json.encode({"autoupdate": False, "share": "disabled", "provider": {"penstock": provider}})
    )
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(work),
        "OPENAI_BASE_URL": url + "/v1",
        "OPENAI_API_KEY": "any",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "any",
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    if about.program:
        name, *words = about.program
        words = [word.replace("{model}", model) for word in words]
        line = [str(home / "node_modules" / ".bin" / name), *words]
    elif about.npm:
        # Modules are looked for beside the file that asks for them.
        shutil.copy(ROUNDS / about.file, home / about.file)
        line = ["node", str(home / about.file), model]
    else:
        line = [str(home / "bin" / "python"), "-W", "ignore", str(ROUNDS / about.file), model]
    try:
        said = command(line, work, environ)
    except (OSError, subprocess.SubprocessError) as error:
        return told(error)
    return "" if said.strip() else "it said nothing"


def command(line: list[str], work: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run a program; what it printed."""
    done = subprocess.run(
        line,
        cwd=work,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout


def told(error: Exception) -> str:
    """An error in one line: what the program complained of at last."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return (lines[-1] if lines else str(error))[:200]
    return str(error)[:200]


if __name__ == "__main__":
    sys.exit(main())
