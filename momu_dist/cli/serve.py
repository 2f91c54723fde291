"""`momu serve`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from momu_dist.cli.command import add_checkpoints
from momu_dist.errors import exit_code


def run_serve(arguments: Sequence[str]) -> int:
    """Serve until a signal comes; return the exit code."""
    options = _parser().parse_intermixed_args(arguments)  # options may stand between settings
    return exit_code(lambda: _run(options), "stopped; jobs go on when it is started again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="momu serve",
        description="Serve the samplers over HTTP, on this machine or the Ray of RAY_ADDRESS.",
    )
    add_checkpoints(parser, required=False)
    parser.add_argument("--config", type=Path, help="Serve config file (serve/app.yaml where there is one)")
    parser.add_argument(
        "--host", help="where to listen; anything but loopback needs token_file=<file> (127.0.0.1)"
    )
    parser.add_argument("--port", type=int, help="1 to 65535 (8000)")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings over those of the config, such as queue=16"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    from momu_dist.serving.running import run_service
    from momu_dist.serving.settings import read_config

    args, http = read_config(options.config, options.settings)
    if options.checkpoint:
        args["checkpoint"] = options.checkpoint
    if options.tracking_uri:
        args["tracking_uri"] = options.tracking_uri
    http.update({name: value for name in ("host", "port") if (value := getattr(options, name)) is not None})
    run_service(args, http)
