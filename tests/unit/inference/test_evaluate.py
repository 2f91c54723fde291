"""Scores beside what they would be without synchronisation, worked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from momu_dist.cli import main
from momu_dist.data.clips import first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.inference.evaluate import EvaluationSettings, evaluate_beats, paired, shuffled
from momu_dist.inference.generator import Generator

TRUTH = [np.array([0.0, 1.0]), np.array([0.5, 1.5])]


def test_paired_is_the_mean_f1_of_own_partners() -> None:
    found = [np.array([0.05, 1.8]), np.array([0.5, 1.5])]  # one of two within 0.07 s; both
    assert paired(TRUTH, found) == pytest.approx((0.5 + 1.0) / 2)
    assert paired(TRUTH, TRUTH) == 1.0


def test_paired_counts_too_many_and_too_few() -> None:
    # 2 of 4 found beats match both true ones: precision 1/2, recall 1, F1 2/3.
    assert paired(TRUTH[:1], [np.array([0.0, 0.3, 0.6, 1.0])]) == pytest.approx(2 / 3)
    assert paired(TRUTH[:1], [np.array([])]) == 0.0


def test_shuffled_takes_every_other_partner() -> None:
    found = [np.array([0.5, 1.5]), np.array([0.0, 9.0])]
    # Truth 0 with found 1: one of two; truth 1 with found 0: both.
    assert shuffled(TRUTH, found, ["a", "b"]) == pytest.approx((0.5 + 1.0) / 2)
    three = [np.array([float(k)]) for k in range(3)]
    assert shuffled(three, three, ["a", "b", "c"]) == 0.0 and paired(three, three) == 1.0


def test_shuffled_of_one_clip_is_not_a_number() -> None:
    assert math.isnan(shuffled(TRUTH[:1], TRUTH[:1], ["a"]))


def test_lists_of_unlike_length_are_a_mistake() -> None:
    with pytest.raises(ValueError):
        paired(TRUTH, TRUTH[:1])


def test_every_direction_has_its_scores(tiny_runs: Path, prepared: Manifest) -> None:
    generator = Generator.load(tiny_runs, device="cpu")
    clips = first_clips(prepared.root, "test", 2)
    scores, samples = evaluate_beats(generator, clips, EvaluationSettings(steps=2))
    shared = {
        "generated",
        "shuffled",
        "ceiling",
        "chance",
        "n_clips",
        "beats_per_clip_true",
        "beats_per_clip_generated",
    }
    assert set(scores["m2a"]) == shared
    assert set(scores["a2m"]) == shared | {"generated_vs_music", "true_vs_music"}
    for direction, values in scores.items():
        assert values["n_clips"] == len(clips) == len(samples[direction])
        for name in shared - {"n_clips", "beats_per_clip_true", "beats_per_clip_generated"}:
            assert 0.0 <= values[name] <= 1.0
        for sample, clip in zip(samples[direction], clips, strict=True):
            given = sample.audio if direction == "a2m" else sample.motion_px
            assert len(given) == len(clip.audio if direction == "a2m" else clip.motion_px)
    again, _ = evaluate_beats(generator, clips, EvaluationSettings(steps=2))
    assert again == scores


def test_the_sampler_of_the_settings_makes_the_samples(tiny_runs: Path, prepared: Manifest) -> None:
    generator = Generator.load(tiny_runs / "dit_a2m", device="cpu")
    clips = first_clips(prepared.root, "test", 2)
    made = {
        name: evaluate_beats(generator, clips, EvaluationSettings(steps=2, sampler=name))[1]["a2m"]
        for name in ("ddim", "dpm++")
    }
    for name, samples in made.items():
        assert [sample.recipe()["sampler"] for sample in samples] == [name, name]
    assert np.abs(made["ddim"][0].motion_px - made["dpm++"][0].motion_px).max() > 1e-2


def test_one_loaded_direction_is_scored_alone(tiny_runs: Path, prepared: Manifest) -> None:
    generator = Generator.load(tiny_runs / "dit_m2a", device="cpu")
    scores, _ = evaluate_beats(generator, first_clips(prepared.root, "test", 2), EvaluationSettings(steps=1))
    assert set(scores) == {"m2a"}


def test_shuffled_leaves_out_clips_of_the_same_group() -> None:
    views = [TRUTH[0], TRUTH[0], np.array([5.0])]
    assert shuffled(views, views, ["dance", "dance", "other"]) == 0.0
    assert math.isnan(shuffled(views[:2], views[:2], ["dance", "dance"]))


def test_the_command_says_whose_scores_they_are(
    tiny_runs: Path, prepared: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(tiny_runs / "dit_a2m"), "--data", str(prepared.root), "--guidance", "2"]
    assert main(["evaluate", *given, "--steps", "1", "-n", "2", "--name", "evaluate-guidance-2"]) == 0
    out, last = capsys.readouterr()
    told = json.loads(out)
    assert (told["settings"]["guidance"], told["settings"]["n"]) == (2.0, 2)
    score = told["beat_f1"]["a2m"]["generated"]
    assert last.splitlines()[-1] == f"evaluate-guidance-2: beat F1 of a2m {score:.3f}"
