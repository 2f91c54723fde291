"""Which clip belongs to which split, and which part of a recording is a clip: known before any is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from momu_dist.core.seeds import numpy_rng
from momu_dist.data.record import ClipRef

# Shorter leftovers than this share of a window are dropped.
LEAST_SHARE = 0.5


def windows(ref: ClipRef, window_s: float | None) -> list[ClipRef]:
    """`ref` cut into windows of `window_s` seconds, named `<clip_id>_w000`, ...; [ref] if none fits.

    The last part is kept when at least half a window long; a recording shorter than that stays whole. A ref
    whose end is not known cannot be cut.
    """
    if window_s is None or ref.end_s is None or ref.end_s - ref.start_s <= window_s:
        return [ref]
    length_s = ref.end_s - ref.start_s
    # A thousandth of slack, so that 50 s held as 49.99999 are two windows of 25 s.
    n_whole = int(length_s / window_s + 1e-3)
    n = n_whole + (length_s - n_whole * window_s >= LEAST_SHARE * window_s)
    parts = []
    for k in range(n):
        start_s = ref.start_s + k * window_s
        end_s = min(start_s + window_s, ref.end_s)
        parts.append(replace(ref, clip_id=f"{ref.clip_id}_w{k:03d}", start_s=start_s, end_s=end_s))
    return parts


def assign(keys: Sequence[str], fractions: tuple[float, float, float], seed: int) -> list[int]:
    """For each clip 0 (train), 1 (val) or 2 (test); clips with the same key (group or clip id) stay together.

    Sizes in clips come near `fractions`, as far as whole groups allow; with at least three keys every split
    with a positive fraction gets one, with two there is no test split unless val's fraction is 0. Depends on
    the set of keys, their counts and the seed, not on their order. No keys give no assignments.
    """
    counts = Counter(keys)
    order = sorted(counts)
    order = [order[i] for i in numpy_rng(seed, "split").permutation(len(order))]
    of_key = dict.fromkeys(order, 0)
    free = list(order)
    for split in (1, 2):
        wanted = fractions[split] * len(keys)
        if wanted <= 0:
            continue
        taken = 0
        for key in list(free):
            nearer = abs(taken + counts[key] - wanted) < abs(taken - wanted)
            if nearer and len(free) > 1:
                of_key[key] = split
                taken += counts[key]
                free.remove(key)
        if taken == 0 and len(free) > 1:
            smallest = min(free, key=lambda key: counts[key])
            of_key[smallest] = split
            free.remove(smallest)
    return [of_key[key] for key in keys]
