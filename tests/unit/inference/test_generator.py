"""The generator: the same request gives the same sample, alone or in company; what it refuses, it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from momu_dist.core.audio.mel import HOP, MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.motion.cleaning import grid_frames, resample_to_grid
from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError, ConfigError, DataError, MomuError
from momu_dist.inference.generator import Generator
from momu_dist.inference.inputs import read_inputs
from momu_dist.inference.models import load_models
from momu_dist.inference.motion_io import save_motion_npz, write_openpose_json
from momu_dist.inference.prepared import Prepared, prepare, warn_if_long
from momu_dist.inference.request import Request, Sample, variations

TASKS = ("a2m", "m2a", "joint")
STEPS = 4
LENGTHS_S = (1.5, 2.0, 1.2, 2.9, 1.7, 2.3, 1.1, 2.6)


@pytest.fixture(scope="module")
def generator(tiny_runs: Path) -> Generator:
    return Generator.load(tiny_runs, device="cpu")


@pytest.fixture(scope="module")
def clips(prepared: Manifest) -> list[PreparedClip]:
    return first_clips(prepared.root, "train", 4)


@pytest.mark.parametrize(("device", "tf32"), [("cuda", False), ("cpu", True)])
def test_models_on_a_gpu_round_as_fp32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, tf32: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(
        CheckpointError
    ):  # it is settled before models are looked for, as there is no GPU here
        load_models([tmp_path], torch.device(device))
    assert torch.backends.cudnn.allow_tf32 is tf32


def request_of(task: Any, clips: list[PreparedClip], i: int = 0, **other: Any) -> Request:
    clip = clips[i % len(clips)]
    inputs: dict[str, Any] = {"a2m": {"audio": clip.audio}, "m2a": {"motion_px": clip.motion_px}}.get(
        task, {}
    )
    values = {"seed": i, "seconds": LENGTHS_S[i % 8], "steps": STEPS, **inputs, **other}
    return Request(task, **values)


def assert_same(a: Sample, b: Sample, atol: float) -> None:
    assert a.request == b.request or a.request.seed == b.request.seed
    for name in ("motion_px", "mel"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=atol, rtol=0, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_sample_is_whole(generator: Generator, clips: list[PreparedClip], task: str) -> None:
    request = request_of(task, clips)
    (sample,) = generator.generate(request)
    frames = grid_frames(LENGTHS_S[0])
    assert sample.request is request
    assert sample.motion_px.shape == (frames, 14, 2) and sample.mel.shape == (80, frames)
    assert sample.audio.shape == (frames * HOP,)
    for array in (sample.motion_px, sample.mel, sample.audio):
        assert array.dtype == np.float32 and np.isfinite(array).all()
    for times in (sample.onsets_s, sample.beats_s):
        assert ((times >= 0) & (times <= frames / MEL_RATE_HZ)).all()
    assert sample.recipe()["seconds"] == frames / MEL_RATE_HZ
    assert ("gamma" in sample.recipe()) == (task == "joint")


def test_what_was_given_is_kept(generator: Generator, clips: list[PreparedClip]) -> None:
    (danced,) = generator.generate(request_of("a2m", clips))
    np.testing.assert_array_equal(danced.audio, clips[0].audio[: len(danced.audio)])
    assert danced.vocoder is None
    whole = len(clips[0].motion_px)
    (played,) = generator.generate(request_of("m2a", clips, seconds=None))
    assert len(played.motion_px) == whole and played.vocoder == generator.vocoder.name
    np.testing.assert_array_equal(played.motion_px, clips[0].motion_px)
    (cut,) = generator.generate(request_of("m2a", clips, seconds=1.5))
    np.testing.assert_array_equal(cut.motion_px, clips[0].motion_px[: grid_frames(1.5)])


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_our_own_files_come_back_as_they_were_written(
    generator: Generator, clips: list[PreparedClip], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"motion.{suffix}"
    motion = clips[0].motion_px.astype(np.float64).round(2)  # what the JSON holds
    (save_motion_npz if suffix == "npz" else write_openpose_json)(path, motion, MEL_RATE_HZ)
    (played,) = generator.generate(Request("m2a", steps=1, **read_inputs("m2a", path)))
    np.testing.assert_array_equal(played.motion_px, motion.astype(np.float32))


def test_motion_at_a_cameras_rate_is_brought_to_the_grid(
    generator: Generator, clips: list[PreparedClip]
) -> None:
    """At any other rate, frame i lies at i / fps, as a camera's do."""
    motion = clips[0].motion_px[:120]
    (sample,) = generator.generate(request_of("m2a", clips, motion_px=motion, fps=60.0, seconds=None))
    expected = resample_to_grid(motion, 60.0, grid_frames(2.0))
    np.testing.assert_array_equal(sample.motion_px, expected.astype(np.float32))
    assert sample.recipe()["fps"] == 60.0


def test_the_recipe_tells_the_sampler_and_the_rate_of_given_motion(
    generator: Generator, clips: list[PreparedClip]
) -> None:
    recipes = {task: generator.generate(request_of(task, clips))[0].recipe() for task in TASKS}
    assert {recipe["sampler"] for recipe in recipes.values()} == {"ddim"}
    assert recipes["m2a"]["fps"] == MEL_RATE_HZ and not any("fps" in recipes[t] for t in ("a2m", "joint"))


def test_what_is_prepared_knows_its_steps(generator: Generator, clips: list[PreparedClip]) -> None:
    """Those that its walk counts, whatever the sampler makes of what was asked."""
    for task, sampler in (("a2m", "ddim"), ("m2a", "dpm++"), ("joint", "dpm++"), ("a2m", "ddpm")):
        made = prepare(request_of(task, clips, sampler=sampler), generator.models)
        assert made.n_steps == next(generator.walk(made))[0].point.n_steps > 0


@pytest.mark.parametrize("task", ["a2m", "m2a"])
def test_ddpm_takes_every_step_of_the_schedule_alone_as_in_company(
    generator: Generator, clips: list[PreparedClip], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = replace(generator.models.denoising[task], schedule=NoiseSchedule.linear(30, 0.01, 0.3))
    monkeypatch.setitem(generator.models.denoising, task, net)  # type: ignore[arg-type]
    requests = [request_of(task, clips, i, sampler="ddpm") for i in range(2)]
    told: list[tuple[int, int]] = []
    together = generator.generate(
        [*requests, request_of(task, clips)], lambda done, total: told.append((done, total))
    )
    # Three requests step together until the short one is done, then two.
    assert told[0] == (3, 60 + STEPS) and told[-1] == (60 + STEPS, 60 + STEPS) and len(told) == 30
    made = "mel" if task == "m2a" else "motion_px"
    for request, sample in zip(requests, together, strict=False):
        assert_same(generator.generate(request)[0], sample, atol=1e-3)
        assert sample.recipe()["sampler"] == "ddpm"
    assert np.abs(getattr(together[0], made) - getattr(together[2], made)).max() > 1e-2


def test_a_sampler_that_does_not_fit(generator: Generator, clips: list[PreparedClip]) -> None:
    for task in TASKS:
        with pytest.raises(ConfigError, match=r"sampler is 'euler', expected one of ddim, ddpm, dpm\+\+\."):
            generator.generate(request_of(task, clips, sampler="euler"))
    with pytest.raises(ConfigError, match="sampler is 'ddpm' with task joint"):
        generator.generate(request_of("joint", clips, sampler="ddpm"))
    with pytest.raises(ConfigError, match="1 to 999 steps, found 1000"):
        generator.generate([request_of("a2m", clips), request_of("a2m", clips, sampler="dpm++", steps=1000)])


@pytest.mark.parametrize(
    ("task", "sampler"), [(task, sampler) for task in TASKS for sampler in ("ddim", "dpm++")]
)
def test_alone_as_in_a_batch_of_eight_unlike_lengths(
    generator: Generator, clips: list[PreparedClip], task: str, sampler: str
) -> None:
    requests = [request_of(task, clips, i, sampler=sampler) for i in range(8)]
    together = generator.generate(requests)
    assert [sample.request for sample in together] == requests
    for i in (0, 3, 6):
        assert_same(generator.generate(requests[i])[0], together[i], atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides_and_nothing_else(
    generator: Generator, clips: list[PreparedClip], task: str
) -> None:
    request = request_of(task, clips)
    torch.manual_seed(1)
    (first,) = generator.generate(request)
    torch.manual_seed(2)
    (again,) = generator.generate(request)
    for name in ("motion_px", "mel", "audio"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    (other,) = generator.generate(replace(request, seed=request.seed + 1))
    made = "mel" if task == "m2a" else "motion_px"
    assert np.abs(getattr(other, made) - getattr(first, made)).max() > 1e-2


def test_unlike_tasks_in_one_call_come_back_in_order(generator: Generator, clips: list[PreparedClip]) -> None:
    requests = [request_of(task, clips, i) for i, task in enumerate(("joint", "a2m", "m2a", "a2m", "joint"))]
    requests[3] = replace(requests[3], guidance=1.0)
    together = generator.generate(requests)
    assert [sample.request for sample in together] == requests
    for request, sample in zip(requests, together, strict=True):
        assert_same(generator.generate(request)[0], sample, atol=1e-3)


def test_more_requests_than_a_batch_takes(tiny_runs: Path, clips: list[PreparedClip]) -> None:
    small = Generator.load(tiny_runs, device="cpu")
    small.max_batch = 2
    requests = [request_of("joint", clips, i) for i in range(5)]
    parts, whole = small.generate(requests), Generator(small.models).generate(requests)
    for one, other in zip(parts, whole, strict=True):
        assert_same(one, other, atol=1e-3)


def test_no_requests_give_no_samples(generator: Generator) -> None:
    assert generator.generate([]) == []


def test_guidance_changes_the_sample(generator: Generator, clips: list[PreparedClip]) -> None:
    one, three = (generator.generate(request_of("a2m", clips, guidance=g))[0] for g in (1.0, 3.0))
    assert np.abs(one.motion_px - three.motion_px).max() > 1e-3


def test_steps_are_counted(generator: Generator, clips: list[PreparedClip]) -> None:
    for task in TASKS:
        told: list[tuple[int, int]] = []
        generator.generate(request_of(task, clips), lambda done, total, told=told: told.append((done, total)))
        assert told == [(k, STEPS) for k in range(1, STEPS + 1)]


def test_variations_count_seeds_up(clips: list[PreparedClip]) -> None:
    request = request_of("joint", clips, 5)
    assert [r.seed for r in variations(request, 3)] == [5, 6, 7]
    assert {replace(r, seed=5) for r in variations(request, 3)} == {request}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", 0.5),
        ("seconds", 601.0),
        ("seconds", float("nan")),
        ("steps", 0),
        ("steps", 1001),
        ("guidance", float("nan")),
        ("guidance", float("inf")),
    ],
)
def test_settings_out_of_range(
    generator: Generator, clips: list[PreparedClip], task: str, field: str, value: float
) -> None:
    with pytest.raises(ConfigError, match=field):
        generator.generate(request_of(task, clips, **{field: value}))


def test_gamma_out_of_range(generator: Generator, clips: list[PreparedClip]) -> None:
    with pytest.raises(ConfigError, match="gamma"):
        generator.generate(request_of("joint", clips, gamma=1.5))


def test_an_unknown_task(generator: Generator, clips: list[PreparedClip]) -> None:
    with pytest.raises(MomuError, match="m2m"):
        generator.generate(replace(request_of("joint", clips), task="m2m"))  # type: ignore[arg-type]


def test_seconds_cut_a_longer_input_only(generator: Generator, clips: list[PreparedClip]) -> None:
    whole = len(clips[0].motion_px)
    for task in ("a2m", "m2a"):
        (sample,) = generator.generate(request_of(task, clips, seconds=10.0))
        assert len(sample.motion_px) == whole
        (sample,) = generator.generate(request_of(task, clips, seconds=1.5))
        assert len(sample.motion_px) == grid_frames(1.5)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_given(generator: Generator, task: Any) -> None:
    with pytest.raises(MomuError, match={"a2m": "music", "m2a": "motion", "joint": "seconds"}[task]):
        generator.generate(Request(task, steps=STEPS))


def unusable_inputs() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    audio = rng.normal(size=2 * SAMPLE_RATE).astype(np.float32)
    motion = rng.normal(300.0, 50.0, (125, 14, 2)).astype(np.float32)
    broken, gap = audio.copy(), motion.copy()
    broken[5], gap[3, 2] = np.nan, np.nan
    return {
        "music too short": {"task": "a2m", "audio": audio[: SAMPLE_RATE // 2]},
        "music empty": {"task": "a2m", "audio": audio[:0]},
        "music stereo": {"task": "a2m", "audio": np.stack([audio, audio])},
        "music not finite": {"task": "a2m", "audio": broken},
        "motion too short": {"task": "m2a", "motion_px": motion[:20]},
        "motion empty": {"task": "m2a", "motion_px": motion[:0]},
        "motion of 17 joints": {"task": "m2a", "motion_px": np.zeros((125, 17, 2), np.float32)},
        "motion not finite": {"task": "m2a", "motion_px": gap},
        "motion at no rate": {"task": "m2a", "motion_px": motion, "fps": 0.0},
        "motion at a rate below zero": {"task": "m2a", "motion_px": motion, "fps": -25.0},
    }


@pytest.mark.parametrize("case", unusable_inputs())
def test_unusable_input_is_one_sentence(generator: Generator, case: str) -> None:
    with pytest.raises(DataError, match=case.split()[0]) as caught:
        generator.generate(Request(steps=STEPS, **unusable_inputs()[case]))
    assert "\n" not in str(caught.value)


def test_a_direction_that_was_not_loaded(tiny_runs: Path, clips: list[PreparedClip]) -> None:
    one = Generator.load(tiny_runs / "dit_a2m", device="cpu")
    assert len(one.generate(request_of("a2m", clips))) == 1
    for task in ("m2a", "joint"):
        with pytest.raises(CheckpointError, match=f"task {task} needs a trained dit_m2a"):
            one.generate(request_of(task, clips))


def test_motion_of_another_camera_is_brought_to_size(generator: Generator, clips: list[PreparedClip]) -> None:
    """Four times the size, elsewhere: the network sees what it would see of the training set's camera."""
    stats = generator.models.motion_stats
    motion = clips[0].motion_px
    (near,) = generator.generate(request_of("m2a", clips, motion_px=motion * 4 + 5000))
    lengths = np.abs(near.motion_px - np.asarray(stats.centre)).max()
    assert lengths < 6 * stats.scale and np.isfinite(near.mel).all()
    (own,) = generator.generate(request_of("m2a", clips))
    (moved,) = generator.generate(request_of("m2a", clips, motion_px=motion + 10.0))
    np.testing.assert_allclose(moved.motion_px, own.motion_px + 10.0, atol=1e-2)


@pytest.mark.parametrize("task", TASKS)
def test_one_second_is_long_enough(generator: Generator, clips: list[PreparedClip], task: str) -> None:
    (sample,) = generator.generate(request_of(task, clips, seconds=1.0))
    assert len(sample.motion_px) == grid_frames(1.0)


def test_motion_and_music_out_of_range_are_sentences(generator: Generator, clips: list[PreparedClip]) -> None:
    for motion, sentence in ((clips[0].motion_px * 0, "no length"), (clips[0].motion_px * 1e6, "px")):
        with pytest.raises(DataError, match=sentence):
            generator.generate(request_of("m2a", clips, motion_px=motion))
    with pytest.raises(DataError, match="full scale"):
        generator.generate(request_of("a2m", clips, audio=clips[0].audio * 1e6 + 1e4))


def test_latents_that_are_not_finite_name_the_guidance(
    generator: Generator, clips: list[PreparedClip]
) -> None:
    net = generator.models.denoising["a2m"]
    broken = replace(net, eps=lambda x, *rest: x * float("nan"))
    models = replace(generator.models, denoising={"a2m": broken})
    with pytest.raises(DataError, match="motion is not finite with guidance 90"):
        Generator(models).generate(request_of("a2m", clips, guidance=90.0))


def test_a_long_request_is_made_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_long([Prepared(Request("joint"), grid_frames(60.0), 50)])
    assert not caplog.records
    warn_if_long([Prepared(Request("joint"), grid_frames(61.0), 50)] * 2)
    assert [record.getMessage()[:4] for record in caplog.records] == ["61 s"]
    assert "--seconds" in caplog.text
