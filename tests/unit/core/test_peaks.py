"""Our peak picking finds what librosa's does."""

from __future__ import annotations

import numpy as np
import pytest
from librosa.util import peak_pick as of_librosa

from momu_dist.core.peaks import peak_pick


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(20))
def test_peaks_are_those_of_librosa(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=rng.integers(1, 400))).astype(dtype)
    x[rng.random(len(x)) < 0.3] = 1.0  # plateaus
    rule = {
        "pre_max": int(rng.integers(0, 8)), "post_max": int(rng.integers(1, 8)),
        "pre_avg": int(rng.integers(0, 30)), "post_avg": int(rng.integers(1, 30)),
        "delta": float(rng.uniform(0, 0.5)), "wait": int(rng.integers(0, 12)),
    }  # fmt: skip
    np.testing.assert_array_equal(peak_pick(x, **rule), of_librosa(x, **rule))


def test_nothing_has_no_peaks() -> None:
    assert peak_pick(np.zeros(0), 1, 1, 1, 1, 0.1, 1).shape == (0,)
