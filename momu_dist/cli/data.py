"""`momu data`: what a raw dataset holds, before anything is prepared."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add


def add_data(commands: Commands) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "data", help="What a raw dataset holds.", description="What a raw dataset holds."
    )
    parts = parser.add_subparsers(required=True, metavar="part")
    plan = add(
        parts, "plan", "What is there, what is missing and why, clips, hours, GB; decodes nothing.", _plan
    )
    plan.add_argument(
        "source",
        nargs="?",
        help="a source of the catalog: synthetic, dance_with_melody, openpose_audio, music; or --recipe",
    )
    plan.add_argument("--recipe", help="the YAML that it will be prepared by, such as datasets/*/recipe.yaml")
    plan.add_argument("--root", help="where the raw data lies (synthetic needs none)")
    plan.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE",
        help="a prepare option (momu prepare --help lists them), or source_options.KEY=VALUE; may be repeated",
    )  # fmt: skip


def _plan(options: argparse.Namespace) -> None:
    from momu_dist.cli.source import recipe_of, with_options
    from momu_dist.data.survey import describe, survey

    recipe = recipe_of(options.source, options.recipe)
    print(describe(survey(*with_options(recipe, options.root, options.option))))
