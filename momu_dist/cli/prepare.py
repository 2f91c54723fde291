"""`momu prepare`."""

from __future__ import annotations

import argparse
from functools import partial

from momu_dist.cli.command import Commands, add

OPTIONS_HELP = """\
prepare options (default):
  split             group: clips of one group stay in one split; clip: they may not, which leaks (group)
  fractions         shares of train, val, test, which sum to 1 ([0.9, 0.05, 0.05])
  seed              of the drawing of the splits (0)
  window_s          recordings are cut into windows of so many seconds, at least 1; null leaves them whole (null)
  travel            together: one scale for all; apart: one for where the dancer is, one for how the body stands (together)
  shard_mb          about the size of one file, MB, at least 0.1 (128)
  row_group_clips   clips that are read at once, 1 to 32 (32)
  audio             flac: inside the shards; path: files under audio/ (flac)
  max_rejected      share of clips that may be unusable before it fails, 0 to 1 (0.05)
  amplitude_bins    angles of the directogram (10)
  amplitude_window  hard or literal: how Eq. 1 is read (hard)
  amplitude_angle   atan2 or atan: how Eq. 2 is read (atan2)
source options (default):
  synthetic         n_clips (864), clip_s: length of a clip, s (8.192), seed (0), jitter_px: noise of the joints, px (1)
  dance_with_melody azimuths: from where a dance is seen, degrees ([0, 45, 90, 135])
  openpose_audio    fps: rate of all frames, Hz; null: each clip's from the length of its sound (null)
  music             none: any folder of audio files, without motion
example: momu prepare --source synthetic --out data/synthetic source_options.n_clips=100 shard_mb=16
"""


def add_prepare(commands: Commands) -> None:
    parser = add(commands, "prepare", "Turn raw motion and music into sharded parquet.", _run)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = OPTIONS_HELP
    parser.add_argument(
        "--source",
        help="a source of the catalog: synthetic, dance_with_melody, openpose_audio, music; or --recipe",
    )
    parser.add_argument(
        "--recipe",
        help="a YAML with source, source_options and prepare options, such as datasets/*/recipe.yaml",
    )
    parser.add_argument("--root", help="where the raw data lies (synthetic needs none)")
    parser.add_argument(
        "--out", required=True, help="the folder to prepare into; killed, the same command continues"
    )
    parser.add_argument("--no-ray", action="store_true", help="one process, without Ray")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="prepare options, listed below, or source_options.key=value; they overrule the recipe's",
    )


def _run(options: argparse.Namespace) -> None:
    from momu_dist.cli.source import recipe_of, with_options
    from momu_dist.data.prepare import prepare
    from momu_dist.data.report import report
    from momu_dist.errors import DataError

    recipe = recipe_of(options.source, options.recipe)
    if not options.out:
        raise DataError("prepare: --out has an empty name; give the folder to prepare into.")
    source, settings = with_options(recipe, options.root, options.options)
    if options.no_ray:
        print(report(prepare(source, options.out, settings)))
        return
    from momu_dist.data.ray_pipeline import map_units
    from momu_dist.train.ray_session import cpus_per_core, ray_session

    with ray_session():
        runner = partial(map_units, num_cpus=cpus_per_core())
        print(report(prepare(source, options.out, settings, runner=runner)))
