"""The vocoder from a folder of music to a file that is used: prepare, train, export, load, compare; alone and on Ray."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.core.models.bigvgan import BigVGAN
from momu_dist.data.clips import first_clips
from momu_dist.data.manifest import Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.data.sources.synthetic.source import Synthetic
from momu_dist.errors import ConfigError, DataError
from momu_dist.inference.export import find_export
from momu_dist.inference.vocoders import load_vocoder
from momu_dist.train.ray_session import ray_session
from momu_dist.train.run import train

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TINY = (
    *(
        "model.upsample_initial_channel=16",
        "model.resblock_kernel_sizes=[3]",
        "model.resblock_dilation_sizes=[[1]]",
    ),
    *("loss.disc_ch=2", "data.length_s=[0.256, 0.256]", "data.validation_clips=2"),
    *("train.max_steps=3", "train.global_batch=4", "train.micro_batch=2", "train.log_every=1"),
    *("train.validate_every=3", "train.checkpoint_every=3", "tracking.uri=none", "optim.warmup_steps=0"),
)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Eight pieces of 3 s, prepared in windows of 1 s."""
    root = tmp_path_factory.mktemp("music")
    (root / "songs").mkdir()
    source = Synthetic(n_clips=8, clip_s=3.0)
    for k in range(8):
        soundfile.write(root / "songs" / f"song{k}.ogg", source.clip(k).record.audio, 16000)
    options = PrepareOptions(window_s=1.0, fractions=(0.5, 0.25, 0.25), row_group_clips=4)
    return prepare(make_source("music", root / "songs"), root / "data", options, progress=False)


def config_of(music: Manifest, out: Path, *more: str) -> RunConfig:
    where = (f"out={out}", f"data.root={music.root}")
    return load_config(ROOT / "configs/vocoder/small.yaml", [*where, *TINY, *more])


def entries(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


LOCAL = ("train.strategy=local", "train.workers=1")


@pytest.fixture(scope="module")
def trained(music: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, the last two adversarial."""
    return train(config_of(music, tmp_path_factory.mktemp("runs"), *LOCAL, "loss.gan_start=0.3"))


def test_training_logs_exports_and_lets_hear(trained: Path, music: Manifest) -> None:
    steps = {entry["step"]: entry for entry in entries(trained) if "total" in entry}
    assert (
        sorted(steps) == [1, 2, 3] and "gan" not in steps[1] and {"gan", "features", "disc"} <= set(steps[3])
    )
    first, last = (entry for entry in entries(trained) if "val/mel_distance" in entry)
    assert first["val/mel_distance"] != last["val/mel_distance"] and "val/stft_distance" in last
    folder = trained / "samples" / "step-000000003"
    clip = first_clips(music.root, "val", 1)[0]
    for name in ("vocoder.wav", "vocoder-original.wav"):
        sound, rate = soundfile.read(folder / name)
        assert rate == 16000 and len(sound) == len(clip.audio)


def test_the_export_is_a_vocoder(trained: Path, music: Manifest) -> None:
    export = find_export(trained, stage="vocoder")
    assert export.facts["feature_fingerprint"] == music.feature_fingerprint
    assert "motion_stats" not in export.facts
    vocoder = load_vocoder(trained, "cpu")
    mel = torch.tensor(first_clips(music.root, "test", 1)[0].mel)[None]
    made = vocoder(mel, [0])
    net = export.load_into(BigVGAN(export.config.model))
    with torch.no_grad():
        torch.testing.assert_close(made, net(mel)[:, 0])
    assert made.shape == (1, 256 * mel.shape[2]) and bool(made.any())


def test_two_workers_on_ray_see_what_one_process_sees(trained: Path, music: Manifest, tmp_path: Path) -> None:
    with ray_session(workers=2):
        run = train(
            config_of(music, tmp_path, "train.strategy=ddp", "loss.gan_start=0.3", "train.previews=false")
        )
    ours, theirs = (
        [entry["total"] for entry in entries(path) if "total" in entry] for path in (run, trained)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_stages_of_motion_refuse_music_alone_and_the_music_vae_takes_it(
    music: Manifest, tmp_path: Path
) -> None:
    small = ("model.ch=32", "model.ch_mult=[1, 1]", "model.num_res_blocks=1", "model.attn_layers=[]")
    common = (
        *(f"out={tmp_path}", f"data.root={music.root}", "data.length_s=[0.8, 0.8]", *LOCAL, *small),
        *("train.max_steps=1", "train.global_batch=2", "tracking.uri=none"),
    )
    vae = train(load_config(ROOT / "configs/demo/music_vae.yaml", [*common, "loss.disc_ndf=4"]))
    assert (vae / "samples/step-000000001/music_vae.wav").is_file()
    config = load_config(ROOT / "configs/demo/motion_vae.yaml", [*common, f"inputs.music_vae={vae}"])
    with pytest.raises(DataError, match="stage motion_vae needs motion.*is music only"):
        train(config)


def test_the_comparison_with_griffin_lim(
    trained: Path,
    music: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = ROOT / "benchmarks" / "vocoder.py"
    monkeypatch.syspath_prepend(script.parent)
    out = tmp_path / "results" / "vocoder.md"
    monkeypatch.setattr(
        sys,
        "argv",
        [str(script), "--checkpoint", str(trained), "--data", str(music.root), "-n", "2", "--out", str(out)],
    )
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    text = out.read_text()
    assert capsys.readouterr().out == text
    lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    names = [line[1].strip() for line in lines[2:]]
    assert names == [load_vocoder(trained, "cpu").name, "griffin-lim-32", "griffin-lim-100", "silence"]
    distance = {name: float(line[2].split("(")[0]) for name, line in zip(names, lines[2:], strict=True)}
    assert distance["griffin-lim-32"] < min(distance[names[0]], distance["silence"])
    assert np.isfinite(list(distance.values())).all() and "torch" in text


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.length_s=[0.5, 1.0]", "one length twice"),
        ("data.length_s=[0.064, 0.064]", "at least 0.128"),
        ("model.num_mels=100", "expected 80 and 256"),
        ("model.upsample_rates=[8, 8, 8]", "512 samples a frame"),
        ("loss.disc_ch=0", "loss.disc_ch"),
    ],
)
def test_what_a_vocoder_cannot_be(music: Manifest, tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config_of(music, tmp_path, override)
