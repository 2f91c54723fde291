"""`momu inspect`: a prepared set, runs and exports, folders that are neither, pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from momu_dist.cli import main
from momu_dist.data.manifest import NOTES, NOTES_SCHEMA, REJECTED, REJECTED_SCHEMA, Manifest
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.sources import make_source
from momu_dist.errors import DataError, MomuError
from momu_dist.inference.export import find_export
from momu_dist.inference.inspect import draw, inspect, table


def test_a_prepared_set_tells_what_it_holds(prepared: Manifest) -> None:
    text = inspect(prepared.root)
    for part in ("source: synthetic n_clips=12", "rejected: none", "notes: none", "60 (12)", "grid_hz: 62.5"):
        assert part in text
    assert prepared.fingerprint in text and prepared.feature_fingerprint in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    for split, size in prepared.content["splits"].items():
        assert lines[split][1:3] == [str(size["clips"]), str(size["groups"])]
    assert lines["all"][1] == "12"
    assert "shortest 2.98, quartiles 2.98" in text  # 186 frames at 62.5 Hz of 3 s
    for shard in prepared.content["shards"]:
        assert lines[shard["file"]][1] == str(shard["rows"])
    assert f"scale {prepared.motion_stats.scale:.2f} px" in text


def test_rejected_clips_and_notes_are_listed_with_their_text(prepared: Manifest, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(prepared.root, root)
    rejects = [{"clip_id": f"bad{k}", "reason": "no sound"} for k in range(25)]
    notes = [{"clip_id": "odd", "note": "another person at frame 7"}]
    pq.write_table(pa.Table.from_pylist(rejects, schema=REJECTED_SCHEMA), root / REJECTED)
    pq.write_table(pa.Table.from_pylist(notes, schema=NOTES_SCHEMA), root / NOTES)
    text = inspect(root)
    assert "rejected: 25" in text and "bad0: no sound" in text and "and 5 more" in text
    assert "odd: another person at frame 7" in text


def test_runs_and_exports_tell_stage_step_hash_and_data(tiny_runs: Path, prepared: Manifest) -> None:
    export = find_export(tiny_runs / "dit_a2m")
    for folder in (tiny_runs / "dit_a2m", tiny_runs / "dit_a2m" / "export"):
        text = inspect(folder)
        for part in ("stage", "dit_a2m", "matches the weights", export.sha256, prepared.fingerprint):
            assert part in text
        assert f"{export.facts['parameters']:,}" in text
        assert find_export(export.folder / "music_vae").sha256 in text
    everything = inspect(tiny_runs)
    assert all(stage in everything for stage in ("music_vae", "motion_vae", "dit_m2a", "dit_a2m"))


def test_a_run_whose_export_was_put_aside_is_found_in_a_folder_of_runs(
    tiny_runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_runs / "music_vae" / "export", tmp_path / "music_vae" / ".export-old")
    assert find_export(tiny_runs / "music_vae").sha256 in inspect(tmp_path)


def test_torn_weights_are_said(tiny_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_runs / "music_vae" / "export", tmp_path / "export")
    weights = tmp_path / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "NOT that of the weights: torn" in inspect(tmp_path)


def test_a_folder_that_is_neither_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match="expected a folder that `momu prepare` finished"):
            inspect(path)
    (tmp_path / "config.yaml").write_text("stage: music_vae\n")
    with pytest.raises(MomuError, match="no export yet"):
        inspect(tmp_path)
    assert main(["inspect", str(tmp_path / "gone")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_clips_are_drawn(prepared: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(prepared.root), "--draw", "2", "--out", str(tmp_path / "pictures")]) == 0
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 2 and all(Image.open(path).size == (1200, 560) for path in pictures)
    assert all(str(path) in capsys.readouterr().out for path in pictures[:1])


def test_what_cannot_be_drawn_is_a_sentence(prepared: Manifest, tiny_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 1"):
        draw(prepared.root, 0, tmp_path)
    with pytest.raises(DataError, match="no prepared set"):
        draw(tiny_runs, 1, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        draw(prepared.root, 1, tmp_path / "file")


def test_a_table_has_straight_columns() -> None:
    lines = table(("name", "n"), [("a", 1), ("bcd", 10)]).splitlines()
    assert lines == ["name   n", "a      1", "bcd   10"]


def test_a_set_of_music_alone_is_told_and_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    tone = 0.1 * np.sin(np.arange(32000) / 20)
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / "raw" / f"{name}.wav", tone, 16000)
    prepare(make_source("music", tmp_path / "raw"), tmp_path / "data", PrepareOptions(), progress=False)
    assert "music only, without motion" in inspect(tmp_path / "data")
    with pytest.raises(DataError, match="music only"):
        draw(tmp_path / "data", 1, tmp_path / "out")
