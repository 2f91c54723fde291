"""`python -m momu_dist.train --config FILE [--dry-run] [section.field=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from momu_dist.config.load import load_config
from momu_dist.errors import MomuError


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
    try:
        config = load_config(options.config, options.overrides)
        if options.dry_run:
            from momu_dist.train.dry_run import report

            print(report(config))
        elif config.train.strategy == "local":
            from momu_dist.train.run import train

            print(f"trained: {train(config)}")
        else:
            from momu_dist.train.ray_session import ray_session
            from momu_dist.train.run import train

            with ray_session(config.train.workers, config.train.worker_cpus):
                print(f"trained: {train(config)}")
    except MomuError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
