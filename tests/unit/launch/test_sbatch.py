"""Options of sbatch: one home for those of every job, and what the command line may add."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from momu_dist.cli.source import recipe_of, with_options
from momu_dist.config.load import load_config
from momu_dist.data.sources import make_source
from momu_dist.demo import FULL, prepare_options
from momu_dist.errors import ConfigError
from momu_dist.launch.sbatch import JOB, options_of_command_line

SCRIPTS = sorted((Path(__file__).parents[3] / "jobs").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_job_script_asks_what_every_job_asks(
    script: Path, sbatch_reads: Callable[[str], dict[str, Any]]
) -> None:
    options = sbatch_reads(script.read_text())
    assert options.pop("job-name") == script.stem
    assert options == JOB


# Stands for the Python of a checkout.
SHOWN = """#!/bin/bash
printf '%s\\n' "${PYTHONPATH-unset}" "${PYTHONHOME-unset}" "$@"
"""


def run_script(script: Path, checkout: Path, *arguments: str) -> list[str]:
    """Run a job script in a checkout; return what its Python sees of PYTHONPATH and PYTHONHOME, and its words."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text(SHOWN)
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    shutil.copytree(script.parent, checkout / "jobs")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/shadows", "PYTHONHOME": "/shadows"}
    done = subprocess.run(
        ["/bin/bash", script, *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_job_script_hands_on_its_words_and_no_path_to_other_packages(script: Path, tmp_path: Path) -> None:
    shown = run_script(script, tmp_path, "--out", "a b", "--failure-budget=5")
    assert shown[:4] == ["unset", "unset", "-m", "momu_dist.launch"]
    assert shown[-3:] == ["--out", "a b", "--failure-budget=5"]


def test_without_arguments_the_set_of_the_demo_is_prepared_where_the_trainings_read_it(
    tmp_path: Path,
) -> None:
    root = SCRIPTS[0].parents[1]
    given = run_script(root / "jobs" / "prepare.sh", tmp_path)[5:]
    options = dict(zip(given[:4:2], given[1:4:2], strict=True))
    for stage in ("music_vae", "motion_vae", "dit_a2m"):
        config = load_config(root / "configs" / "demo" / f"{stage}.yaml", [])
        assert config.data.root == options["--out"]
    recipe = recipe_of(None, str(root / options["--recipe"]))
    source, settings = with_options(recipe, None, given[4:])
    demo = make_source("synthetic", n_clips=FULL.n_clips)
    assert (source.options, settings) == (demo.options, prepare_options(FULL))


def test_options_of_the_command_line() -> None:
    given = ["time=2:00:00", "exclusive", "contiguous", "comment=a=b", "mem=0"]
    assert options_of_command_line(given) == {
        "time": "2:00:00",
        "exclusive": "exclusive",
        "contiguous": True,
        "comment": "a=b",
        "mem": "0",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--time=3", "not of the form key=value"),
        ("t", "not of the form|--sbatch"),
        ("Time=3", "not of the form key=value"),
        ("time=", "not empty"),
        ("account", "expected a value"),
        ("comment=a\nb", "control characters"),
        ("signal=TERM@9", "expected B:USR2@SECONDS"),
        ("array=1-3", "use --sweep"),
        ("clusters=a", "a site is one cluster"),
        ("output=x", "momu logs finds the log"),
    ],
)
def test_an_option_that_cannot_be_given(text: str, said: str) -> None:
    if text == "t":
        assert options_of_command_line([text]) == {
            "t": True
        }  # sbatch itself knows whether there is such a one
        return
    with pytest.raises(ConfigError, match=said):
        options_of_command_line([text])
