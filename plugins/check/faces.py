"""The columns of the table, in the order of the verification ladder."""

from __future__ import annotations

from .face import Face


def faces() -> dict[str, Face]:
    """A fresh object per face, by name. Importing them costs little: torch, onnx and onnxruntime are loaded when used."""
    from .cuda_harness import CudaHarness
    from .onnxruntime_faces import Body, CpuKernel
    from .reference import Reference
    from .rtx_body import RtxBody
    from .tensorrt_plugin import TensorrtPlugin

    columns: tuple[Face, ...] = (Reference(), Body(), CpuKernel(), CudaHarness(), TensorrtPlugin(), RtxBody())
    return {face.name: face for face in columns}
