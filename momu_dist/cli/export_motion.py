"""`momu export-motion`."""

from __future__ import annotations

import argparse
from pathlib import Path

from momu_dist.cli.command import Commands, add


def add_export_motion(commands: Commands) -> None:
    parser = add(
        commands, "export-motion", "Write a motion file as BVH (Blender, Unity) or CSV; gaps are filled.", _run
    )  # fmt: skip
    parser.add_argument("file", help="npz, json, npy or a folder of OpenPose frames")
    parser.add_argument("--to", choices=("bvh", "csv"), required=True, help="the format of the new file")
    parser.add_argument("--fps", type=float, help="frames a second of a file that does not hold its rate")
    parser.add_argument("--out", help="the new file (default: beside the old one, with the new ending)")


def _run(options: argparse.Namespace) -> None:
    from momu_dist.core.motion.cleaning import fill_gaps
    from momu_dist.errors import DataError
    from momu_dist.inference.motion_export import write_motion
    from momu_dist.inference.motion_io import read_motion
    from momu_dist.inference.writing import whole

    if options.out == "":
        raise DataError("--out has an empty name; give the new file's, or leave --out away.")
    motion = read_motion(options.file, options.fps)
    out = Path(options.out) if options.out else _beside(Path(options.file), options.to)
    with whole(out) as temporary:
        write_motion(temporary, fill_gaps(motion.motion_px, motion.conf), motion.fps, options.to)
    print(f"{out}: {len(motion.motion_px)} frames at {motion.fps:g} Hz, x right, y up, 1 unit = 1 px")


def _beside(path: Path, ending: str) -> Path:
    """The new file's place: dance.npz and dance.openpose.json give dance.bvh, a folder dance/ too."""
    name = path.name or path.resolve().name  # a folder may be given as "."
    for old in (".openpose.json", ".json", ".npz", ".npy"):
        name = name.removesuffix(old)
    return path.parent / f"{name}.{ending}"
