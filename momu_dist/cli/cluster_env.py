"""`momu cluster-env`."""

from __future__ import annotations

import argparse

from momu_dist.cli.command import Commands, add
from momu_dist.errors import MomuError


def add_cluster_env(commands: Commands) -> None:
    parser = add(commands, "cluster-env", "What a SLURM site wants of sbatch, as lines for your shell.", _run)
    parser.epilog = 'example: eval "$(momu cluster-env NAME)" && sbatch -N2 jobs/train_dit.sh'
    parser.add_argument("site", help="a site under configs/cluster, or the path of such a YAML")


def _run(options: argparse.Namespace) -> None:
    from momu_dist.launch.sites import load_site, site_name

    try:
        print(load_site(options.site).exports(site_name(options.site)), end="")
    except MomuError:
        print("false")  # eval of nothing would succeed, with the site before still exported
        raise
