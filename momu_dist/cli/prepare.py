"""`momu prepare`."""

from __future__ import annotations

import argparse
from functools import partial

from momu_dist.cli.command import Commands, add


def add_prepare(commands: Commands) -> None:
    parser = add(commands, "prepare", "Turn raw motion and music into sharded parquet.", _run)
    parser.add_argument("--source", help="a source of the catalog, such as synthetic or dance_with_melody")
    parser.add_argument("--recipe", help="a YAML with source, source_options and prepare options")
    parser.add_argument("--root", help="where the raw data lies")
    parser.add_argument(
        "--out", required=True, help="the folder to prepare into; killed, the same command continues"
    )
    parser.add_argument("--no-ray", action="store_true", help="one process, without Ray")
    parser.add_argument(
        "options", nargs="*", metavar="key=value", help="prepare options, or source_options.key=value"
    )


def _run(options: argparse.Namespace) -> None:
    from momu_dist.cli.source import with_options
    from momu_dist.data.prepare import PrepareOptions, Recipe, prepare
    from momu_dist.data.report import report
    from momu_dist.errors import DataError

    if (options.source is None) == (options.recipe is None):
        raise DataError("prepare: give either --source NAME or --recipe FILE.")
    recipe = Recipe.load(options.recipe) if options.recipe else Recipe(options.source, {}, PrepareOptions())
    source, settings = with_options(recipe, options.root, options.options)
    if options.no_ray:
        print(report(prepare(source, options.out, settings)))
        return
    from momu_dist.data.ray_pipeline import map_units
    from momu_dist.train.ray_session import cpus_per_core, ray_session

    with ray_session():
        runner = partial(map_units, num_cpus=cpus_per_core())
        print(report(prepare(source, options.out, settings, runner=runner)))
