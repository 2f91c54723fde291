"""`momu generate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from momu_dist.cli.command import Commands, add, add_checkpoints, checkpoint_paths
from momu_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from momu_dist.inference.likeness import Recipe

DISTANCE = 0.3  # near enough to be recognised, far enough to differ


def add_generate(commands: Commands) -> None:
    parser = add(commands, "generate", "Make motion from music, music from motion, or both at once.", _run)
    parser.add_argument(
        "--task",
        choices=("a2m", "m2a", "joint"),
        help="a2m: motion from music; m2a: music from motion; joint: both from nothing, which needs the networks of "
        "both directions. No default, but with --like that sample's",
    )
    add_checkpoints(parser, required=False)
    parser.add_argument(
        "--input",
        help="a2m: any audio or video file; m2a: npz, json, npy or a folder of OpenPose frames; joint takes none",
    )
    parser.add_argument(
        "--fps",
        type=float,
        help="m2a: frames a second of a motion file that does not hold its rate, and overrules one that does",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="length of the sample, 1 to 600 s. a2m, m2a: cuts a longer input, and a shorter one makes a shorter sample, "
        "which is said (default: the whole input); joint: must be given",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="of the noise; the same seed makes the same sample (0; with --like: one above the liked sample's)",
    )
    parser.add_argument("--steps", type=int, help="sampling steps, 1 to 1000; more are slower and finer (50)")
    parser.add_argument(
        "--guidance",
        type=float,
        help="classifier-free guidance scale s: 1 as trained, higher keeps closer to the input (3)",
    )
    parser.add_argument(
        "--gamma", type=float, help="joint only: share of steps under cross guidance, 0 to 1 (0.5)"
    )
    parser.add_argument(
        "--sampler",
        help="ddim; dpm++, of second order, so fewer steps do; ddpm, all steps of the schedule, whatever --steps says; "
        "joint takes no ddpm (ddim)",
    )
    parser.add_argument(
        "--vocoder",
        metavar="DIR",
        help="m2a, joint: a BigVGAN for the music's sound: Make-An-Audio's or NVIDIA's folder, or a run or registered "
        "model of ours (Griffin-Lim, which needs no weights)",
    )
    parser.add_argument(
        "--like",
        metavar="SAMPLE.json",
        help="a sample's JSON: make others near it; what is not given is as there",
    )
    parser.add_argument("--distance", type=float, help="with --like: 0 the same sample, 1 a new one (0.3)")
    parser.add_argument("-n", type=int, default=1, help="number of samples, seeds counted up from --seed (1)")
    parser.add_argument("--out", default="runs/generated", help="folder for the files (runs/generated)")
    many = parser.add_argument_group(
        "many items at once, over Ray Data; each has its own task, input and settings"
    )
    many.add_argument(
        "--manifest",
        metavar="FILE",
        help="JSONL, an item a line, as momu client batch takes it; the same command again makes what is missing",
    )
    many.add_argument("--workers", type=int, default=1, help="processes that hold the models (1)")
    many.add_argument("--gpus", type=float, default=0.0, help="GPUs of each of them (0)")


def _run(options: argparse.Namespace) -> None:
    if options.manifest is not None:
        return _run_manifest(options)
    from momu_dist.data.progress import progress
    from momu_dist.inference.generator import Generator
    from momu_dist.inference.inputs import read_inputs
    from momu_dist.inference.likeness import read_recipe
    from momu_dist.inference.outputs import output_folder, write_sample
    from momu_dist.inference.request import Request, variations
    from momu_dist.tracking.registry import resolve

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    if options.distance is not None and options.like is None:
        raise ConfigError("--distance is given without --like; name the liked sample's JSON too.")
    recipe = None if options.like is None else read_recipe(options.like)
    output_folder(options.out)
    values = _settings(options, recipe)
    options.checkpoint = options.checkpoint or list(recipe.checkpoints if recipe else ())
    if "task" not in values or not options.checkpoint:
        missing = "--checkpoint" if "task" in values else "--task a2m, m2a or joint"
        raise ConfigError(f"{missing} is missing; give it, or --like with a sample's JSON that says it.")
    _refuse_idle(options, values["task"])
    source = options.input
    if source is None and recipe is not None and values["task"] == recipe.values.get("task"):
        source = recipe.input
    inputs = read_inputs(values["task"], source, values.pop("fps", None), values.get("seconds"))
    request = Request(**values, **inputs)
    sound = options.vocoder or (recipe.vocoder if recipe else None)
    vocoder = resolve(sound, options.tracking_uri) if sound else None
    generator = Generator.load(*checkpoint_paths(options), vocoder=vocoder)
    if recipe is not None:
        _warn_of_other_weights(recipe, generator.models.origins)
    with progress(request.steps, f"{request.task} x {options.n}", "step") as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        samples = generator.generate(variations(request, options.n), on_step)
    origin = {
        "input": None if source is None else str(source),
        "checkpoints": options.checkpoint,
        "weights": dict(generator.models.origins),
        **({"vocoder_from": sound} if sound else {}),
        **({} if recipe is None else {"liked": str(recipe.path)}),
    }
    for sample in samples:
        name = f"{request.task}-seed{sample.request.seed}"
        if request.like is not None:
            name += f"-like{request.like.seed}-distance{request.like.distance:g}"
        paths = write_sample(Path(options.out), name, sample, origin)
        print(f"{name}: {paths['mp4']} (sound: {sample.vocoder or 'your input'})")


def _run_manifest(options: argparse.Namespace) -> None:
    from momu_dist.bulk import Models, run_bulk
    from momu_dist.tracking.registry import resolve

    names = (
        "task",
        "input",
        "fps",
        "seconds",
        "seed",
        "steps",
        "guidance",
        "gamma",
        "sampler",
        "like",
        "distance",
    )
    given = [name for name in names if getattr(options, name) is not None]
    if given or options.n != 1:
        raise ConfigError(
            f"--{given[0] if given else 'n'} is given with --manifest, whose items say it; leave it out."
        )
    if not options.checkpoint:
        raise ConfigError("--checkpoint is missing; give the models that are to make the manifest's items.")
    if options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}, expected at least 1.")
    vocoder = str(resolve(options.vocoder, options.tracking_uri).absolute()) if options.vocoder else None
    models = Models(tuple(str(path.absolute()) for path in checkpoint_paths(options)), vocoder)
    outcome = run_bulk(Path(options.manifest), Path(options.out), models, options.workers, gpus=options.gpus)
    print(
        f"{outcome.made} made, {outcome.before} were there, {len(outcome.failed)} failed; see {options.out}"
    )
    if outcome.failed:
        for name, error in outcome.failed.items():
            print(f"{name}: {error}", file=sys.stderr)
        failed = len(outcome.failed)
        raise DataError(
            f"{failed} item{'s were' if failed > 1 else ' was'} not made, for what is said above; mend it and run this again."
        )


def _refuse_idle(options: argparse.Namespace, task: str) -> None:
    """ConfigError for what is given and plays no part in `task`; its value would not even be looked at."""
    for name, tasks in (("fps", ("m2a",)), ("gamma", ("joint",)), ("vocoder", ("m2a", "joint"))):
        if getattr(options, name) is not None and task not in tasks:
            raise ConfigError(
                f"--{name} is given with task {task}, where it plays no part (it belongs to {', '.join(tasks)}); leave it out."
            )


def _settings(options: argparse.Namespace, recipe: Recipe | None) -> dict[str, Any]:
    """Fields of the request: those given, else those of the liked sample; what is left out has the request's defaults."""
    names = ("task", "seed", "seconds", "steps", "guidance", "gamma", "sampler", "fps")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if recipe is None:
        return given
    values = {"seed": recipe.next_seed(), **recipe.values}
    if options.input is not None:
        values.pop("fps", None)  # of the other file
    distance = DISTANCE if options.distance is None else options.distance
    return {**values, **given, "like": recipe.near(distance)}


def _warn_of_other_weights(recipe: Recipe, origins: Mapping[str, str]) -> None:
    others = [name for name, sha256 in recipe.weights.items() if origins.get(name, sha256) != sha256]
    if others:
        print(
            f"warning: {recipe.path} was made with another {', '.join(others)}; what is near it there need not be near it here.",
            file=sys.stderr,
        )
