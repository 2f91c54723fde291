"""The files of one sample: what a person can watch and hear, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from momu_dist.core.audio.mel import MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.errors import DataError
from momu_dist.inference.generator import Sample
from momu_dist.inference.media import write_mp4, write_wav
from momu_dist.inference.motion_export import write_bvh, write_csv
from momu_dist.inference.motion_io import save_motion_npz, write_openpose_json
from momu_dist.inference.sheet import draw_sheet


def output_folder(path: str | Path) -> Path:
    """The folder at `path`, made where it is not there; DataError if it cannot be made or written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); give another output folder.") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder} cannot be written; mend its permissions or give another output folder.")
    return folder


def write_sample(folder: Path, name: str, sample: Sample, origin: Mapping[str, Any]) -> dict[str, Path]:
    """Write `sample` as folder/name.{wav,npz,openpose.json,bvh,csv,mp4,png,json} and return the paths by kind.

    `origin` says what made it besides the request (weights' hashes, input file, command); it goes into the JSON.
    """
    folder = output_folder(folder)
    paths = {
        "wav": folder / f"{name}.wav",
        "motion": folder / f"{name}.npz",
        "openpose": folder / f"{name}.openpose.json",
        "bvh": folder / f"{name}.bvh",
        "csv": folder / f"{name}.csv",
        "mp4": folder / f"{name}.mp4",
        "sheet": folder / f"{name}.png",
        "recipe": folder / f"{name}.json",
    }
    write_wav(paths["wav"], sample.audio, SAMPLE_RATE)
    save_motion_npz(paths["motion"], sample.motion_px, MEL_RATE_HZ)
    write_openpose_json(paths["openpose"], sample.motion_px, MEL_RATE_HZ)
    write_bvh(paths["bvh"], sample.motion_px, MEL_RATE_HZ)
    write_csv(paths["csv"], sample.motion_px, MEL_RATE_HZ)
    write_mp4(paths["mp4"], sample.motion_px, MEL_RATE_HZ, sample.audio, SAMPLE_RATE)
    title = f"{name}  ({sample.request.task}, seed {sample.request.seed})"
    draw_sheet(
        paths["sheet"], sample.motion_px, MEL_RATE_HZ, sample.mel, sample.onsets_s, sample.beats_s, title
    )
    recipe = {
        **sample.recipe(),
        **origin,
        "onsets_s": [round(float(t), 3) for t in sample.onsets_s],
        "kinematic_beats_s": [round(float(t), 3) for t in sample.beats_s],
        "files": {kind: path.name for kind, path in paths.items() if kind != "recipe"},
    }
    paths["recipe"].write_text(json.dumps(recipe, indent=2))
    return paths
