"""`farthing.runtime.drawing` under its first name."""

from __future__ import annotations

from .drawing import Drawer, Drawn, Guidance, contact_sheet

__all__ = ["Drawer", "Drawn", "Guidance", "contact_sheet"]
