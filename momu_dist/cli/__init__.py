"""`momu`: the command line. Every command is a thin call into the package; mistakes end in one sentence and code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from momu_dist.cli.client import add_client
from momu_dist.cli.cluster_env import add_cluster_env
from momu_dist.cli.data import add_data
from momu_dist.cli.demo import add_demo
from momu_dist.cli.doctor import add_doctor
from momu_dist.cli.evaluate import add_evaluate
from momu_dist.cli.export_motion import add_export_motion
from momu_dist.cli.generate import add_generate
from momu_dist.cli.inspect import add_inspect
from momu_dist.cli.prepare import add_prepare
from momu_dist.cli.promote import add_promote
from momu_dist.cli.ray_job import add_ray_job
from momu_dist.cli.serve import run_serve
from momu_dist.cli.status import add_status
from momu_dist.cli.submit import run_submit
from momu_dist.cli.train import run_train
from momu_dist.cli.weights import add_weights
from momu_dist.errors import exit_code

# These read their own arguments: options may stand between overrides, and argparse cannot hand options on to a second parser.
_WITH_OWN_PARSER = {"train": run_train, "submit": run_submit, "serve": run_serve}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 after one sentence on stderr for what a user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and (run := _WITH_OWN_PARSER.get(given[0])):
        return run(given[1:])
    options = _parser().parse_args(given)
    return exit_code(lambda: options.run(options), "stopped")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="momu", description="Train, use and score MoMu-Diffusion.")
    commands = parser.add_subparsers(required=True, metavar="command")
    add_data(commands)
    add_prepare(commands)
    add_inspect(commands)
    commands.add_parser("train", help="Train one stage (the same as python -m momu_dist.train).")
    add_generate(commands)
    add_export_motion(commands)
    add_evaluate(commands)
    add_promote(commands)
    add_weights(commands)
    add_client(commands)
    add_demo(commands)
    commands.add_parser(
        "serve", help="Serve the samplers over HTTP, on this machine or the Ray of RAY_ADDRESS."
    )
    commands.add_parser("submit", help="Submit a stage, a chain of stages or a sweep to SLURM.")
    add_status(commands)
    add_ray_job(commands)
    add_cluster_env(commands)
    add_doctor(commands)
    return parser
