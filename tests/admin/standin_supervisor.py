"""A supervisor whose workers are stand-ins: ``python standin_supervisor.py CONFIG [SERVER [RELOAD_TIMEOUT]]``.

Says ``{"listen": …, "control": …}`` on standard output when it is ready.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from penstock import logs
from penstock.admin import process
from penstock.admin.supervisor import Supervisor
from penstock.config.load import load
from penstock.errors import ConfigError


def ready(supervisor):
    told = {"listen": supervisor.listen.port, "control": supervisor.control.port}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main():
    path = Path(sys.argv[1])
    standin = Path(__file__).with_name("standin.py")
    if len(sys.argv) > 3:
        process.RELOAD_TIMEOUT = float(sys.argv[3])
    try:
        config = load(path)
        logs.configure(config.log)
        supervisor = Supervisor(
            config,
            reread=lambda: load(path),
            files=lambda: [path],
            server=sys.argv[2] if len(sys.argv) > 2 else "own",
            watch_interval=0.1,
            on_ready=ready,
            worker_command=(sys.executable, "-P", str(standin)),
        )
        return asyncio.run(supervisor.run())
    except ConfigError as error:
        sys.stderr.write("\n".join((str(error), *error.mistakes)) + "\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
