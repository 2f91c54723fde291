"""From the start of a SLURM job to its first step, in phases, beside Ray started by hand on the same nodes; in one run.

    python benchmarks/bringup.py [--nodes 2] [--rounds 5] --out benchmarks/bringup.md -- --config FILE [section.key=value ...]

Runs on a login node, from the checkout. (a) `momu`: `sbatch jobs/train_dit.sh`, by the phases in its status.json. (b) `by hand`:
what one would write, `srun ray start --head --block &` and one more srun for the other nodes, with fixed ports, no checks, until
every node says that Ray has started, then the same `python -m momu_dist.train`. The two take turns. `Ray` is the time until
Ray runs on all nodes, `first step` until the first step of the training is done, `gone` from the driver's end until the job's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from momu_dist.config.load import load_config
from momu_dist.launch.status import STATUS, job_folder
from momu_dist.train.folder import RunFolder
from report import machine_line, table

ROOT = Path(__file__).parents[1]
TIMEOUT_MIN = 10
RAY_S = 120
"""How long Ray may take by hand."""

BY_HAND = """#!/bin/bash
export RAY_AUTH_MODE=disabled RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_USAGE_STATS_ENABLED=0
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=$(getent hosts "${nodes[0]}" | awk '{print $1; exit}')
start() { srun --overlap -N1 -n1 -w "$1" ray start --block --num-cpus=$SLURM_CPUS_ON_NODE "${@:2}" > "$OUT/$1.log" 2>&1 & }
up() {
  for _ in $(seq $((RAY_S * 10))); do grep -qs "Ray runtime started" "$OUT/$1.log" && return; sleep 0.1; done
  echo "no Ray on $1 within RAY_S s"; kill $(jobs -p); exit 1
}
mark() { date +%s.%N > "$OUT/$1"; }
mark began
start "${nodes[0]}" --head --node-ip-address="$head" --port=6379
up "${nodes[0]}"
for node in "${nodes[@]:1}"; do start "$node" --address="$head:6379"; done
for node in "${nodes[@]}"; do up "$node"; done
mark ray
RAY_ADDRESS=$head:6379 python -u -m momu_dist.train "$@"
code=$?
mark driver
kill $(jobs -p); wait
exit $code
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("training", nargs="+", help="--config FILE and overrides, after --")
    options = parser.parse_args()
    folder = ROOT / "runs" / "bringup"
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {"momu": [], "by hand": []}
    for number in range(options.rounds):
        for way, measure in (("momu", by_momu), ("by hand", by_hand)):
            name = f"bringup-{way.replace(' ', '-')}-{number}-{int(time.time())}"
            took = measure(folder / name, options.nodes, [*options.training, f"name={name}"])
            rows[way].append(took)
            print(way, took, flush=True)
    text = report(rows, options.nodes)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def by_momu(folder: Path, nodes: int, training: Sequence[str]) -> dict[str, float]:
    """Submit the job script; return seconds by phase, as the job itself tells them."""
    folder.mkdir(parents=True)
    job = sbatch(folder, nodes, [str(ROOT / "jobs" / "train_dit.sh"), *training])
    finished = when_gone(job)
    status = json.loads((job_folder(ROOT, job) / STATUS).read_text())
    if status["ended"]["code"] != 0:
        raise SystemExit(f"job {job} ended with {status['ended']}; see {folder}")
    phases = status["phases_s"]
    bring_up = ("start", "checks", "nodes", "ray")
    ray = sum(phases[name] for name in bring_up)
    ended = datetime.fromisoformat(status["started"]).timestamp() + sum(phases.values()) - phases["ending"]
    return {
        **{f"of it {name}": phases[name] for name in bring_up},
        "Ray": ray,
        "first step": ray + phases["workers"] + phases["first step"],
        "gone": finished - ended,
    }


def by_hand(folder: Path, nodes: int, training: Sequence[str]) -> dict[str, float]:
    """Submit a script as one would write it; return seconds by phase."""
    folder.mkdir(parents=True)
    script = folder / "job.sh"
    script.write_text(BY_HAND.replace("$OUT", str(folder)).replace("RAY_S", str(RAY_S)))
    job = sbatch(folder, nodes, [str(script), *training])
    finished = when_gone(job)
    if not (folder / "driver").is_file():
        raise SystemExit(f"job {job} did not come to its training; see {folder}")
    marks = {name: float((folder / name).read_text()) for name in ("began", "ray", "driver")}
    config = load_config(training[1], training[2:])
    events = RunFolder(config).events.read_text().splitlines()
    first = next(line for line in events if "the first of this start" in line).split()[0]
    return {
        "Ray": marks["ray"] - marks["began"],
        "first step": datetime.fromisoformat(first).timestamp() - marks["began"],
        "gone": finished - marks["driver"],
    }


def sbatch(folder: Path, nodes: int, command: Sequence[str]) -> int:
    submit = [
        "sbatch",
        "--parsable",
        f"-N{nodes}",
        "--ntasks-per-node=1",
        "--cpus-per-task=4",
        f"--time={TIMEOUT_MIN}",
        f"--output={folder}/log",
    ]
    out = subprocess.run([*submit, *command], capture_output=True, text=True, check=True, cwd=ROOT)
    return int(out.stdout.split(";")[0])


def when_gone(job: int) -> float:
    """Wait until the job has left its nodes; return when that was. One that stays too long is cancelled."""
    until = time.monotonic() + 60 * TIMEOUT_MIN
    while subprocess.run(["squeue", "-h", "-j", str(job)], capture_output=True, text=True).stdout.strip():
        if time.monotonic() > until:
            subprocess.run(["scancel", str(job)])
            raise SystemExit(f"job {job} has not ended within {TIMEOUT_MIN} minutes")
        time.sleep(0.2)
    return time.time()


def report(rows: dict[str, list[dict[str, float]]], nodes: int) -> str:
    """Return the measured medians, the whole range of the rounds beside them."""
    names = list(rows["momu"][0])
    lines = []
    for name in names:
        cells = []
        for way in rows:
            values = [row[name] for row in rows[way] if name in row]
            cells.append(
                f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else ""
            )
        lines.append([name, *cells])
    return "\n".join(
        [
            "# From the start of a job to its first step",
            "",
            f"{machine_line(('torch', 'ray'))}; {nodes} nodes of SLURM; {len(rows['momu'])} rounds by turns; "
            f"`{' '.join(['python', 'benchmarks/bringup.py'])}`. Seconds: median (least to most).",
            "",
            table(["phase", *rows], lines),
            "",
        ]
    )


if __name__ == "__main__":
    main()
