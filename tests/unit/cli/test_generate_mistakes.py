"""What `momu generate` says about models, options, inputs and disks that it cannot use."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from momu_dist.cli import main
from momu_dist.data.hashes import file_sha256
from momu_dist.inference import outputs


@pytest.fixture
def song(tmp_path: Path) -> Path:
    sound = np.random.default_rng(0).normal(0, 0.1, 32000)
    soundfile.write(tmp_path / "song.wav", sound, 16000)
    return tmp_path / "song.wav"


def generate(checkpoint: Path, song: Path, *more: str) -> int:
    out = ["--steps", "1", "--out", str(song.parent / "out")]
    return main(
        ["generate", "--task", "a2m", "--checkpoint", str(checkpoint), "--input", str(song), *out, *more]
    )


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def dit(tiny_runs: Path, tmp_path: Path) -> Path:
    """A copy of the run dit_a2m that may be damaged."""
    shutil.copytree(tiny_runs / "dit_a2m" / "export", tmp_path / "dit_a2m" / "export")
    return tmp_path / "dit_a2m"


def test_an_input_that_is_too_short_is_said_once(
    tiny_runs: Path, song: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert generate(tiny_runs / "dit_a2m", song, "--seconds", "8", "-n", "2") == 0
    assert caplog.text.count("the input ends before the 8 s that were asked for") == 1
    assert "1.984 s long" in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fps", "0"), "--fps is given with task a2m, where it plays no part (it belongs to m2a)"),
        (("--gamma", "nan"), "--gamma is given with task a2m, where it plays no part (it belongs to joint)"),
        (("--out", ""), "the output folder has an empty name"),
        (("--input", "/dev/null"), "/dev/null is a device or a pipe"),
    ],
)
def test_options_without_a_part_are_refused(
    tiny_runs: Path, song: Path, options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(tiny_runs / "dit_a2m", song, *options) == 2
    assert sentence in said(capsys)


def test_a_full_disk_names_the_file_and_leaves_none(
    tiny_runs: Path, song: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_csv", full)
    assert generate(tiny_runs / "dit_a2m", song) == 2
    out = song.parent / "out"
    assert f"{out / 'a2m-seed0.csv'} cannot be written (No space left on device)" in said(capsys)
    assert list(out.iterdir()) == []


def test_the_sound_library_s_own_error_is_a_sentence_too(
    tiny_runs: Path, song: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, *_: object) -> None:
        soundfile.write(path / "no-such-folder" / "a.wav", np.zeros(3), 16000)

    monkeypatch.setattr(outputs, "write_wav", refuse)
    assert generate(tiny_runs / "dit_a2m", song) == 2
    assert "a2m-seed0.wav cannot be written" in said(capsys)


def test_two_different_models_of_one_direction_are_refused_by_name(
    tiny_runs: Path, dit: Path, song: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["--checkpoint", str(tiny_runs / "dit_a2m")]
    assert generate(dit, song, *twice) == 0, "the same model twice is one"
    change_weights(dit / "export")
    capsys.readouterr()
    assert generate(dit, song, *twice) == 2
    sentence = said(capsys)
    assert "two different models of dit_a2m" in sentence
    assert str(dit / "export") in sentence and str(tiny_runs / "dit_a2m" / "export") in sentence


def change_weights(export: Path, **facts: object) -> None:
    """Cut the weights and give the model.json their hash, with other facts."""
    path = export / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    change(export, sha256=file_sha256(path), **facts)


def change(export: Path, **facts: object) -> None:
    path = export / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def test_cut_weights_with_their_own_hash_are_a_sentence(
    dit: Path, song: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weights(dit / "export")
    assert generate(dit, song) == 2
    assert "model.safetensors is no whole safetensors file" in said(capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_scales", {}),
        ("latent_scales", [1]),
        ("latent_scales", {"music": {}, "motion": {}}),
        ("latent_scales", {m: {"shift": [], "scale": []} for m in ("music", "motion")}),
        ("motion_stats", "none"),
        ("motion_stats", {"centre": 3}),
    ],
)
def test_facts_that_are_none_are_a_sentence(
    dit: Path, song: Path, name: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    change(dit / "export", **{name: value})
    assert generate(dit, song) == 2
    assert f"model.json holds {name}" in said(capsys)
