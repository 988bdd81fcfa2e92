"""The parts that need the extra ``optimize``: thin layers over the libraries that do the numerics."""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as in penstock.engine
