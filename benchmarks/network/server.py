"""The far side: gateway, simulator, and in front of them what breaks connections.  Told what to do on standard input.

Each line is JSON.  ``{"hazard": …, "seed": …}`` begins a case, and is answered with a port; ``{}`` ends it, and is
answered with what went through and what the provider billed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from penstock.lab.faults import Conditions, FaultProxy, Kind
from penstock.testing import GatewayProcess, SimulatorProcess

MB = 1_000_000


def main(host):
    with tempfile.TemporaryDirectory() as folder, SimulatorProcess() as simulator:
        settings = {
            "upstreams": {"sim": {"kind": "sim", "base_url": simulator.base_url}},
            "models": {"*": {"candidates": [{"upstream": "sim"}], "grace": 60}},
            "files": {"directory": folder + "/files"},
            "listener": {"max_body_bytes": 64 * MB},
            "generations": {"kept_bytes": 256 * MB},
        }
        with GatewayProcess(settings, Path(folder)) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            link = None
            for line in sys.stdin:
                told = json.loads(line)
                if link is not None:
                    link.stop()
                    bill = simulator.reset_bill()
                    figures = link.figures
                    link = None
                if told:
                    told["kinds"] = tuple(Kind(kind) for kind in told["kinds"])
                    link = FaultProxy("127.0.0.1", port, Conditions(**told), listen=(host, 0)).start()
                    simulator.reset_bill()
                    answer = {"port": link.port}
                else:
                    answer = {
                        "connections": figures.connections,
                        "broken": figures.broken,
                        "bytes": figures.bytes_up + figures.bytes_down,
                        "upstream_calls": bill["requests"],
                        "input_tokens": bill["input_tokens"],
                        "output_tokens": bill["output_tokens"],
                    }
                print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
