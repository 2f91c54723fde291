"""A site says the same to a plain sbatch and to momu submit, whatever signs its values hold."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from momu_dist.cli import main
from momu_dist.errors import ConfigError
from momu_dist.launch.sbatch import VARIABLES
from momu_dist.launch.sites import SITE, Site, load_site, site_name
from momu_dist.launch.submit.plan import plan_hold
from momu_dist.launch.submit.slurm import job_options, render

HOSTILE = [
    "a b",
    "it's",
    'say "x"',
    "x; touch /tmp/no",
    "$(id)",
    "`id`",
    "a\\b",
    "a#b",
    "#",
    "%x",
    "~",
    "-k",
    "!!",
    "é*",
]


def site_of(folder: Path, **tree: Any) -> str:
    path = folder / "a site's.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def exported(text: str) -> dict[str, str]:
    """Return the variables that a clean bash has after `eval` of the text."""
    command = ["env", "-i", "/bin/bash", "-c", 'eval "$1"; exec /usr/bin/env -0', "bash", text]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = (entry.split("=", 1) for entry in out.split("\0") if entry)
    return {name: value for name, value in pairs if name.startswith(("SBATCH_", "MOMU_"))}


@pytest.mark.parametrize(
    "sbatch",
    [
        *({"partition": text, "account": text, "constraint": text} for text in HOSTILE),
        {option: "a" for option in VARIABLES if option not in ("signal", "time")},
        {"exclusive": True, "mem": 0, "gpus-per-node": 4, "time": "24:00:00", "signal": "B:USR2@300"},
        {"exclusive": False, "account": "x"},
        {"exclusive": "user", "gpus-per-node": "a100:4"},
        {},
    ],
    ids=str,
)
def test_both_ways_to_submit_ask_the_same(
    tmp_path: Path,
    sbatch: dict[str, Any],
    sbatch_reads: Callable[[str], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = site_of(tmp_path, sbatch=sbatch)
    assert main(["cluster-env", name]) == 0
    variables = exported(capsys.readouterr().out)
    assert variables.pop(SITE) == str(Path(name).absolute())
    back = {variable: option for option, variable in VARIABLES.items()}
    by_environment = {back[variable]: value for variable, value in variables.items()}

    site, plain = load_site(name), plan_hold()[0]
    ours = sbatch_reads(render(plain, job_options(plain, []), None))
    by_script = sbatch_reads(render(plain, job_options(plain, [site.options()]), None))
    assert by_script == {**ours, **by_environment}
    wanted = {option: str(value) for option, value in sbatch.items() if value is not False}
    assert by_environment == {
        **wanted,
        **({"exclusive": "exclusive"} if sbatch.get("exclusive") is True else {}),
    }


def test_a_site_that_is_none_makes_eval_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """What it printed is all that the shell sees of it; nothing would be a success."""
    assert main(["cluster-env", "nowhere"]) == 2
    said = capsys.readouterr()
    assert "no site at" in said.err
    assert subprocess.run(["/bin/bash", "-c", 'eval "$1"', "bash", said.out]).returncode == 1


def test_the_site_that_ships_loads_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster-env", "example"]) == 0
    assert "export MOMU_CLUSTER=example\n" in capsys.readouterr().out
    assert site_name("example") == "example" and load_site("example").sbatch["partition"] == "gpu"
    # A job may run where a relative path means another file.
    assert site_name("mine/site.yaml") == str(Path.cwd() / "mine" / "site.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sbatch: {time: 24:00:00}", "expected a text in quotes"),
        ("sbatch: {time: 90}", "for minutes"),
        ('sbatch: {partition: "a\\nb"}', "control characters"),
        ('sbatch: {partition: ""}', "not empty"),
        ("sbatch: {partition: true}", "sbatch.partition is true, expected a value"),
        ("sbatch: {partition: null}", "sbatch.partition is empty, expected a text or a whole number"),
        ("sbatch: {mem: [64G]}", "sbatch.mem is ['64G'], expected a text or a whole number"),
        ("sbatch: {mem: 64.5}", "sbatch.mem is 64.5, expected a text or a whole number"),
        ("sbatch: [mem]", "sbatch is ['mem'], expected a mapping"),
        ("sbatch: {2: x}", "sbatch.2 is 2, expected a text, in quotes"),
        ("sbatch: {partition=gpu}", "sbatch.partition=gpu cannot be set for a site"),
        ("sbatch: {nodes: 2}", "cannot be set for a site: use --nodes"),
        ("sbatch: {comment: x}", "cannot be set for a site: give it to sbatch"),
        ("sbatch: {clusters: a}", "cannot be set for a site: a site is one cluster"),
        ("sbatch: {signal: USR1@60}", "expected B:USR2@SECONDS"),
        ('env: {NCCL_DEBUG: "a\\tb"}', "env.NCCL_DEBUG"),
        ("env: {NCCL_DEBUG: 1}", "env.NCCL_DEBUG is a number, expected a text, in quotes"),
        ("env: {on: x}", "a key of env is true or false, expected `name: value`"),
        ("env: {A: x, TOKEN=abc}", "a key of env is a text of 9 characters without a value"),
        ("env: {A: }", "a key of env is a text of 1 character without a value, expected `name: value`"),
        ("env: {A: }", 'or "" for an empty text.'),
        ("env: TOKEN=abc", "env is a text of 9 characters, expected a mapping"),
        ('env: {"A B": x}', "a key of env is a text of 3 characters, expected `name: value`"),
        ("env: {A-B: x}", "env.A-B is not the name of a variable"),
        ('env: {"ÄB": x}', "is not the name of a variable"),
        ("env: {TMPDIR: /local}", "env.TMPDIR cannot be set for a site"),
        ("scratch: tmp", "expected an absolute path"),
        ("stage_data: perhaps", "stage_data is 'perhaps', expected true or false"),
        (
            "tracking_uri: runs/mlflow",
            "tracking_uri is a text of 11 characters, expected sqlite:///<file>, http",
        ),
        (
            "{tracking_uri: 'http://a', env: {MLFLOW_TRACKING_URI: 'http://b'}}",
            "env.MLFLOW_TRACKING_URI and tracking_uri",
        ),
        ("sbtch: {}", "unknown key sbtch; valid here: sbatch, env"),
        ("sbtch:", "a key is a text of 5 characters without a value, expected `name: value`"),
        ("'tracking_uri=http://me:hush@h': x", "valid here: sbatch, env"),
    ],
)
def test_a_mistake_in_a_site_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"site\.yaml") as error:
        load_site(str(path))
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "sbatch:\nenv:\n", "sbatch: {}\nenv: {}\n"])
def test_a_site_and_its_sections_may_be_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    assert load_site(str(path)) == Site()


def test_a_scratch_is_too_long_for_a_user_with_a_long_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("scratch: /local/scratch/mine")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert load_site(str(path)).scratch == "/local/scratch/mine"
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567_890)
    with pytest.raises(ConfigError, match="at most 17 characters"):
        load_site(str(path))


def test_an_unknown_site_names_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match="there are: .*example"):
        load_site("nowhere")
