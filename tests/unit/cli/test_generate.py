"""`momu generate --vocoder`: the sound is that vocoder's, and the files say so."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from momu_dist.cli import main
from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig
from momu_dist.inference.motion_io import save_motion_npz
from momu_dist.inference.vocoders import hint_griffin_lim, load_vocoder


@pytest.fixture
def vocoder_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "vocoder"
    folder.mkdir()
    config = BigVGANConfig(80, (16, 16), (32, 32), 4, "1", (3,), ((1,),))
    (folder / "args.yml").write_text(
        yaml.safe_dump({name: _lists(value) for name, value in vars(config).items()})
    )
    torch.save({"generator": BigVGAN(config).state_dict()}, folder / "best_netG.pt")
    return folder


def _lists(value: object) -> object:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def generate(runs: Path, tmp_path: Path, *more: str) -> dict[str, object]:
    motion = np.random.default_rng(0).normal(300, 30, (80, 14, 2)).astype(np.float32)
    save_motion_npz(tmp_path / "motion.npz", motion, 62.5)
    arguments = ["--checkpoint", str(runs / "dit_m2a"), "--input", str(tmp_path / "motion.npz")]
    out = ["--steps", "1", "--out", str(tmp_path / "out")]
    assert main(["generate", "--task", "m2a", *arguments, *out, *more]) == 0
    recipe: dict[str, object] = json.loads((tmp_path / "out" / "m2a-seed0.json").read_text())
    return recipe


def test_the_vocoder_that_is_named_makes_the_sound(
    tiny_runs: Path,
    tmp_path: Path,
    vocoder_folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hint_griffin_lim.cache_clear()
    with caplog.at_level(logging.WARNING):
        recipe = generate(tiny_runs, tmp_path, "--vocoder", str(vocoder_folder))
    name = load_vocoder(vocoder_folder).name
    assert recipe["vocoder"] == name and recipe["vocoder_from"] == str(vocoder_folder)
    assert f"(sound: {name})" in capsys.readouterr().out
    assert "Griffin-Lim" not in caplog.text


def test_without_one_it_is_griffin_lims_and_that_is_said(
    tiny_runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hint_griffin_lim.cache_clear()
    with caplog.at_level(logging.WARNING):
        recipe = generate(tiny_runs, tmp_path)
    assert str(recipe["vocoder"]).startswith("griffin-lim") and "vocoder_from" not in recipe
    assert caplog.text.count("--vocoder") == 1


def test_a_folder_without_a_vocoder_is_one_sentence(
    tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_motion_npz(tmp_path / "motion.npz", np.ones((80, 14, 2), np.float32), 62.5)
    arguments = ["--checkpoint", str(tiny_runs / "dit_m2a"), "--input", str(tmp_path / "motion.npz")]
    assert main(["generate", "--task", "m2a", *arguments, "--vocoder", str(tmp_path)]) == 2
    assert "error: no vocoder at" in capsys.readouterr().err
