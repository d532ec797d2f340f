"""The two faces that run in ONNX Runtime: the body of standard operators, and our CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import library_path, operator
from ..case import HALF_TOLERANCE, Case
from .face import Face, Skip, compare, must_refuse, wanted


def session(proto: Any, *, kernels: bool) -> Any:
    """A session over ``proto`` on two threads; with our operator library if asked."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # refusals are wanted here, and come back as exceptions
    options.intra_op_num_threads = 2
    # Float arithmetic where ONNX Runtime fuses quantised weights: a body is the definition.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if kernels:
        options.register_custom_ops_library(str(library_path()))
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(case: Case) -> dict[str, np.ndarray]:
    """Inputs by name, but for constants."""
    ports = operator(case.operator).inputs
    given = zip(ports, case.inputs, strict=False)
    return {p.name: a for p, a in given if a is not None and p.name not in case.constants}


def tolerance(case: Case) -> float:
    """A face that stores float16 cannot be nearer than float16."""
    half = any(a is not None and str(a.dtype) == "float16" for a in case.inputs)
    stored = any("float16" in p.dtypes for p in operator(case.operator).outputs)
    return max(case.tolerance, HALF_TOLERANCE) if half and stored else case.tolerance


def execute(case: Case, *, kernels: bool, function: Any = None) -> dict[str, np.ndarray]:
    """Outputs of the case by name. ``function``: see `graph.model`."""
    from .graph import model

    proto = model(case, function=function)
    running = session(proto, kernels=kernels)
    names = [o.name for o in running.get_outputs()]
    return dict(zip(names, running.run(names, feeds(case)), strict=True))


class Body(Face):
    """The function of standard operators, inlined by ONNX Runtime."""

    name = "body"
    doc = "ONNX function of standard opset-24 operators, inlined by ONNX Runtime; no library of ours is loaded"

    def run(self, case: Case) -> None:
        """Check the model by onnx's own checker, then run it."""
        import onnx

        from .graph import model

        if case.refuses is not None:
            if case.stage == "values":
                raise Skip("standard operators do not check values")
            try:
                execute(case, kernels=False)
            except Exception:
                return
            raise Skip("standard operators accept it: they know nothing of the contract")
        want = wanted(case)
        onnx.checker.check_model(model(case, {n: a.shape for n, a in want.items()}))
        compare(execute(case, kernels=False), want, tolerance(case))


class CpuKernel(Face):
    """Our kernel in ONNX Runtime."""

    name = "cpu_kernel"
    doc = "C++ kernel in ONNX Runtime; the graph has no body, so nothing but the kernel can have run"
    files = ("kernel.cc", "op.cc")

    def unavailable(self) -> str | None:
        """Portable installations have no library."""
        return None if library_path() else "installed without the native operator library (`farthing doctor`)"

    def run(self, case: Case) -> None:
        """Outputs of their own, then outputs that share the buffers of the inputs they alias."""
        if case.refuses is not None:
            must_refuse(case, lambda: execute(case, kernels=True, function=False))
            return
        want = wanted(case)
        compare(execute(case, kernels=True, function=False), want, tolerance(case))
        if any(p.alias for p in operator(case.operator).outputs):
            compare(self._in_place(case), want, tolerance(case))

    @staticmethod
    def _in_place(case: Case) -> dict[str, np.ndarray]:
        import onnxruntime

        from .graph import model

        running = session(model(case, function=False), kernels=True)
        values = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a.copy()) for n, a in feeds(case).items()}
        binding = running.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        aliases = {p.name: p.alias for p in operator(case.operator).outputs}
        names = [o.name for o in running.get_outputs()]
        for name in names:
            shared = values.get(aliases[name] or "")
            if shared is None:
                binding.bind_output(name)
            else:
                binding.bind_ortvalue_output(name, shared)
        running.run_with_iobinding(binding)
        return {n: v.numpy().copy() for n, v in zip(names, binding.get_outputs(), strict=True)}
