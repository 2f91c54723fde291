"""What is worth knowing of a submission that sbatch would take all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from momu_dist.data.manifest import Manifest
from momu_dist.errors import MomuError
from momu_dist.launch.sbatch import VARIABLES, Options
from momu_dist.launch.scontrol import partition_sizes
from momu_dist.launch.sites import Site
from momu_dist.launch.submit.plan import Submission
from momu_dist.launch.submit.slurm import ignored_variables
from momu_dist.tracking import auto_uri


def notes(jobs: Sequence[Submission], site: Site, asked: Options) -> Iterator[str]:
    """Yield a sentence for each; `asked` is what is asked of sbatch for all of the jobs."""
    yield from _variables(site)
    yield from _data(jobs)
    yield from too_many_nodes(asked)
    if _share_a_file(jobs, site):
        yield (
            "runs that train beside each other write to one sqlite file, which shared disks may lock: set tracking_uri of the "
            "site to an MLflow server, or tracking.uri=none."
        )
    for job in jobs:
        if job.config is not None and job.config.train.device == "cpu" and _asks_for_gpus(asked):
            yield f"the GPUs of {job.name} will not be used: train.device is cpu."


def _variables(site: Site) -> Iterator[str]:
    # What momu cluster-env has exported of this site asks for nothing else.
    same = {VARIABLES[option]: str(value) for option, value in site.options().items()}
    for name in ignored_variables():
        if os.environ[name] != same.get(name):
            yield f"{name} of this shell is not used; momu submit asks for what the site and --sbatch say."


def _data(jobs: Sequence[Submission]) -> Iterator[str]:
    for root in dict.fromkeys(job.config.data.root for job in jobs if job.config is not None):
        try:
            Manifest.load(root)
        except MomuError as error:
            yield f"{str(error).rstrip('.')}; until it is there, jobs that read it end as they begin."


def too_many_nodes(asked: Options) -> Iterator[str]:
    """Of more nodes than the partition has. Of several partitions that are named, SLURM gives one."""
    nodes = int(asked["nodes"])
    sizes = partition_sizes() if nodes > 1 else {}
    default = [name for name in sizes if name.endswith("*")]
    names = str(asked["partition"]).split(",") if "partition" in asked else default
    found = {name: count for name, count in sizes.items() if name in names or name.removesuffix("*") in names}
    if found and nodes > max(found.values()):
        said = ", ".join(f"{name.removesuffix('*')} {count}" for name, count in found.items())
        yield f"--nodes is {nodes}, more than the partition has ({said}): such a job waits for ever, or is refused."


def _asks_for_gpus(options: Options) -> bool:
    return any(
        value != "0" and (option.startswith("gpus") or (option == "gres" and "gpu" in str(value)))
        for option, value in options.items()
    )


def _share_a_file(jobs: Sequence[Submission], site: Site) -> bool:
    """Whether jobs that may run at one time write to a database in a file, which suits one run at a time."""
    auto = auto_uri(Path("runs"), {**os.environ, **site.variables()})

    def writes(job: Submission) -> bool:
        uri = "none" if job.config is None else job.config.tracking.uri
        return (auto if uri == "auto" else uri).startswith("sqlite:")

    writing = [job for job in jobs if writes(job)]
    return any(len(job.elements) > 1 for job in writing) or len({job.after for job in writing}) < len(writing)
