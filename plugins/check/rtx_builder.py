"""Build engines with TensorRT-RTX: python rtx_builder.py FOLDER, in an environment that has tensorrt_rtx and nothing of ours.

For each FOLDER/*.onnx prints one line of JSON: {"file", "ok", "message", "engine": bytes}. A warning of the parser that an input is
unused counts as a failure: it is how TensorRT drops inputs that it does not implement. The process may be ended by the library
(an unknown node aborts it), so lines are written as they come.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMPUTE_CAPABILITIES = ("SM86", "SM89", "SM120")
UNUSED = "unused input"


def build(path: Path, trt: Any, logger: Any) -> dict[str, Any]:
    """One engine for all of COMPUTE_CAPABILITIES. Sizes that are dynamic get a profile from the file FOLDER/x.json: name ->
    [least, usual, most]."""
    logger.lines.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        return {"ok": False, "message": f"not parsed: {errors[:600]}"}
    unused = [line for line in logger.lines if UNUSED in line.lower()]
    if unused:
        return {"ok": False, "message": f"an input is dropped: {unused[0][:300]}"}
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(COMPUTE_CAPABILITIES)
    for i, name in enumerate(COMPUTE_CAPABILITIES):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    profile = builder.create_optimization_profile()
    ranges = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    for name, (least, usual, most) in ranges.items():
        profile.set_shape(name, least, usual, most)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"ok": False, "message": f"not built: {' | '.join(logger.lines)[-600:]}"}
    return {"ok": True, "message": "", "engine": engine.nbytes}


def main(folder: Path) -> None:
    """All models of ``folder``, in the order of their names."""
    import tensorrt_rtx as trt

    class Logger(trt.ILogger):
        """Keeps what the library says: one process has one logger."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (self.WARNING, self.ERROR, self.INTERNAL_ERROR):
                self.lines.append(message)

    logger = Logger()
    for path in sorted(folder.glob("*.onnx")):
        print(json.dumps({"file": path.stem, **build(path, trt, logger)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
