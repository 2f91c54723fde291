"""Golden 05: directogram and amplitude, beside LORIS' and RhythmicNet's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from momu_dist.core.motion.kinematics import Angle, Window, amplitude, directogram, flux, normalised_amplitude

WINDOW: dict[str, Window] = {"bins": "hard", "window": "literal"}
ANGLE: dict[str, Angle] = {"atan2": "atan2", "atan": "atan"}


@pytest.fixture(scope="module")
def kinematics(golden: Any) -> Any:
    return golden.npz("05_kinematics.npz")


def test_every_variant_of_equation_1_and_2(kinematics: Any) -> None:
    motion = kinematics["motion"]
    found = 0
    for key in kinematics:
        variant = re.fullmatch(r"momu_D_(K(\d+)_(atan2?)_(bins|window))", key)
        if variant is None:
            continue
        found += 1
        name, bins, angle, window = variant.groups()
        options: Any = {"n_bins": int(bins), "window": WINDOW[window], "angle": ANGLE[angle]}
        np.testing.assert_allclose(directogram(motion, **options), kinematics[key], atol=1e-9, err_msg=key)
        q, qn = amplitude(motion, **options), normalised_amplitude(motion, **options)
        assert q[0] == qn[0] == 0  # frame 0 has no step to it; the golden numbers start at frame 1
        np.testing.assert_allclose(q[1:], kinematics[f"momu_Q_{name}"], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(qn[1:], kinematics[f"momu_Qn_{name}"], atol=1e-12, err_msg=name)
    assert found


def test_tiny_case(golden: Any) -> None:
    tiny = golden.json("05_tiny.json")
    np.testing.assert_allclose(directogram(tiny["tiny_motion"], tiny["K"]), tiny["D"], atol=1e-12)
    np.testing.assert_allclose(amplitude(tiny["tiny_motion"], tiny["K"])[1:], tiny["Q"], atol=1e-12)
    np.testing.assert_allclose(
        normalised_amplitude(tiny["tiny_motion"], tiny["K"])[1:], tiny["Qn"], atol=1e-12
    )


def test_flux_of_loris_directogram_is_loris_envelope(kinematics: Any) -> None:
    # Their directions are folded and interleaved (degrees mod 180 mod bins), which is not offered; Eq. 2 is the same.
    q = flux(kinematics["loris_directogram"])
    np.testing.assert_allclose(q[1:] / q.max(), kinematics["loris_env"], atol=1e-6)


def test_flux_of_rhythmicnets_directogram_is_its_offsets(kinematics: Any) -> None:
    steps = np.diff(kinematics["motion"].astype(np.float64), axis=0)
    length = np.linalg.norm(steps, axis=-1)
    degrees = np.degrees(np.arccos(steps[..., 0] / (length + 1e-5)))
    for key in (key for key in kinematics if key.startswith("rhythmicnet_offsets_")):
        n_bins = int(key.rsplit("_", 1)[1])
        bins = np.minimum(degrees.astype(int) // (180 // n_bins), n_bins - 1)
        folded = np.stack([(length * (bins == k)).sum(axis=1) for k in range(n_bins)], axis=1)
        np.testing.assert_allclose(flux(folded) / n_bins, kinematics[key], atol=1e-5, err_msg=key)
