"""Samples near a liked one: how noise is mixed, what a toy network makes of it, and what the command line keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from momu_dist import cli
from momu_dist.core.diffusion.samplers import ddim, ddpm
from momu_dist.core.diffusion.samplers import sample as sample_of
from momu_dist.core.diffusion.schedule import NoiseSchedule
from momu_dist.core.random import Seed, randn_each
from momu_dist.data.clips import PreparedClip, first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError, DataError
from momu_dist.inference.generator import Generator
from momu_dist.inference.likeness import Like, leading_seed, noise_seed, read_recipe
from momu_dist.inference.outputs import write_sample
from momu_dist.inference.request import Request

TASKS = ("a2m", "m2a", "joint")
DISTANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = 3
SHAPE = (400, 5)


@pytest.fixture(scope="module")
def generator(tiny_runs: Path) -> Generator:
    return Generator.load(tiny_runs, device="cpu")


@pytest.fixture(scope="module")
def clips(prepared: Manifest) -> list[PreparedClip]:
    return first_clips(prepared.root, "train", 2)


def request_of(task: Any, clips: list[PreparedClip], **other: Any) -> Request:
    inputs: dict[str, Any] = {"a2m": {"audio": clips[0].audio}, "m2a": {"motion_px": clips[0].motion_px}}
    return Request(task, **{"seed": 7, "seconds": 1.5, "steps": STEPS, **inputs.get(task, {}), **other})


def noise(seed: int, like: Like | None = None) -> np.ndarray:
    return randn_each([noise_seed(seed, like)], SHAPE, "start")[0].numpy()


# -- noise -------------------------------------------------------------------------------------------------------------


def test_the_ends_of_the_way_are_the_two_noises_to_the_bit() -> None:
    np.testing.assert_array_equal(noise(9, Like(7, 0.0)), noise(7))
    np.testing.assert_array_equal(noise(9, Like(7, 1.0)), noise(9))


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_mix_is_cos_and_sin_and_stays_standard_normal(distance: float) -> None:
    angle = distance * np.pi / 2
    found = noise(9, Like(7, distance))
    np.testing.assert_allclose(found, np.cos(angle) * noise(7) + np.sin(angle) * noise(9), atol=1e-6)
    assert found.std() == pytest.approx(1.0, abs=0.05) and found.dtype == np.float32


def test_a_chain_is_mixed_link_by_link() -> None:
    first = Like(3, 0.4)
    second = Like(7, 0.3, first)  # sample 7 was made like 3, sample 9 like that
    angle = 0.3 * np.pi / 2
    expected = np.cos(angle) * noise(7, first) + np.sin(angle) * noise(9)
    np.testing.assert_allclose(noise(9, second), expected, atol=1e-6)
    np.testing.assert_array_equal(noise(9, replace(second, distance=0.0)), noise(7, first))
    mixed = noise_seed(9, second)
    assert not isinstance(mixed, int) and sum(w * w for w in mixed.weights) == pytest.approx(1.0)


def test_a_longer_draw_of_a_mix_starts_with_the_shorter_one() -> None:
    mix = noise_seed(9, Like(7, 0.3))
    short, long = (randn_each([mix, 4], (n, 5), "start") for n in (6, 11))
    assert torch.equal(long[:, :6], short)


def test_the_leading_seed_is_the_nearest() -> None:
    assert leading_seed(noise_seed(9, Like(7, 0.3))) == 7
    assert leading_seed(noise_seed(9, Like(7, 0.7))) == 9
    assert leading_seed(noise_seed(9, None)) == 9


@pytest.mark.parametrize("distance", [-0.1, 1.1, float("nan")])
def test_a_distance_outside_is_refused(distance: float) -> None:
    with pytest.raises(ConfigError, match=r"distance is .*, expected 0"):
        noise_seed(9, Like(7, distance))


def test_a_seed_of_the_liked_sample_is_refused() -> None:
    for seed in (3, 7):
        with pytest.raises(ConfigError, match=f"seed {seed} is already in the liked sample"):
            noise_seed(seed, Like(7, 0.5, Like(3, 0.5)))


# -- samplers ----------------------------------------------------------------------------------------------------------


def sample_ddim(schedule: NoiseSchedule, seeds: list[Seed]) -> Tensor:
    start = randn_each(seeds, (20, 3), "start").transpose(1, 2)
    return sample_of(ddim(schedule, start, n_steps=10, seeds=seeds), toy)


def sample_ddpm(schedule: NoiseSchedule, seeds: list[Seed]) -> Tensor:
    start = randn_each(seeds, (20, 3), "start").transpose(1, 2)
    return sample_of(ddpm(schedule, start, seeds=seeds), toy)


def toy(z: Tensor, t: Tensor) -> Tensor:
    """Some fixed non-linear denoiser."""
    return torch.tanh(z) * 0.8 + 0.1 * z.roll(1, dims=-1)


@pytest.mark.parametrize("sample", [sample_ddim, sample_ddpm])
def test_the_farther_the_less_alike(sample: Callable[[NoiseSchedule, list[Seed]], Tensor]) -> None:
    """In expectation over seeds; for ddpm its steps' noise is mixed too, or the samples would part at once."""
    schedule = NoiseSchedule.linear(30, 0.01, 0.3)
    liked = sample(schedule, list(range(40)))
    apart = []
    for distance in DISTANCES:
        near = sample(schedule, [noise_seed(100 + i, Like(i, distance)) for i in range(40)])
        apart.append(float((near - liked).square().mean()))
    assert apart[0] == 0.0
    assert all(b > 1.1 * a for a, b in zip(apart, apart[1:], strict=False)), apart
    fresh = sample(schedule, [100 + i for i in range(40)])
    assert apart[-1] == float((fresh - liked).square().mean())


# -- the generator -----------------------------------------------------------------------------------------------------


def arrays(sample: Any) -> list[np.ndarray]:
    return [sample.motion_px, sample.mel, sample.audio]


@pytest.mark.parametrize("task", TASKS)
def test_distance_zero_is_the_liked_sample_and_one_is_the_new(
    generator: Generator, clips: list[PreparedClip], task: str
) -> None:
    liked = request_of(task, clips)
    requests = [liked, replace(liked, seed=9)]
    requests += [replace(liked, seed=9, like=Like(7, distance)) for distance in (0.0, 1.0, 0.5)]
    old, new, zero, one, half = (arrays(generator.generate(request)[0]) for request in requests)
    for a, b in ((old, zero), (new, one)):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    made = 1 if task == "m2a" else 0
    apart = [float(np.square(other[made] - old[made]).mean()) for other in (half, new)]
    assert 0 < apart[0] < apart[1]


@pytest.mark.parametrize("task", ["a2m", "m2a"])
def test_distance_zero_with_ddpm(
    generator: Generator, clips: list[PreparedClip], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = replace(generator.models.denoising[task], schedule=NoiseSchedule.linear(20, 0.01, 0.3))
    monkeypatch.setitem(generator.models.denoising, task, net)  # type: ignore[arg-type]
    liked = request_of(task, clips, sampler="ddpm")
    near = replace(liked, seed=9, like=Like(7, 0.0))
    for x, y in zip(*(arrays(generator.generate(r)[0]) for r in (liked, near)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("task", TASKS)
def test_a_mix_alone_as_in_a_batch_of_eight(
    generator: Generator, clips: list[PreparedClip], task: str
) -> None:
    liked = request_of(task, clips)
    requests = [
        replace(liked, seed=20 + i, seconds=1.1 + 0.2 * i, like=Like(7, i / 10) if i % 2 else None)
        for i in range(8)
    ]
    together = generator.generate(requests)
    for i in (1, 4, 5):
        (alone,) = generator.generate(requests[i])
        np.testing.assert_allclose(alone.motion_px, together[i].motion_px, atol=1e-3, rtol=0)
        np.testing.assert_allclose(alone.mel, together[i].mel, atol=1e-3, rtol=0)


def test_the_generator_refuses_what_cannot_be_mixed(generator: Generator, clips: list[PreparedClip]) -> None:
    for like, sentence in ((Like(7, 2.0), "distance"), (Like(7, 0.5), "already in the liked sample")):
        with pytest.raises(ConfigError, match=sentence):
            generator.generate(request_of("joint", clips, like=like))


# -- the JSON and the command line -------------------------------------------------------------------------------------


def make(out: Path, *arguments: object) -> dict[str, Any]:
    """Run `momu generate` into a folder of its own; return the JSON of its only sample, with the JSON's own `path`."""
    assert cli.main(["generate", "--out", str(out), *map(str, arguments)]) == 0
    (path,) = (path for path in out.glob("*.json") if ".openpose" not in path.name)
    return {**json.loads(path.read_text()), "path": path}


def motion_of(recipe: dict[str, Any]) -> np.ndarray:
    with np.load(recipe["path"].parent / recipe["files"]["motion"]) as held:
        return held["motion_px"]


def test_a_sample_and_its_neighbours_are_made_again_from_their_json(tiny_runs: Path, tmp_path: Path) -> None:
    task = ("--task", "joint", "--checkpoint", tiny_runs, "--seconds", 1, "--steps", STEPS, "--gamma", 0.4)
    first = make(tmp_path / "first", *task, "--seed", 7)
    near = make(tmp_path / "near", "--like", first["path"])
    assert (near["seed"], near["like"]) == (8, {"seed": 7, "distance": 0.3, "like": None})
    assert (near["gamma"], near["steps"], near["seconds"]) == (0.4, STEPS, first["seconds"])
    assert near["path"].name == "joint-seed8-like7-distance0.3.json"
    assert np.abs(motion_of(near) - motion_of(first)).max() > 0
    far = make(tmp_path / "far", "--like", near["path"], "--distance", 0.6, "--seed", 30)
    assert far["like"] == {"seed": 8, "distance": 0.6, "like": near["like"]}
    for i, recipe in enumerate((first, near, far)):
        again = make(tmp_path / f"again{i}", "--like", recipe["path"], "--distance", 0)
        np.testing.assert_array_equal(motion_of(again), motion_of(recipe))
        wav = [(r["path"].parent / r["files"]["wav"]).read_bytes() for r in (again, recipe)]
        assert wav[0] == wav[1]


def test_where_the_input_is_gone_the_samples_own_is_taken(
    generator: Generator, clips: list[PreparedClip], tmp_path: Path
) -> None:
    (sample,) = generator.generate(request_of("m2a", clips))
    paths = write_sample(tmp_path, "liked", sample, {"input": "clip of a data set"})
    recipe = read_recipe(paths["recipe"])
    assert recipe.input == paths["motion"] and "fps" not in recipe.values
    given = tmp_path / "given.npz"
    given.touch()
    write_sample(tmp_path, "liked", sample, {"input": str(given)})
    recipe = read_recipe(paths["recipe"])
    assert recipe.input == given and recipe.values["fps"] == 62.5


def test_the_recipe_says_the_chain(generator: Generator, clips: list[PreparedClip], tmp_path: Path) -> None:
    like = Like(7, 0.2, Like(50, 0.1))
    (sample,) = generator.generate(request_of("joint", clips, seed=9, like=like))
    assert sample.recipe()["like"] == asdict(like)
    recipe = read_recipe(write_sample(tmp_path, "s", sample, {})["recipe"])
    assert (recipe.seed, recipe.like, recipe.near(0.5)) == (9, like, Like(9, 0.5, like))
    assert recipe.next_seed() == 51
    assert "like" not in generator.generate(request_of("joint", clips))[0].recipe()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"task": "a2m"}', '{"task": "joint", "seed": "x"}', "null"]
)
def test_what_is_no_recipe_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sample.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"the JSON of a sample .*; give the \.json") as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="the JSON of a sample"):
        read_recipe(tmp_path / "none.json")


def test_what_the_command_line_refuses(
    tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, sentence in (
        (["--task", "joint"], "--checkpoint is missing"),
        (["--checkpoint", str(tiny_runs)], "--task a2m, m2a or joint is missing"),
        (["--task", "joint", "--distance", "0.5"], "without --like"),
        (["--like", str(tmp_path / "none.json")], "none.json cannot be read"),
    ):
        assert cli.main(["generate", *arguments]) == 2
        assert sentence in capsys.readouterr().err


def test_other_weights_are_told(
    tiny_runs: Path,
    generator: Generator,
    clips: list[PreparedClip],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (sample,) = generator.generate(request_of("joint", clips, seconds=1.2))
    origin = {"checkpoints": [str(tiny_runs)], "weights": {**generator.models.origins, "a2m": "0"}}
    path = write_sample(tmp_path, "liked", sample, origin)["recipe"]
    make(tmp_path / "near", "--like", path)
    assert f"warning: {path} was made with another a2m" in capsys.readouterr().err
