"""`python -m momu_dist.train --config FILE [--dry-run | --only-latents] [section.field=value ...]`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from momu_dist.errors import STOPPED, exit_code
from momu_dist.train.process import given_at


def as_program(arguments: Sequence[str] | None = None) -> int:
    """Run the command as the whole of this process: SIGTERM and SIGUSR2 are answered while much is still to be imported, and
    change nothing once it has ended. In between, training answers them, and a file `stop` that is younger than the command.
    """
    stopped = False

    def leave(number: int, _: object) -> None:
        nonlocal stopped
        stopped = True  # before training there is nothing to save
        os.write(2, f"stopped by {signal.Signals(number).name}; run the same command again.\n".encode())
        raise SystemExit(STOPPED)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, leave)
    try:
        code = main(arguments, given_at())
    except BaseException:
        if not stopped:  # what was interrupted may end by an error of its own (argparse does)
            raise
    finally:
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    return STOPPED if stopped else code


def main(arguments: Sequence[str] | None = None, since: float | None = None) -> int:
    """Run the command, given at that moment (`time.time()`) or now; return 0, or 2 after one sentence on stderr for what a
    user can mend.
    """
    since = time.time() if since is None else since
    parser = argparse.ArgumentParser(
        prog="python -m momu_dist.train", description="Train one stage of MoMu-Diffusion."
    )
    parser.add_argument("--config", required=True, help="a YAML under configs/, or your own")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    instead.add_argument(
        "--only-latents", action="store_true", help="encode the latents a diffusion stage reads, and exit"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="values that overrule the file's"
    )
    options = parser.parse_intermixed_args(arguments)  # options may stand between overrides
    stopped = "stopped; the same command goes on from the newest checkpoint"
    return exit_code(lambda: _run(options, since), stopped)


def _run(options: argparse.Namespace, since: float) -> None:
    from momu_dist.config.load import load_config

    config = load_config(options.config, options.overrides)
    if options.dry_run:
        from momu_dist.train.dry_run import report
        from momu_dist.train.run import resolved_inputs

        print(report(resolved_inputs(config)))
        return
    from momu_dist.train.run import encode, train

    def work() -> None:
        print(f"latents: {encode(config)}" if options.only_latents else f"trained: {train(config, since)}")

    if config.train.strategy == "local":
        work()
        return
    from momu_dist.train.ray_session import ray_session

    with ray_session(config.train.workers, config.train.worker_cpus):
        work()


def _exit(code: int) -> NoReturn:
    """End this process without tearing it down: a thread of Ray 2.60 (opencensus) that still runs then may crash it.

    All is done and written by now, and a training that has finished would end as one that failed.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(as_program())
