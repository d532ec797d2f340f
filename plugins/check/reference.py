"""The reference in the dtypes of the case: it fits its contract, and float32 is near float64."""

from __future__ import annotations

from .. import operator
from ..case import HALF_TOLERANCE, Case
from ..conform import conform
from .face import Face, Mismatch, call_reference, compare, must_refuse, named_outputs, output_dtypes, wanted


class Reference(Face):
    """PyTorch, as the models call it."""

    name = "reference"
    doc = "PyTorch, in the dtypes of the case; the yardstick of all faces is the same code in float64"

    def run(self, case: Case) -> None:
        """Contract first (ranks, dtypes, sizes), then the numbers."""
        if case.refuses is not None:
            must_refuse(case, lambda: self._outputs(case))
            return
        got, want = self._outputs(case), wanted(case)
        for name, dtype in output_dtypes(case).items():
            if str(got[name].dtype) != dtype:
                raise Mismatch(f"dtype of {name} is {got[name].dtype}, expected {dtype}")
        half = any(a is not None and str(a.dtype) == "float16" for a in case.inputs)
        compare(got, want, max(case.tolerance, HALF_TOLERANCE) if half else case.tolerance)

    @staticmethod
    def _outputs(case: Case) -> dict:
        import torch

        conform(operator(case.operator), case.inputs, case.attributes)
        tensors = [None if a is None else torch.from_numpy(a) for a in case.inputs]
        return named_outputs(case, call_reference(case, tensors))
