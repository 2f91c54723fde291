"""Every YAML that ships loads, and its run can be laid out without data and without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.config.load import load_config
from momu_dist.core.catalog import STAGES
from momu_dist.train.dry_run import parameter_counts, report, run_size, warnings

CONFIGS = Path(__file__).parents[2] / "configs"
RUNS = sorted(
    path
    for kind in ("demo", "paper", "vocoder")
    for path in (CONFIGS / kind).rglob("*.yaml")
    if path.name != "base.yaml"
)
PAPER = CONFIGS / "paper" / "aistpp"


def named(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_there_are_runs_of_every_stage() -> None:
    for kind, expected in (
        ("demo", set(STAGES) - {"vocoder"}),
        ("paper", set(STAGES) - {"vocoder"}),
        ("vocoder", {"vocoder"}),
    ):
        assert {load_config(path).stage for path in RUNS if named(path).startswith(kind)} == expected


@pytest.mark.parametrize("path", RUNS, ids=named)
def test_config_loads_and_dry_builds(path: Path, tmp_path: Path) -> None:
    config = load_config(path, [f"data.root={tmp_path}"])  # no data there: nothing may depend on it
    text = report(config)
    for name, count in parameter_counts(config).items():
        assert count > 0 and f"parameters of {name}: {count:,}" in text
    assert f"steps in all: {run_size(config).total_steps:,}" in text
    assert config.name == path.stem and config.stage in (path.stem, path.parent.name)


@pytest.mark.parametrize("path", RUNS, ids=named)
def test_runs_of_one_folder_fit_together(path: Path) -> None:
    """The inputs of a stage are the folders that the stages before it write; the latents fit the transformers."""
    config = load_config(path)
    for name in STAGES[config.stage].needs:
        before = load_config(path.with_name(f"{name}.yaml"))
        assert getattr(config.inputs, name) == f"{before.out}/{before.name}"
        assert before.data.root == config.data.root
        if STAGES[config.stage].reads == "latents":
            assert before.model.z_channels in (config.model.in_channels, config.model.condition_channels)
    if STAGES[config.stage].reads == "latents" and config.model.positions == "learned":
        assert config.data.length_s[1] * 31.25 <= config.model.max_latents + 1


def test_parameter_counts_of_the_paper() -> None:
    assert parameter_counts(load_config(PAPER / "music_vae.yaml"))["vae"] == 212_958_212
    assert parameter_counts(load_config(PAPER / "motion_vae.yaml"))["vae"] == 212_758_480
    for direction in ("m2a", "a2m"):
        count = parameter_counts(load_config(PAPER / f"dit_{direction}.yaml"))["dit"]
        assert 158_000_000 < count < 160_000_000


def test_parameter_counts_of_the_vocoders() -> None:
    full = parameter_counts(load_config(CONFIGS / "vocoder" / "full.yaml"))
    assert full == {"vocoder": 112_231_250, "disc": 41_386_672}
    small = parameter_counts(load_config(CONFIGS / "vocoder" / "small.yaml"))["vocoder"]
    assert 4 * small <= 8_000_000  # bytes: what may be embedded


def test_music_vae_alone_trains_a_discriminator() -> None:
    assert set(parameter_counts(load_config(PAPER / "music_vae.yaml"))) == {"vae", "disc"}
    assert set(parameter_counts(load_config(PAPER / "motion_vae.yaml"))) == {"vae"}


@pytest.mark.parametrize("direction", ["m2a", "a2m"])
def test_the_papers_warm_up_is_said_never_to_end(direction: str, tmp_path: Path) -> None:
    config = load_config(PAPER / f"dit_{direction}.yaml", [f"data.root={tmp_path}"])
    size = run_size(config)
    assert size.total_steps < config.optim.warmup_steps
    found = [text for text in warnings(config, size) if "warm-up" in text]
    assert len(found) == 1 and "10000" in found[0] and str(size.total_steps) in found[0]
    assert f"warning: {found[0]}" in report(config)


def test_a_gan_that_never_starts_is_warned_of() -> None:
    silent = load_config(PAPER / "music_vae.yaml")
    never = load_config(PAPER / "music_vae.yaml", ["loss.gan_start=1.0"])
    assert not any("GAN" in text for text in warnings(silent, run_size(silent)))
    assert any("GAN never starts" in text for text in warnings(never, run_size(never)))
