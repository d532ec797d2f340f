"""A width for each layer: the least loss that a number of bytes can buy, and never more than a uniform width of no more bytes."""

from __future__ import annotations

from .choose import choose
from .search import Candidate, Found, Item, check_budget, search

__all__ = ["Candidate", "Found", "Item", "check_budget", "choose", "search"]
