"""The last mile: a bundle becomes what one machine runs best.

    from farthing.export.compile import compile_bundle
    compile_bundle("bundle", "tensorrt-rtx", sm=[86, 89, 120])

Results go to ``compiled/<target>/<key>/`` inside the bundle, beside its manifest; see runtime/bundle/compiled.py.
"""

from __future__ import annotations

from .bundle import TARGETS, compile_bundle
from .profiles import Ranges, parse_dims
from .result import CompileResult

__all__ = ["TARGETS", "CompileResult", "Ranges", "compile_bundle", "parse_dims"]
