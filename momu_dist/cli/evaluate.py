"""`momu evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from momu_dist.cli.command import Commands, add, add_checkpoints, checkpoint_paths

if TYPE_CHECKING:
    from momu_dist.data.clips import PreparedClip


def add_evaluate(commands: Commands) -> None:
    parser = add(commands, "evaluate", "Beat scores of trained models on held-out clips.", _run)
    add_checkpoints(parser)
    parser.add_argument("--data", required=True, help="a prepared folder, as momu prepare --out made it")
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="whose clips are scored (test)"
    )
    parser.add_argument("-n", type=int, default=32, help="number of clips, spread over the split (32)")
    parser.add_argument(
        "--steps", type=int, default=50, help="sampling steps, 1 to 1000; more are slower and finer (50)"
    )
    parser.add_argument(
        "--sampler",
        default="ddim",
        help="ddim; dpm++, of second order, so fewer steps do; ddpm, all steps of the schedule (ddim)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=3.0,
        help="classifier-free guidance scale s of both directions: 1 as trained, higher keeps closer to the input (3)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first clip's noise; each next clip one more (0)"
    )
    parser.add_argument("--name", default="evaluate", help="what to call these scores (evaluate)")


def check_settings(options: argparse.Namespace) -> None:
    """Raise ConfigError for what no evaluation can do."""
    from momu_dist.errors import ConfigError
    from momu_dist.inference.prepared import check_sampling

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    check_sampling(options.steps, options.guidance, options.sampler)


def check_inputs(options: argparse.Namespace) -> None:
    """Raise what the evaluation would of its data and models, without sampling; weights are not read."""
    from momu_dist.inference.models import check_models

    _clips(options, 1)
    check_models(checkpoint_paths(options))


def _clips(options: argparse.Namespace, n: int) -> list[PreparedClip]:
    from momu_dist.data.clips import first_clips
    from momu_dist.data.manifest import Manifest

    Manifest.load(options.data).require_motion("an evaluation of beats")
    return first_clips(options.data, options.split, n)


def _run(options: argparse.Namespace) -> None:
    from momu_dist.inference.evaluate import EvaluationSettings, evaluate_beats
    from momu_dist.inference.generator import Generator

    check_settings(options)
    clips = _clips(options, options.n)
    generator = Generator.load(*checkpoint_paths(options))
    settings = EvaluationSettings(
        options.steps, options.guidance, options.guidance, seed=options.seed, sampler=options.sampler
    )
    scores, _ = evaluate_beats(generator, clips, settings)
    given = {name: value for name, value in vars(options).items() if name not in ("run", "tracking_uri")}
    print(json.dumps({"settings": given, "beat_f1": scores}, indent=2), flush=True)
    found = ", ".join(f"{direction} {values['generated']:.3f}" for direction, values in scores.items())
    print(f"{options.name}: beat F1 of {found}", file=sys.stderr)
