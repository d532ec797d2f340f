"""KvCompact in place, against the reference, for any ascending list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.plugins import library_path
from farthing.plugins.case import Case, floats
from farthing.plugins.check.faces import faces


@pytest.mark.skipif(library_path() is None, reason="installed without the native operator library")
@settings(max_examples=25, deadline=None)
@given(
    accepted=st.lists(st.sets(st.integers(0, 15), max_size=8), min_size=1, max_size=3),
    past=st.integers(0, 8),
    dim=st.integers(1, 20),
)
def test_moving_in_place_equals_the_reference(accepted, past, dim) -> None:
    rng = np.random.default_rng(dim)
    rows = np.full((len(accepted), 8), -1, np.int64)  # what stands behind count is never read
    for b, some in enumerate(accepted):
        rows[b, : len(some)] = sorted(some)
    cache = [floats(rng, len(accepted), 2, 24, dim) for _ in range(2)]
    counts = np.array([len(some) for some in accepted], np.int64)
    case = Case("KvCompact", "property", [*cache, np.full(len(accepted), past, np.int64), rows, counts])
    for name in ("reference", "body", "cpu_kernel"):  # the last also in place
        faces()[name].run(case)
