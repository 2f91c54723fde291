"""`momu prepare`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

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


def _yaml_value(text: str, value: str) -> Any:
    import yaml

    from momu_dist.errors import DataError

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise DataError(
            f"prepare: the value in {text!r} is no YAML; quote it, as in key='\"text\"'."
        ) from error


def _run(options: argparse.Namespace) -> None:
    from momu_dist.data.prepare import PrepareOptions, Recipe, prepare, report
    from momu_dist.data.sources import make_source
    from momu_dist.errors import DataError

    if (options.source is None) == (options.recipe is None):
        raise DataError("prepare: give either --source NAME or --recipe FILE.")
    recipe = Recipe.load(options.recipe) if options.recipe else Recipe(options.source, {}, PrepareOptions())
    source_options, prepare_options = dict(recipe.source_options), dict(vars(recipe.prepare))
    for text in options.options:
        key, equals, value = text.partition("=")
        if not equals:
            raise DataError(f"prepare: {text!r} is not of the form key=value.")
        inside = source_options if key.startswith("source_options.") else prepare_options
        inside[key.removeprefix("source_options.")] = _yaml_value(text, value)
    source = make_source(recipe.source, Path(options.root) if options.root else None, **source_options)
    settings = PrepareOptions.from_dict(prepare_options)
    if options.no_ray:
        print(report(prepare(source, options.out, settings)))
        return
    from momu_dist.data.ray_pipeline import map_units
    from momu_dist.train.ray_session import cpus_per_core, ray_session

    with ray_session():
        runner = partial(map_units, num_cpus=cpus_per_core())
        print(report(prepare(source, options.out, settings, runner=runner)))
