"""Golden 01: onsets, one-second bins and scores of LORIS' and D2M-GAN's scripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from momu_dist.core.audio.onsets import D2M_ONSETS, LORIS_ONSETS, OnsetRule, onset_times
from momu_dist.core.metrics.beats import (
    BeatScore,
    aggregate,
    d2m_bins_score,
    grid_bins,
    loris_bins_score,
    loris_grid_score,
)

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def beats(golden: Any) -> Any:
    return golden.json("01_beats.json")


@pytest.fixture(scope="module")
def onsets(golden: Any, beats: Any) -> Any:
    """(pair, side, rule name) -> onset times of the golden audio."""
    audio = golden.npz("01_beats_audio.npz")
    rules = {"loris": LORIS_ONSETS, "d2mgan": D2M_ONSETS}
    return {
        (pair, side, name): onset_times(audio[f"{side}{pair}_int16"] / 32768.0, beats["sr"], rule)
        for pair in range(len(beats["pairs"]))
        for side in ("gt", "syn")
        for name, rule in rules.items()
    }


def test_rules_are_the_reference_scripts_parameters(beats: Any) -> None:
    for rule, key in ((LORIS_ONSETS, "loris_params"), (D2M_ONSETS, "d2mgan_params")):
        wanted = beats[key]
        if not isinstance(
            wanted["pre_max"], int
        ):  # written out as a sentence: librosa's default at this rate
            wanted = {**wanted, "pre_max": int(0.03 * beats["sr"] // wanted["hop_length"])}
        fields = OnsetRule.__dataclass_fields__
        assert rule == OnsetRule(**{name: wanted[name] for name in fields})


def test_onsets_and_their_frames(beats: Any, onsets: Any) -> None:
    for number, pair in enumerate(beats["pairs"]):
        for side in ("gt", "syn"):
            times = onsets[number, side, "loris"]
            np.testing.assert_allclose(times, pair[f"onsets_{side}"], atol=1e-9)
            frames = np.round(times * beats["sr"] / beats["loris_params"]["hop_length"])
            np.testing.assert_array_equal(frames, pair[f"onset_frames_{side}"])


@pytest.mark.parametrize("name", ["loris", "d2mgan"])
def test_bins(golden: Any, beats: Any, onsets: Any, name: str) -> None:
    audio = golden.npz("01_beats_audio.npz")
    for number, pair in enumerate(beats["pairs"]):
        for side in ("gt", "syn"):
            duration_s = len(audio[f"{side}{number}_int16"]) / beats["sr"]
            bins = grid_bins(onsets[number, side, name], duration_s)
            np.testing.assert_array_equal(bins, pair[f"{name}_bins_{side}"])


def test_loris_scores_and_aggregate(beats: Any) -> None:
    scores = []
    for pair in beats["pairs"]:
        score = loris_grid_score(pair["onsets_gt"], pair["onsets_syn"], beats["dur"])
        assert (score.bcs, score.bhs) == pytest.approx((pair["loris_BCS"], pair["loris_BHS"]), abs=1e-12)
        scores.append(score)
    summary, wanted = aggregate(scores), beats["loris_aggregate"]
    assert {name: getattr(summary, name.lower()) for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_d2m_scores(beats: Any) -> None:
    scores = [d2m_bins_score(pair["d2mgan_bins_gt"], pair["d2mgan_bins_syn"]) for pair in beats["pairs"]]
    for score, pair in zip(scores, beats["pairs"], strict=True):
        assert (score.cover, score.hit) == pytest.approx(
            (pair["d2mgan_cover"], pair["d2mgan_hit"]), abs=1e-12
        )
    means = {name: np.mean([getattr(score, name) for score in scores]) for name in ("cover", "hit")}
    assert means == pytest.approx(beats["d2mgan_aggregate"], abs=1e-12)


def test_vector_cases(beats: Any) -> None:
    for case in beats["vector_cases"]:
        score: BeatScore = loris_bins_score(case["gt"], case["syn"])
        assert (score.bcs, score.bhs) == pytest.approx((case["BCS"], case["BHS"]), abs=1e-12)
