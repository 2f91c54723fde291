"""`momu evaluate`."""

from __future__ import annotations

import argparse
import json

from momu_dist.cli.command import Commands, add, add_checkpoints, checkpoint_paths


def add_evaluate(commands: Commands) -> None:
    parser = add(commands, "evaluate", "Beat scores of trained models on held-out clips.", _run)
    add_checkpoints(parser)
    parser.add_argument("--data", required=True, help="a prepared folder")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("-n", type=int, default=32, help="number of clips (32)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--sampler",
        default="ddim",
        help="ddim; dpm++, of second order, so fewer steps do; ddpm, all steps of the schedule (ddim)",
    )
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)


def _run(options: argparse.Namespace) -> None:
    from momu_dist.data.clips import first_clips
    from momu_dist.data.manifest import Manifest
    from momu_dist.errors import ConfigError
    from momu_dist.inference.evaluate import EvaluationSettings, evaluate_beats
    from momu_dist.inference.generator import Generator

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    Manifest.load(options.data).require_motion("an evaluation of beats")
    clips = first_clips(options.data, options.split, options.n)
    generator = Generator.load(*checkpoint_paths(options))
    settings = EvaluationSettings(
        options.steps, options.guidance, options.guidance, seed=options.seed, sampler=options.sampler
    )
    scores, _ = evaluate_beats(generator, clips, settings)
    print(json.dumps({"beat_f1": scores}, indent=2))
