"""Directogram and kinematic amplitude (Eq. 1-2), and the ruler that picks kinematic beats from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from momu_dist.core.audio.mel import MEL_RATE_HZ
from momu_dist.core.peaks import peak_pick
from momu_dist.errors import ClipError

Window = Literal["hard", "literal"]
Angle = Literal["atan2", "atan"]

_EPS = 1e-8  # keeps the amplitude of a motion that rests at 0 when it is divided by its maximum


def directogram(
    motion: ArrayLike, n_bins: int = 10, window: Window = "hard", angle: Angle = "atan2"
) -> NDArray[np.float64]:
    """D (T-1, n_bins) in px: how far the joints moved in each direction; row r belongs to frames r and r + 1 (Eq. 1).

    motion: (T, J, 2) px. `angle` "atan2" tells all directions of the circle apart; "atan" is the printed tan^-1(y/x),
    which folds opposite directions together (half a circle). The bins divide that range evenly from angle 0.
    `window` "hard" counts a movement in its own bin; "literal" is the printed |theta - phi| <= 2 pi / K around each
    bin's centre, where neighbouring bins overlap. Under two frames give (0, n_bins).
    Raises ClipError if motion is not (T, J, 2) or not finite.
    """
    points = _checked(motion)
    steps = np.diff(points, axis=0)
    magnitude = np.linalg.norm(steps, axis=-1)
    period = 2 * np.pi if angle == "atan2" else np.pi
    width = period / n_bins
    phi = np.arctan2(steps[..., 1], steps[..., 0]) % period
    if window == "hard":
        # A tiny negative angle rounds up to the full period: bin 0.
        inside = (np.floor(phi / width).astype(int) % n_bins)[..., None] == np.arange(n_bins)
    else:
        distance = np.abs((np.arange(n_bins) + 0.5) * width - phi[..., None])
        inside = np.minimum(distance, period - distance) <= 2 * np.pi / n_bins
    out: NDArray[np.float64] = np.einsum("tj,tjk->tk", magnitude, inside.astype(np.float64))
    return out


def flux(directions: ArrayLike) -> NDArray[np.float64]:
    """Q (R,) of a directogram (R, K): what the bins gained since the row before, summed (Eq. 2); Q[0] = 0."""
    rows = np.asarray(directions, dtype=np.float64)
    gains = np.clip(np.diff(rows, axis=0), 0.0, None).sum(axis=1)
    return np.concatenate([np.zeros(min(len(rows), 1)), gains])


def amplitude(
    motion: ArrayLike, n_bins: int = 10, window: Window = "hard", angle: Angle = "atan2"
) -> NDArray[np.float64]:
    """Kinematic amplitude Q (T,) in px of motion (T, J, 2) px, one value a frame at the motion's own rate (Eq. 1-2).

    Q[r] compares the steps r-1 -> r and r-2 -> r-1, so Q[0] = Q[1] = 0 and a change of speed at frame r shows at
    r + 1. Zero frames give an empty array. Options and errors as in `directogram`.
    """
    points = _checked(motion)
    out = np.zeros(len(points))
    out[1:] = flux(directogram(points, n_bins, window, angle))
    return out


def normalised_amplitude(
    motion: ArrayLike, n_bins: int = 10, window: Window = "hard", angle: Angle = "atan2"
) -> NDArray[np.float64]:
    """Q (T,) over its maximum in the sequence, in [0, 1) ("normalised to (0,1)"; by the maximum as in LORIS)."""
    return _by_maximum(amplitude(motion, n_bins, window, angle))


@dataclass(frozen=True)
class BeatRuler:
    """How kinematic beats are picked; the defaults are chosen on synthetic dancers, the paper names no rule.

    position_sigma_s, amplitude_sigma_s: Gaussian smoothing of the joints and of Q. max_s, average_s: a beat is the
    largest value within +-max_s and exceeds the mean within +-average_s by `delta` (Q's maximum is 1); wait_s: least
    time between beats. At 62.5 Hz these are 2 and 1.5 frames, 8, 25 and 12 frames.
    """

    position_sigma_s: float = 0.032
    amplitude_sigma_s: float = 0.024
    n_bins: int = 10
    max_s: float = 0.128
    average_s: float = 0.4
    delta: float = 0.08
    wait_s: float = 0.192


def kinematic_beats(
    motion_px: ArrayLike, rate_hz: float = MEL_RATE_HZ, ruler: BeatRuler = BeatRuler()
) -> NDArray[np.float64]:
    """Times in s, ascending, at which the dancer sets off: peaks of the smoothed Q of `motion_px`.

    motion_px: (T, J, 2) px, frame i at (i + 0.5) / rate_hz seconds, as `resample_to_grid` gives it.
    Peaks of Eq. 2 as printed measure jitter, so the joints and Q are low-passed first. A peak of Q at r is dated to
    frame r - 1, between whose two steps the speed changed: the moment of strongest acceleration. A limb that sets off
    abruptly is found about 13 ms late (the low-pass spreads what follows the start, nothing precedes it), the same
    from 25 to 120 fps; one that sets off softly is found at its strongest acceleration, 80 ms after the start of a
    minimum-jerk move of 0.35 s. The lag is the same for real and generated motion, and is not corrected.
    None is reported within 0.1 s (three sigma) of the ends. Under three frames, or a motion that rests, give an empty
    array.
    Raises ClipError if motion is not (T, J, 2) or not finite, or rate_hz is not positive.
    """
    # Imported here, as in core.audio.mel: a training imports this module for its names.
    from scipy.ndimage import gaussian_filter1d

    points = _checked(motion_px)
    if not rate_hz > 0:
        raise ClipError(f"motion's rate is {rate_hz} Hz, expected a positive number; check the clip's fps")
    if len(points) < 3:
        return np.zeros(0)
    smooth = gaussian_filter1d(points, ruler.position_sigma_s * rate_hz, axis=0, mode="nearest")
    q = gaussian_filter1d(amplitude(smooth, ruler.n_bins), ruler.amplitude_sigma_s * rate_hz, mode="nearest")
    if q.max() <= _EPS * np.abs(points).max():
        return np.zeros(0)
    around = max(1, round(ruler.max_s * rate_hz))
    average = max(1, round(ruler.average_s * rate_hz))
    peaks = peak_pick(
        _by_maximum(q),
        pre_max=around,
        post_max=around,
        pre_avg=average,
        post_avg=average,
        delta=ruler.delta,
        wait=max(1, round(ruler.wait_s * rate_hz)),
    )
    times: NDArray[np.float64] = (np.asarray(peaks, dtype=np.float64) - 0.5) / rate_hz
    # Near the ends the low-pass sees one side only: a dancer cut off in mid-move would seem to set off.
    edge_s = 3 * ruler.position_sigma_s
    return times[(times > edge_s) & (times < len(points) / rate_hz - edge_s)]


def _by_maximum(q: NDArray[np.float64]) -> NDArray[np.float64]:
    return q / (q.max(initial=0.0) + _EPS)


def _checked(motion: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(motion, dtype=np.float64)
    if points.ndim != 3 or points.shape[-1] != 2:
        raise ClipError(
            f"motion has shape {points.shape}, expected (T, J, 2) in pixels; check how it was read"
        )
    if not np.isfinite(points).all():
        raise ClipError("motion holds values that are not finite, expected none; fill its gaps first")
    return points
