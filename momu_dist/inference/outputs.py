"""The files of one sample: what a person can watch and hear, and how to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from momu_dist.core.audio.mel import MEL_RATE_HZ, SAMPLE_RATE
from momu_dist.errors import DataError
from momu_dist.inference.media import write_mp4, write_wav
from momu_dist.inference.motion_export import write_bvh, write_csv
from momu_dist.inference.motion_io import save_motion_npz, write_openpose_json
from momu_dist.inference.request import Sample
from momu_dist.inference.sheet import draw_sheet
from momu_dist.inference.writing import naming

# What a sample can be written as, and how such a file's name ends.
KINDS = {
    "wav": "wav",
    "motion": "npz",
    "openpose": "openpose.json",
    "bvh": "bvh",
    "csv": "csv",
    "mp4": "mp4",
    "sheet": "png",
}


def output_folder(path: str | Path) -> Path:
    """The folder at `path`, made where it is not there; DataError if it has no name or cannot be made or written."""
    if not str(path):
        raise DataError(
            "the output folder has an empty name; give one with --out, such as . for where you are."
        )
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made ({error.strerror}); give another output folder.") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder} cannot be written; mend its permissions or give another output folder.")
    return folder


def write_as(kind: str, path: Path, sample: Sample, title: str = "") -> None:
    """Write `sample` at `path` as one of KINDS; `title` stands above a sheet. Raises what the disk says (`naming`)."""
    motion = sample.motion_px
    writers: dict[str, Callable[[], object]] = {
        "wav": lambda: write_wav(path, sample.audio, SAMPLE_RATE),
        "motion": lambda: save_motion_npz(path, motion, MEL_RATE_HZ),
        "openpose": lambda: write_openpose_json(path, motion, MEL_RATE_HZ),
        "bvh": lambda: write_bvh(path, motion, MEL_RATE_HZ),
        "csv": lambda: write_csv(path, motion, MEL_RATE_HZ),
        "mp4": lambda: write_mp4(path, motion, MEL_RATE_HZ, sample.audio, SAMPLE_RATE),
        "sheet": lambda: draw_sheet(
            path, motion, MEL_RATE_HZ, sample.mel, sample.onsets_s, sample.beats_s, title
        ),
    }
    writers[kind]()


def recipe_of(sample: Sample, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the sample again, with its beats; `origin` says what made it besides the request."""
    return {
        **sample.recipe(),
        **origin,
        "onsets_s": [round(float(t), 3) for t in sample.onsets_s],
        "kinematic_beats_s": [round(float(t), 3) for t in sample.beats_s],
    }


def write_sample(folder: Path, name: str, sample: Sample, origin: Mapping[str, Any]) -> dict[str, Path]:
    """Write `sample` as folder/name.{wav,npz,openpose.json,bvh,csv,mp4,png,json} and return the paths by kind.

    `origin` says what made it besides the request (weights' hashes, input file, command); it goes into the JSON. All
    files appear when the last is written, or none: DataError names the one that could not be.
    """
    folder = output_folder(folder)
    paths = {kind: folder / f"{name}.{ending}" for kind, ending in KINDS.items()}
    title = f"{name}  ({sample.request.task}, seed {sample.request.seed})"
    recipe = {**recipe_of(sample, origin), "files": {kind: path.name for kind, path in paths.items()}}
    paths["recipe"] = folder / f"{name}.json"
    with ExitStack() as stack:
        with naming(folder):
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix=".writing-", dir=folder)))
        for kind, path in paths.items():
            with naming(path):
                if kind == "recipe":
                    (scratch / path.name).write_text(json.dumps(recipe, indent=2))
                else:
                    write_as(kind, scratch / path.name, sample, title)
        for path in paths.values():
            with naming(path):
                (scratch / path.name).replace(path)
    return paths
