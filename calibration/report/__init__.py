"""One page about a bundle: what it is, what it takes, how fast it is and what it lost."""

from .gather import Report, gather
from .page import page

__all__ = ["Report", "gather", "page"]
