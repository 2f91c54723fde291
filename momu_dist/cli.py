"""`momu`: the command line. Every command is a thin call into the package; mistakes end in one sentence and code 2."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from momu_dist.errors import exit_code

Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one sentence on stderr for what a user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["train"]:
        # It has a parser of its own; argparse cannot hand options on to another one.
        from momu_dist.train.__main__ import main as train_main

        return train_main(given[1:])
    options = _parser().parse_args(given)
    return exit_code(lambda: options.run(options), "stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="momu", description="Train, use and score MoMu-Diffusion.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_prepare(commands)
    commands.add_parser("train", help="Train one stage (the same as python -m momu_dist.train).")
    _add_generate(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    return parser


def _add(commands: Any, name: str, help: str, run: Command) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(run=run)
    return parser


def _add_prepare(commands: Any) -> None:
    parser = _add(commands, "prepare", "Turn raw motion and music into sharded parquet.", _prepare)
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


def _prepare(options: argparse.Namespace) -> None:
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


def _add_generate(commands: Any) -> None:
    parser = _add(
        commands, "generate", "Make motion from music, music from motion, or both at once.", _generate
    )
    parser.add_argument("--task", choices=("a2m", "m2a", "joint"), required=True, help="a2m: music to motion")
    parser.add_argument(
        "--checkpoint", action="append", required=True, help="a run, or a folder of runs; may be repeated"
    )
    parser.add_argument(
        "--input", help="a2m: any audio or video file; m2a: npz, json, npy or a folder of OpenPose frames"
    )
    parser.add_argument("--fps", type=float, help="frame rate of a motion file that does not hold one")
    parser.add_argument("--seconds", type=float, help="length; cuts a longer input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (50)")
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance scale s (3)")
    parser.add_argument(
        "--gamma", type=float, default=0.5, help="joint: share of steps under cross guidance (0.5)"
    )
    parser.add_argument(
        "--sampler", default="ddim", help="ddim, or ddpm: all steps of the schedule, not for joint (ddim)"
    )
    parser.add_argument("-n", type=int, default=1, help="number of samples, seeds counted up from --seed")
    parser.add_argument("--out", default="runs/generated", help="folder for the files (runs/generated)")


def _generate(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from momu_dist.errors import ConfigError
    from momu_dist.inference.generator import Generator, Request, variations
    from momu_dist.inference.inputs import read_inputs
    from momu_dist.inference.outputs import output_folder, write_sample

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    request = Request(
        options.task, options.seed, options.seconds, options.steps, options.guidance, options.gamma,
        options.sampler, **read_inputs(options.task, options.input, options.fps),
    )  # fmt: skip
    generator = Generator.load(*options.checkpoint)
    output_folder(options.out)
    with tqdm(total=options.steps, desc=f"{options.task} x {options.n}", unit="step") as bar:

        def on_step(done: int, total: int) -> None:
            bar.n, bar.total = done, total
            bar.refresh()

        samples = generator.generate(variations(request, options.n), on_step)
    origin = {
        "input": options.input,
        "checkpoints": options.checkpoint,
        "weights": dict(generator.models.origins),
    }
    for sample in samples:
        name = f"{options.task}-seed{sample.request.seed}"
        paths = write_sample(Path(options.out), name, sample, origin)
        print(f"{name}: {paths['mp4']} (sound: {sample.vocoder or 'your input'})")


def _add_evaluate(commands: Any) -> None:
    parser = _add(commands, "evaluate", "Beat scores of trained models on held-out clips.", _evaluate)
    parser.add_argument(
        "--checkpoint", action="append", required=True, help="a run, or a folder of runs; may be repeated"
    )
    parser.add_argument("--data", required=True, help="a prepared folder")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("-n", type=int, default=32, help="number of clips (32)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)


def _evaluate(options: argparse.Namespace) -> None:
    from momu_dist.data.clips import first_clips
    from momu_dist.data.manifest import Manifest
    from momu_dist.errors import ConfigError, DataError
    from momu_dist.inference.evaluate import EvaluationSettings, evaluate_beats
    from momu_dist.inference.generator import Generator

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    if not Manifest.load(options.data).split(options.split).num_rows:
        # `first_clips` would fall back to training clips, whose scores are no scores of held-out clips.
        raise DataError(f"{options.data} has no clips in split {options.split}; name another with --split.")
    generator = Generator.load(*options.checkpoint)
    clips = first_clips(options.data, options.split, options.n)
    settings = EvaluationSettings(options.steps, options.guidance, options.guidance, seed=options.seed)
    scores, _ = evaluate_beats(generator, clips, settings)
    print(json.dumps({"beat_f1": scores}, indent=2))


def _add_demo(commands: Any) -> None:
    parser = _add(
        commands, "demo", "The whole system on a synthetic set: prepare, train, generate, score.", _demo
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps a stage, about two minutes")
    parser.add_argument("--out", default=None, help="folder (runs/demo, or runs/demo-smoke)")


def _demo(options: argparse.Namespace) -> None:
    from momu_dist.demo import run_demo

    run_demo(Path(options.out or ("runs/demo-smoke" if options.smoke else "runs/demo")), smoke=options.smoke)


if __name__ == "__main__":
    sys.exit(main())
