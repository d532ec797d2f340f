"""The self-test for the day somebody has a board: everything that cannot be proved without a GPU, in one command, with a report.

farthing selftest --gpu --bundle BUNDLE
"""

from __future__ import annotations

from .run import PLAN, Report, Step, selftest_gpu, write

__all__ = ["PLAN", "Report", "Step", "selftest_gpu", "write"]
