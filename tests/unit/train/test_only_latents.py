"""`--only-latents`: a chain of jobs encodes once, and both transformers find what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.config.load import load_config
from momu_dist.data.latents import LatentManifest
from momu_dist.data.manifest import Manifest
from momu_dist.train.__main__ import main
from momu_dist.train.run import train

CONFIGS = Path(__file__).parents[3] / "configs" / "demo"


def test_latents_are_encoded_once_and_nothing_is_trained(
    tmp_path: Path,
    prepared: Manifest,
    tiny_runs: Path,
    tiny_overrides: object,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert callable(tiny_overrides)

    def overrides(stage: str) -> list[str]:
        own = tiny_overrides(stage, tmp_path / "runs", prepared.root, tiny_runs)
        return [*own, f"data.latents={tmp_path / 'latents'}"]

    def encode() -> str:
        command = ["--config", str(CONFIGS / "dit_m2a.yaml"), *overrides("dit_m2a"), "--only-latents"]
        assert main(command) == 0
        return capsys.readouterr().out

    assert f"latents: {tmp_path / 'latents'}" in encode()
    assert not LatentManifest.load(tmp_path / "latents").damaged(prepared)
    assert not (tmp_path / "runs").exists()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    encode()
    train(load_config(CONFIGS / "dit_a2m.yaml", overrides("dit_a2m")))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()} == files


def test_a_stage_without_latents_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config", str(CONFIGS / "music_vae.yaml"), "--only-latents", "train.strategy=local"]
    assert main([*command, "train.workers=1"]) == 2
    assert "stage music_vae reads no latents" in capsys.readouterr().err
