"""Tables of tri-grams counted from texts, for ADED (Liu et al. 2024, arXiv 2407.12021)."""

from .build import BuildResult, build
from .file import Table, read, write

__all__ = ["BuildResult", "Table", "build", "read", "write"]
