"""Names of a bundle that draws images; its loop is Python, so the C++ list (core/tensors.h) has none of them."""

from __future__ import annotations

CODES = "codes"
"""int64 [B,g*g]: codes of an image, row by row."""

PIXELS = "pixels"
"""float32 [B,3,H,W]: red, green, blue, about -1 to 1."""

AR_STEP = "ar_step"
"""Name of the step graph of an image model, and stem of its file."""

VQ_DECODE = "vq_decode"
"""Name of the graph that turns codes into pixels, and stem of its file."""
