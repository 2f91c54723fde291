"""`python -m momu_dist.train --config FILE [--dry-run] [section.field=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from momu_dist.config.load import load_config
from momu_dist.errors import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after one sentence on stderr for what a user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m momu_dist.train", description="Train one stage of MoMu-Diffusion."
    )
    parser.add_argument("--config", required=True, help="a YAML under configs/, or your own")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="values that overrule the file's"
    )
    options = parser.parse_intermixed_args(arguments)  # options may stand between overrides
    stopped = "stopped; the same command goes on from the newest checkpoint"
    return exit_code(lambda: _run(options.config, options.overrides, options.dry_run), stopped)


def _run(path: str, overrides: Sequence[str], dry_run: bool) -> None:
    config = load_config(path, overrides)
    if dry_run:
        from momu_dist.train.dry_run import report
        from momu_dist.train.run import resolved_inputs

        print(report(resolved_inputs(config)))
    elif config.train.strategy == "local":
        from momu_dist.train.run import train

        print(f"trained: {train(config)}")
    else:
        from momu_dist.train.ray_session import ray_session
        from momu_dist.train.run import train

        with ray_session(config.train.workers, config.train.worker_cpus):
            print(f"trained: {train(config)}")


if __name__ == "__main__":
    sys.exit(main())
