"""The real sbatch reads what we write for it, from the script and from the environment; no controller is asked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from momu_dist.launch.sbatch import JOB, VARIABLES
from momu_dist.launch.sites import Site
from momu_dist.launch.submit.plan import plan_hold
from momu_dist.launch.submit.slurm import job_options, render

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("sbatch") is None, reason="no sbatch on this machine"),
]

NASTY = """a b'c"d;$(touch no)`touch no`&|<>*?#\\e\\\\"""
# A controller that nobody answers for: sbatch prints what it has read and then fails.
CONFIGURATION = """ClusterName=none
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=1
AuthType=auth/none
CryptoType=crypto/none
MessageTimeout=2
"""


def read_by_sbatch(folder: Path, script: str, **variables: str) -> dict[str, str]:
    (folder / "slurm.conf").write_text(CONFIGURATION)
    (folder / "script").write_text(script)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SBATCH_", "SLURM_"))}
    env |= {"SLURM_CONF": str(folder / "slurm.conf"), **variables}
    done = subprocess.run(
        ["sbatch", "-v", "script"], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    _, begin, rest = done.stderr.partition("sbatch: defined options\n")
    if not begin:
        pytest.skip(f"this sbatch reads nothing without its cluster: {done.stderr[-300:]}")
    listed = rest.partition("sbatch: end of defined options")[0]
    return dict(re.findall(r"^sbatch: (\S+) +: (.*)$", listed, re.MULTILINE))


@pytest.mark.parametrize(
    "site",
    [
        Site(
            sbatch={
                "partition": NASTY,
                "account": "it's",
                "constraint": "[a|b]&c",
                "gres": "gpu:a:2",
                "qos": "\\",
            }
        ),
        Site(sbatch={"exclusive": True, "mem": 0, "gpus-per-node": 4, "time": "1-0", "reservation": "#x"}),
        Site(
            sbatch={
                "exclusive": "user",
                "signal": "B:USR2@300",
                "time": "90",
                "wckey": "%j",
                "mem-per-gpu": "3G",
            }
        ),
        Site(),
    ],
    ids=["hostile", "numbers", "signal", "none"],
)
def test_a_site_is_one_thing_both_ways(site: Site, tmp_path: Path) -> None:
    (job,) = plan_hold()
    variables = {VARIABLES[option]: str(value) for option, value in site.options().items()}
    by_environment = read_by_sbatch(tmp_path, render(job, job_options(job, []), None), **variables)
    by_script = read_by_sbatch(tmp_path, render(job, job_options(job, [site.options()]), None))
    assert by_script == by_environment
    # sbatch writes these in its own way.
    own = ("time", "mem", "gres")
    plain = {option: str(value) for option, value in site.options().items() if option not in own}
    assert {option: by_script[option] for option in plain} == plain
    signal = site.options().get("signal", JOB["signal"])
    assert by_script["signal"] == signal and by_script["open-mode"] == "a" and by_script["no-kill"] == "set"
    assert by_script["output"] == str(tmp_path / str(JOB["output"])) and by_script["requeue"] == "requeue"
