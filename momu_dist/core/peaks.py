"""Peak picking as librosa does it, for onsets in music and for kinematic beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def peak_pick(
    x: NDArray[np.floating], pre_max: int, post_max: int, pre_avg: int, post_avg: int, delta: float, wait: int
) -> NDArray[np.int64]:
    """Indices of the peaks of `x` (T,), ascending.

    n is one if x[n] is the maximum of x[n - pre_max : n + post_max], is at least the mean of x[n - pre_avg : n + post_avg]
    plus delta, and lies more than `wait` after the one before. The rule for n = 0 is the same with what lies after it.
    Source: `librosa.util.peak_pick`, whose compiled loop crashes where several processes filled numba's cache at once
    (numba 0.68: what calls it and the loop itself are two files, and each may be another process's).
    """
    peaks: list[int] = []
    n = 0
    while n < len(x):
        if x[n] == x[max(0, n - pre_max) : n + post_max].max() and (
            x[n] >= x[max(0, n - pre_avg) : n + post_avg].mean() + delta
        ):
            peaks.append(n)
            n += wait
        n += 1
    return np.asarray(peaks, dtype=np.int64)
