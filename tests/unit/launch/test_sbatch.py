"""Options of sbatch: one home for those of every job, and what the command line may add."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
