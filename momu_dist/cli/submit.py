"""`momu submit`: a stage, a chain or a sweep as jobs of SLURM."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from momu_dist.errors import ConfigError, MomuError, exit_code

if TYPE_CHECKING:
    from momu_dist.launch.sbatch import Options
    from momu_dist.launch.sites import Site
    from momu_dist.launch.submit.plan import Submission
    from momu_dist.launch.submit.slurm import Submitted

EXAMPLES = """\
what to submit:
  music_vae, motion_vae, dit_m2a, dit_a2m, vocoder   one stage
  chain      music_vae, then motion_vae, then the latents once, then both dit_m2a and dit_a2m
  evaluate   momu evaluate on one node; its options as key=value
  hold       only a Ray cluster, for momu ray-job
examples:
  momu submit --cluster mine chain --config configs/dance_with_melody --nodes 2
  momu submit --cluster mine dit_a2m --config configs/dance_with_melody --sweep optim.lr=1e-4,2e-4 --sweep seed=0,1
  momu submit --cluster mine evaluate checkpoint=runs/dit_a2m data=data/prepared --sweep guidance=1,2,4
"""


def run_submit(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    options = parser().parse_intermixed_args(arguments)  # options may stand between overrides
    return exit_code(lambda: _run(options), "stopped; what was submitted is printed above")


def parser() -> argparse.ArgumentParser:
    """Return its parser, which is its own: options and overrides may stand in any order."""
    parser = argparse.ArgumentParser(
        prog="momu submit",
        description="Submit training to SLURM: checks the config, then writes and submits the jobs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXAMPLES,
    )
    parser.add_argument("what", help="a stage, chain, evaluate or hold, listed below")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.field=value",
        help="values that overrule the file's, as YAML (of evaluate: its options)",
    )
    parser.add_argument(
        "--cluster", help="a site under configs/cluster, or the path of such a YAML (MOMU_CLUSTER, else none)"
    )
    parser.add_argument(
        "--config",
        help="a YAML, or a folder with one for each stage (configs/paper/aistpp; vocoder: configs/vocoder/full.yaml)",
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes of each job (1)")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="KEY=VALUE",
        help="a long option of sbatch for each job, such as time=2:00:00; may be repeated, overrules the site",
    )  # fmt: skip
    parser.add_argument(
        "--after", action="append", default=[], metavar="JOB",
        help="start once this job has succeeded; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="KEY=V1,V2",
        help="one run for each value, as one job array; repeated, one for each combination",
    )  # fmt: skip
    parser.add_argument(
        "--failure-budget", type=int, metavar="N",
        help="attempts in a row that may come no further, before the job is not requeued any more (3)",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print what sbatch would get, and submit nothing"
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    from momu_dist.launch.jobs import refuse_failed
    from momu_dist.launch.queue import ask_queue
    from momu_dist.launch.sbatch import options_of_command_line
    from momu_dist.launch.sites import SITE, Site, load_site, site_name
    from momu_dist.launch.submit.notes import notes
    from momu_dist.launch.submit.slurm import job_options, render, submit

    cluster = os.environ.get(SITE) if options.cluster is None else options.cluster
    site, name = (load_site(cluster), site_name(cluster)) if cluster else (Site(), None)
    if options.nodes < 1:
        raise ConfigError(f"--nodes is {options.nodes}, expected at least 1.")
    if options.what == "evaluate" and options.nodes > 1:
        raise ConfigError(f"--nodes is {options.nodes}, but an evaluation is one process; leave it out.")
    for job_id in options.after:
        if not re.fullmatch(r"\d+(_\d+)?", job_id, re.ASCII):
            raise ConfigError(f"--after is {job_id!r}, expected the number of a job, such as 1234.")
    queue = ask_queue() if options.after else None
    for job_id in options.after:
        refuse_failed(job_id, queue)
    wanted: Options = {
        **site.options(),
        "nodes": str(options.nodes),
        **options_of_command_line(options.sbatch),
    }
    jobs = [_with_budget(job, options.failure_budget) for job in _plan(options)]

    for note in notes(jobs, site, wanted):
        print(f"note: {note}")
    if options.what == "evaluate":
        _check_evaluations(jobs, site, noted=bool(options.after))
    numbers: dict[str, str] = {}  # of the jobs so far; in a dry run their names
    for job in jobs:
        after = [numbers[first] for first in job.after] or options.after
        asked = job_options(job, [wanted], after)
        if options.dry_run:
            numbers[job.name] = f"<{job.name}>"
            print(render(job, asked, name))
            _print_commands(job)
            continue
        try:
            done = submit(job, asked, name, after)
        except MomuError as error:
            kept = f" (submitted before it: {', '.join(numbers.values())})" if numbers else ""
            raise MomuError(f"{error}{kept}") from error
        numbers[job.name] = done.job_id
        _print_submitted(done)
    if not options.dry_run:
        print("momu status says how they fare, momu logs JOB shows a log.")


def _plan(options: argparse.Namespace) -> list[Submission]:
    from momu_dist.core.catalog import STAGES
    from momu_dist.launch.submit.plan import parse_sweep, plan_chain, plan_evaluation, plan_hold, plan_stage

    sweeps = [parse_sweep(text) for text in options.sweep]
    what, overrides = options.what, options.overrides
    if what in STAGES:
        return plan_stage(what, options.config, overrides, sweeps)
    if what == "evaluate" and options.config is None:
        return plan_evaluation(overrides, sweeps)
    if what not in ("chain", "evaluate", "hold"):
        valid = (*STAGES, "chain", "evaluate", "hold")
        near = "".join(f", did you mean {one}" for one in get_close_matches(what, valid, 1))
        raise ConfigError(f"cannot submit {what!r}{near}; valid: {', '.join(valid)}.")
    if sweeps:
        raise ConfigError(f"--sweep goes with one stage or with evaluate, not with {what}.")
    if what == "chain":
        return plan_chain(options.config, overrides)
    if options.config is not None or overrides:
        raise ConfigError(f"{what} reads no config; leave --config and section.field=value out.")
    return plan_hold()


def _check_evaluations(jobs: Sequence[Submission], site: Site, noted: bool) -> None:
    """Let momu evaluate's own parser read what it will be given, and look for that.

    `noted`: models and data that are missing may be there in time, so that is only said.
    """
    from momu_dist.cli.evaluate import add_evaluate, check_inputs, check_settings
    from momu_dist.tracking import URI_VARIABLE

    reader = argparse.ArgumentParser(prog="momu")
    add_evaluate(reader.add_subparsers())
    apart = {}  # a sweep mostly has the same models and data in all elements
    for element in (element for job in jobs for element in job.elements):
        try:
            options = reader.parse_args(element.arguments[1:])
        except SystemExit as end:
            raise ConfigError(
                "evaluate: the lines above name options as momu evaluate has them; here each is key=value, such as "
                "checkpoint=..., data=... and guidance=...."
            ) from end
        check_settings(options)
        options.tracking_uri = options.tracking_uri or site.variables().get(URI_VARIABLE)
        apart[tuple(options.checkpoint), options.data, options.split, options.tracking_uri] = options
    for options in apart.values():
        try:
            check_inputs(options)
        except MomuError as error:
            if not noted:
                raise
            print(
                f"note: {str(error).rstrip('.')}; if that is still so when the job begins, it ends at once."
            )


def _with_budget(job: Submission, budget: int | None) -> Submission:
    if budget is None:
        return job
    if budget < 0:
        raise ConfigError(f"--failure-budget is {budget}, expected at least 0.")
    if not job.saves:
        raise ConfigError(f"--failure-budget goes with jobs that save and go on, {job.name} does not.")
    more = f"--failure-budget={budget}"
    elements = tuple(replace(one, arguments=(*one.arguments, more)) for one in job.elements)
    return replace(job, elements=elements)


def _print_commands(job: Submission) -> None:
    for number, element in enumerate(job.elements):
        which = f"element {number}" if len(job.elements) > 1 else "it"
        print(f"# {which} becomes: python -m {shlex.join(element.arguments)}")
    print()


def _print_submitted(done: Submitted) -> None:
    after = f", after {', '.join(done.after)}" if done.after else ""
    log = f"slurm-{done.job.name}-{done.job_id}.out"
    if len(done.elements) == 1:
        print(f"{done.job_id}  {done.job.name}{after}; log {log}")
        return
    print(
        f"{done.job_id}  array of {len(done.elements)}{after}; logs slurm-{done.job.name}-<number of each>.out"
    )
    for job_id, element in zip(done.elements, done.job.elements, strict=True):
        print(f"  {job_id}  {element.name}")
