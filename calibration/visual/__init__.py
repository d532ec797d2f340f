"""How few visual tokens a user's own pictures and questions need: measuring the levels of bundles, choosing one, and showing what is kept.

Needs numpy, onnxruntime and Pillow; neither torch nor onnx, so that it runs where the bundle runs. Plots need matplotlib.
"""

from __future__ import annotations

from ...runtime.visual.questions import Data, Item, read_data
from .choice import Choice, apply_choice, choose
from .levels import LevelResult, Sweep, sweep

__all__ = ["Choice", "Data", "Item", "LevelResult", "Sweep", "apply_choice", "choose", "read_data", "sweep"]
