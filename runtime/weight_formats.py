"""Formats of weights that not every machine computes with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..errors import RequestError, found_wanted
from .bundle import Bundle

LEAST_SM: Mapping[str, int] = MappingProxyType({"fp8": 89, "nvfp4": 100})
"""The first compute capability of NVIDIA's that has the format: Ada for 8-bit floats, Blackwell for 4-bit ones. Jetson Orin is 87, Thor 110."""

WITHOUT_KERNEL = ("nvfp4",)
"""What ONNX Runtime has no kernel for (1.32: DequantizeLinear of FLOAT4E2M1 is not implemented on a CPU)."""


def check_onnxruntime_computes(bundle: Bundle) -> None:
    """Raises RequestError where the weights of ``bundle`` are of a format that only TensorRT computes with."""
    weights = bundle.manifest["quantization"]["weights"]
    if weights in WITHOUT_KERNEL:
        raise RequestError(
            found_wanted(
                f"weights of {bundle.path}",
                f"{weights}, for which ONNX Runtime has no kernel",
                "a format that it computes with",
                "farthing compile --target tensorrt or tensorrt-rtx; or quantize with --weights fp8 or int4",
            )
        )


def check_capability(weights: str, sm: int, what: str) -> None:
    """Raises RequestError where compute capability ``sm`` lacks the format ``weights``; ``what`` names where ``sm`` is from."""
    least = LEAST_SM.get(weights, 0)
    if sm < least:
        raise RequestError(
            found_wanted(
                what,
                f"{sm}, which has no {weights}",
                f"{least} or later for these weights",
                "quantize with --weights int4 or int8 for it (Jetson Orin is 87)"
                if sm == 87
                else "choose int4 or int8",
            )
        )
