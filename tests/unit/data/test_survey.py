"""`momu data plan`: what a source holds and lacks, without decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from momu_dist.cli import main
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.record import ClipRef, Record
from momu_dist.data.sources import Missing, make_source, missing_of
from momu_dist.data.survey import describe, survey


class Listed:
    """Three clips that must not be loaded, one of unknown length."""

    name = "listed"
    options: dict[str, Any] = {}

    def refs(self) -> list[ClipRef]:
        lengths_s = (3600.0, 1800.0, None)
        return [ClipRef(f"c{k}", f"g{k // 2}", 0.0, end_s, {}) for k, end_s in enumerate(lengths_s)]

    def load(self, ref: ClipRef) -> Record:
        raise AssertionError("a plan decodes nothing")


class Lacking(Listed):
    def missing(self) -> list[Missing]:
        return [Missing("song.wav", "is not there")]


def test_clips_hours_and_bytes_are_counted_without_loading() -> None:
    found = survey(Listed(), PrepareOptions())
    assert (found.total.clips, found.total.groups, found.total.unknown) == (3, 2, 1)
    assert found.total.hours == pytest.approx(1.5)
    assert sum(plan.clips for plan in found.splits.values()) == 3
    assert found.missing == [] and "nothing is missing" in describe(found)
    assert "1 of the clips tell no length" in describe(found)
    windows = survey(Listed(), PrepareOptions(window_s=60))
    assert windows.total.clips == 91 and windows.total.hours == pytest.approx(1.5)


def test_what_a_source_says_is_missing_is_listed() -> None:
    assert missing_of(Listed()) == []
    assert "  song.wav: is not there" in describe(survey(Lacking(), PrepareOptions())).splitlines()


def test_the_estimate_is_near_what_preparation_writes(tmp_path: Path) -> None:
    source = make_source("synthetic", n_clips=8, clip_s=4.0)
    options = PrepareOptions()
    planned = survey(source, options)
    manifest = prepare(source, tmp_path, options, progress=False)
    written = sum(shard["bytes"] for shard in manifest.content["shards"])
    assert planned.total.gigabytes * 1e9 == pytest.approx(written, rel=0.4)
    assert {name: plan.clips for name, plan in planned.splits.items()} == {
        name: size["clips"] for name, size in manifest.content["splits"].items()
    }


def test_dances_that_lack_files_are_named(tmp_path: Path) -> None:
    whole, torn = tmp_path / "DANCE_W_1", tmp_path / "DANCE_C_2"
    for folder in (whole, torn, tmp_path / "DANCE_T_1"):
        folder.mkdir()
    for folder in (whole, torn):
        (folder / "skeletons.json").write_text("{}")
        (folder / "audio.mp3").write_bytes(b"")
        (folder / "config.json").write_text(json.dumps({"start_position": 0, "end_position": 250}))
    (torn / "config.json").write_text("{")
    found = dict(missing_of(make_source("dance_with_melody", tmp_path)))
    assert set(found) == {"DANCE_C_2", "DANCE_T_1", "58 of 61 dances"}
    assert found["DANCE_T_1"] == "lacks skeletons.json, config.json, audio.mp3"


def test_the_command_prints_the_plan_and_answers_a_wrong_tree_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "data",
        "plan",
        "synthetic",
        "--option",
        "source_options.n_clips=20",
        "--option",
        "window_s=4",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[6].split()[:2] == ["all", "40"]
    assert main(["data", "plan", "dance_with_melody", "--root", str(tmp_path)]) == 2
    assert "clone https://" in capsys.readouterr().err


def test_a_recipe_s_windows_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{source: synthetic, source_options: {n_clips: 3, clip_s: 8.0}, prepare: {window_s: 2.0}}"
    )
    assert main(["data", "plan", "--recipe", str(recipe)]) == 0
    assert capsys.readouterr().out.splitlines()[6].split()[:2] == ["all", "12"]
    assert main(["data", "plan", "synthetic", "--recipe", str(recipe)]) == 2
    assert "either a source" in capsys.readouterr().err
