"""Print the CPU seconds that ONNX Runtime takes to open a graph: python open_session.py GRAPH OPS_LIBRARY OPTIMISED(0|1)."""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Runs by itself, so that nothing of another session is counted."""
    import onnxruntime

    graph, library, optimised = sys.argv[1:4]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
    if optimised == "1":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        options.register_custom_ops_library(library)
    begin = time.process_time()
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    print(time.process_time() - begin)


if __name__ == "__main__":
    main()
