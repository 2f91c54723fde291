"""`momu generate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from momu_dist.cli.command import Commands, add, add_checkpoints, checkpoint_paths


def add_generate(commands: Commands) -> None:
    parser = add(commands, "generate", "Make motion from music, music from motion, or both at once.", _run)
    parser.add_argument("--task", choices=("a2m", "m2a", "joint"), required=True, help="a2m: music to motion")
    add_checkpoints(parser)
    parser.add_argument(
        "--input", help="a2m: any audio or video file; m2a: npz, json, npy or a folder of OpenPose frames"
    )
    parser.add_argument("--fps", type=float, help="frame rate of a motion file that does not hold one")
    parser.add_argument("--seconds", type=float, help="length; cuts a longer input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (50)")
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance scale s (3)")
    parser.add_argument(
        "--gamma", type=float, default=0.5, help="joint: share of steps under cross guidance (0.5)"
    )
    parser.add_argument(
        "--sampler",
        default="ddim",
        help="ddim; dpm++, of second order, so fewer steps do; ddpm, all steps of the schedule; joint takes ddim only (ddim)",
    )
    parser.add_argument(
        "--vocoder",
        metavar="DIR",
        help="a BigVGAN for the music's sound: Make-An-Audio's or NVIDIA's folder, or a run or registered "
        "model of ours (Griffin-Lim, which needs no weights)",
    )
    parser.add_argument("-n", type=int, default=1, help="number of samples, seeds counted up from --seed")
    parser.add_argument("--out", default="runs/generated", help="folder for the files (runs/generated)")


def _run(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from momu_dist.errors import ConfigError
    from momu_dist.inference.generator import Generator, Request, variations
    from momu_dist.inference.inputs import read_inputs
    from momu_dist.inference.outputs import output_folder, write_sample
    from momu_dist.tracking.registry import resolve

    if options.n < 1:
        raise ConfigError(f"-n is {options.n}, expected at least 1.")
    request = Request(
        options.task, options.seed, options.seconds, options.steps, options.guidance, options.gamma,
        options.sampler, **read_inputs(options.task, options.input, options.fps),
    )  # fmt: skip
    vocoder = resolve(options.vocoder, options.tracking_uri) if options.vocoder else None
    generator = Generator.load(*checkpoint_paths(options), vocoder=vocoder)
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
        **({"vocoder_from": options.vocoder} if options.vocoder else {}),
    }
    for sample in samples:
        name = f"{options.task}-seed{sample.request.seed}"
        paths = write_sample(Path(options.out), name, sample, origin)
        print(f"{name}: {paths['mp4']} (sound: {sample.vocoder or 'your input'})")
