"""Drawing images with a bundle: `Drawer`. One idea a file.

| file | idea |
|---|---|
| ``guidance.py``, ``uniforms.py`` | the scale of each code, the random number of each draw |
| ``orders.py`` | raster, diagonals, windows: what a pass decides and what the next is fed |
| ``step.py``, ``chooser.py`` | the model with its caches; the graphs that draw and judge |
| ``condition.py`` | where an image begins: class or text |
| ``plain.py`` | the loop for a batch |
| ``drafters.py``, ``speculate.py`` | who guesses; the loop that keeps what a rule accepts |
| ``pixels.py``, ``sheet.py`` | codes to pixels and back; several images as one, and as PNG |
| ``request.py``, ``result.py``, ``clock.py`` | what may be asked, what is given, what it took |
"""

from __future__ import annotations

from .drawer import Drawer
from .guidance import SCHEDULES, Guidance
from .result import Drawn, Speculation
from .sheet import contact_sheet, write_png

__all__ = ["SCHEDULES", "Drawer", "Drawn", "Guidance", "Speculation", "contact_sheet", "write_png"]
