"""What submitit writes for us, what sbatch gets, and what becomes of it in a job. sbatch here is a script that takes notes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from momu_dist.cli import main
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError, MomuError
from momu_dist.launch.facts import read_record
from momu_dist.launch.submit.plan import Element, Submission, plan_hold
from momu_dist.launch.submit.slurm import job_options, render, submit

REPOSITORY = Path(__file__).parents[4]
GOLDEN = Path(__file__).parent / "golden"
NASTY = """a b'c"d;$(touch no)`touch no`&|<>*?#\\e"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a name that no shell takes as it is, to submit from, with the demo's configs and a site in it."""
    folder = tmp_path / "a b'c; $(touch no)"
    for path in (REPOSITORY / "configs" / "demo").glob("*.yaml"):
        target = folder / "my configs" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    site = {"partition": NASTY, "account": "it's", "gpus-per-node": 2, "exclusive": True, "time": "1-0"}
    (folder / "site.yaml").write_text(json.dumps({"sbatch": site}))
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("SBATCH_", "MOMU_CLUSTER", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    silent = tmp_path / "silent"  # a cluster that this machine may be of is not asked
    silent.mkdir()
    for name in ("squeue", "sacct", "sinfo"):
        (silent / name).write_text("#!/bin/sh\nexit 1\n")
        (silent / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{silent}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs srun and sbatch; each script that sbatch is given, and what it saw, lies in this folder by its number."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    # Numbers go up by ten.
    (folder / "sbatch").write_text(
        f"""#!/bin/bash
cd {shlex.quote(str(folder))} || exit 1
[[ ! -e refuse ]] || {{ echo "sbatch: error: invalid partition" >&2; exit 1; }}
number=$(( ($(ls ./*.script 2>/dev/null | wc -l) + 1) * 10 ))
cp -- "$OLDPWD/$1" $number.script 2>/dev/null || cp -- "$1" $number.script
env | grep -E '^(SBATCH|SLURM)_' > $number.env
echo "Submitted batch job $number"
"""
    )
    (folder / "srun").write_text("#!/bin/sh\nexit 1\n")
    for name in ("sbatch", "srun"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def golden(name: str, checkout: Path) -> str:
    """Return a golden text with the paths of this machine, quoted as a shell wants them, in place of their names."""
    text = (GOLDEN / f"{name}.txt").read_text()
    text = text.replace("{python}", shlex.quote(sys.executable))
    text = text.replace("{site}", shlex.quote(str(checkout / "site.yaml")))
    return text.replace("{submitted}", shlex.quote(str(checkout / "runs" / "slurm" / "submitted")))


COMMANDS = {
    "stage": ["dit_a2m", "--config", "my configs/dit_a2m.yaml", "--nodes", "2", "name=two_nodes"],
    "hostile": [
        "--cluster", "site.yaml", "--sbatch", f"comment={NASTY}", "dit_a2m", "--config", "my configs",
        f"out={json.dumps(NASTY)}", "--sbatch", "time=2:00:00", "--after", "7", "--after", "8_1",
        "--sweep", "data.latents=" + json.dumps(NASTY) + ",b",
    ],
    "chain": ["chain", "--config", "my configs", "--after", "5"],
    "evaluate": ["evaluate", "checkpoint=runs/a b", "data=d", "--sweep", "guidance=1,2.5", "--after", "5"],
    "hold": ["hold", "--cluster", "example"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_prints_what_sbatch_would_get(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--dry-run", *COMMANDS[name]]) == 0
    assert capsys.readouterr().out == golden(name, checkout)
    assert not (checkout / "runs").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_submitted_is_what_a_dry_run_shows(
    name: str,
    checkout: Path,
    slurm: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "of another site")
    assert main(["submit", *COMMANDS[name]]) == 0
    said = capsys.readouterr().out
    assert "note: SBATCH_PARTITION of this shell is not used" in said
    expected = golden(name, checkout)
    numbers = [int(path.stem) for path in slurm.glob("*.script")]
    for number, job in zip(sorted(numbers), ("music_vae", "motion_vae", "latents"), strict=False):
        expected = expected.replace(f"'afterok:<{job}>'", f"afterok:{number}")
    for number in numbers:
        assert (slurm / f"{number}.script").read_text() in expected
        assert (slurm / f"{number}.env").read_text() == ""
        assert f"{number}  " in said
    assert os.environ["SBATCH_PARTITION"] == "of another site"
    assert len(numbers) == expected.count("#!/bin/bash")


def test_nothing_of_a_job_in_whose_shell_one_submits_reaches_the_new_one(
    checkout: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM sets anew only what the new one has: it would take itself for an element of the other one's array."""
    for name in (
        "SLURM_JOB_ID",
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_RESTART_COUNT",
        "SLURM_CPU_BIND",
    ):
        monkeypatch.setenv(name, "3")
    reach = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CONF_SERVER": "ctl1:6817"}
    for name, value in reach.items():
        monkeypatch.setenv(name, value)
    assert main(["submit", *COMMANDS["hold"]]) == 0
    left = (slurm / "10.env").read_text().splitlines()
    assert sorted(left) == [f"{name}={value}" for name, value in reach.items()]
    assert os.environ["SLURM_ARRAY_JOB_ID"] == "3"


@pytest.mark.parametrize(
    ("uri", "given", "noted"),
    [
        (None, [], True),
        ("http://login01:5000", [], False),
        ("http://login01:5000", ["tracking.uri=sqlite:///x.db"], True),
        (None, ["tracking.uri=none"], False),
    ],
)
def test_runs_beside_each_other_that_would_write_to_one_file_are_noted(
    uri: str | None, given: list[str], noted: bool, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "tracked.yaml").write_text(json.dumps({"tracking_uri": uri}))
    sweep = ["dit_a2m", "--config", "my configs", "--sweep", "seed=0,1"]
    assert main(["submit", "--dry-run", "--cluster", "tracked.yaml", *sweep, *given]) == 0
    assert ("write to one sqlite file" in capsys.readouterr().out) == noted


def test_what_cluster_env_has_exported_of_the_same_site_is_no_note(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", NASTY)
    monkeypatch.setenv("SBATCH_GPUS_PER_NODE", "2")
    monkeypatch.setenv("SBATCH_ACCOUNT", "another")
    monkeypatch.setenv("SBATCH_QOS", "high")
    hold = ["submit", "--dry-run", "hold", "--cluster"]
    assert main([*hold, "site.yaml"]) == 0
    noted = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert noted == ["SBATCH_ACCOUNT", "SBATCH_QOS"]
    monkeypatch.setenv("MOMU_CLUSTER", "site.yaml")
    assert main([*hold, ""]) == 0  # no site, as for the doctor
    said = capsys.readouterr().out
    assert "note: SBATCH_PARTITION of this shell is not used" in said and "partition=" not in said


@pytest.mark.parametrize(
    ("arguments", "noted"),
    [
        (["--nodes", "3"], "(main 2)"),
        (["--nodes", "2"], None),
        (["--nodes", "4", "--sbatch", "partition=gpu"], None),
        (["--nodes", "5", "--sbatch", "partition=gpu,main"], "(main 2, gpu 4)"),
        (["--nodes", "5", "--sbatch", "partition=unknown"], None),
    ],
)
def test_more_nodes_than_the_partition_has_are_noted(
    arguments: list[str], noted: str | None, checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (slurm / "sinfo").write_text("#!/bin/sh\necho 'main*|2'\necho 'gpu|4'\n")
    (slurm / "sinfo").chmod(0o755)
    assert main(["submit", "--dry-run", "hold", *arguments]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(said) == (noted is not None) and (noted or "") in "".join(said)


def test_data_that_is_there_needs_no_note(
    checkout: Path, prepared: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--dry-run", *COMMANDS["stage"], f"data.root={prepared.root}"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_a_chain_says_what_follows_what(
    checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *COMMANDS["chain"]]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note")]
    assert said == [
        "10  music_vae, after 5; log slurm-music_vae-10.out",
        "20  motion_vae, after 10; log slurm-motion_vae-20.out",
        "30  latents, after 20; log slurm-latents-30.out",
        "40  dit_m2a, after 30; log slurm-dit_m2a-40.out",
        "50  dit_a2m, after 30; log slurm-dit_a2m-50.out",
        "momu status says how they fare, momu logs JOB shows a log.",
    ]


def test_what_is_submitted_is_written_down(checkout: Path, slurm: Path) -> None:
    """Of a job that is taken out of the queue before it begins there is nothing else."""
    login = "tracking.uri=http://me:secret@host"
    assert main(["submit", *COMMANDS["chain"]]) == 0
    assert main(["submit", "--dry-run", *COMMANDS["chain"]]) == 0
    assert main(["submit", "dit_a2m", "--config", "my configs", "name=mine", login]) == 0
    assert main(["submit", "dit_a2m", "--config", "my configs", "--sweep", "seed=0,1"]) == 0
    records = {number: read_record(str(number)) for number in range(10, 80, 10)}
    found = [(one.name, one.after, one.elements) for one in records.values() if one]
    assert found == [
        ("music_vae", ("5",), ()), ("motion_vae", ("10",), ()), ("latents", ("20",), ()), ("dit_m2a", ("30",), ()),
        ("dit_a2m", ("30",), ()), ("mine", (), ()), ("dit_a2m", (), ("dit_a2m-seed-0", "dit_a2m-seed-1")),
    ]  # fmt: skip
    words = ("train", "--config", "my configs/dit_a2m.yaml", "name=mine", "tracking.uri=http://***@host")
    assert records[60] is not None and records[60].work == words
    assert abs(datetime.now().astimezone() - records[60].submitted) < timedelta(minutes=5)


def test_a_job_whose_record_cannot_be_written_is_submitted_all_the_same(
    checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "runs" / "slurm").mkdir(parents=True)
    (checkout / "runs" / "slurm" / "10").touch()
    assert main(["submit", *COMMANDS["stage"]]) == 0
    said = capsys.readouterr().out
    assert "note: runs/slurm/10 cannot be written" in said and "10  two_nodes" in said


# Stands for momu_dist.launch: says what it was called with, and which process it is.
SHOWN = """import json, os, signal, sys
print(json.dumps({
    "arguments": sys.argv[1:], "process": os.getpid(), "site": os.environ.get("MOMU_CLUSTER"), "folder": os.getcwd(),
    "path": os.environ.get("PYTHONPATH"), "home": os.environ.get("PYTHONHOME"),
    "default": all(signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)),
}))
"""


def run_script(script: Path, folder: Path, **variables: str) -> tuple[int, dict[str, Any]]:
    """Run a submitted script as SLURM would, from a copy; return the number of its process and what SHOWN says."""
    env = {**os.environ, **variables, "PYTHONPATH": str(folder / "shadows"), "PYTHONHOME": "/nowhere"}
    with subprocess.Popen(
        ["/bin/bash", str(script)], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    return process.pid, json.loads(out.splitlines()[-1])


def test_the_batch_script_becomes_the_program_with_its_words_untouched(checkout: Path, slurm: Path) -> None:
    """The signal of --signal=B: goes to the batch script alone, so it must be this very process."""
    (checkout / "shown.py").write_text(SHOWN)
    words = ("--config", NASTY, f"out={NASTY}", "line\nbreak", "", "-x")
    job = Submission("one", (Element("one", ("shown", *words)),))
    done = submit(job, job_options(job, []), NASTY)
    assert (done.job_id, done.elements) == ("10", ("10",))
    for restart in ({}, {"SLURM_RESTART_COUNT": "1"}):  # a requeued job runs the same script again
        pid, shown = run_script(slurm / "10.script", checkout, SLURM_JOB_ID="10", **restart)
        assert shown == {
            "arguments": list(words),
            "process": pid,
            "site": NASTY,
            "folder": str(checkout),
            "path": None,
            "home": None,
            "default": True,
        }
    assert not list(checkout.rglob("no"))


def test_each_element_of_an_array_gets_its_own_words(checkout: Path, slurm: Path) -> None:
    (checkout / "shown.py").write_text(SHOWN)
    job = Submission("many", tuple(Element(f"run-{n}", ("shown", f"name=run-{n}")) for n in range(2)))
    done = submit(job, job_options(job, []), None)
    assert (done.job_id, done.elements) == ("10", ("10_0", "10_1"))
    variables = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "1"}
    pid, shown = run_script(slurm / "10.script", checkout, **variables)
    assert (shown["arguments"], shown["process"], shown["site"]) == (["name=run-1"], pid, None)


def test_a_job_that_is_refused_says_what_was_submitted_before_it(
    checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (slurm / "sbatch").read_text()
    (slurm / "sbatch").write_text(script.replace('echo "Submitted', 'touch refuse; echo "Submitted'))
    assert main(["submit", *COMMANDS["chain"]]) == 2
    said = capsys.readouterr().err
    assert (
        "sbatch refused the job motion_vae: sbatch: error: invalid partition (submitted before it: 10)"
        in said
    )


def test_without_slurm_nothing_is_written(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    job = plan_hold()[0]
    with pytest.raises(MomuError, match="no SLURM here"):
        submit(job, job_options(job, []), None)
    assert not (checkout / "runs").exists()


def test_a_folder_whose_name_slurm_would_change(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "100%j").mkdir()
    monkeypatch.chdir(checkout / "100%j")
    with pytest.raises(ConfigError, match="holds a %"):
        render(plan_hold()[0], {}, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "cannot submit 'nothing'; valid: music_vae"),
        (["motion_vea"], "cannot submit 'motion_vea', did you mean motion_vae; valid: music_vae"),
        (["hold", "--sbatch", "test-only"], "--sbatch test-only cannot be set here; use --dry-run"),
        (["hold", "--sbatch", "quiet"], "--sbatch quiet cannot be set here; momu submit reads"),
        (["dit_a2m", "train.workers=x"], "train.workers is 'x'"),
        (["dit_a2m", 'name="a;b"'], "name is 'a;b'"),
        (["dit_a2m", 'name="a\\nb"'], "name is"),
        (["dit_a2m", "--after", "7;id"], "--after is '7;id'"),
        (["dit_a2m", "--nodes", "0"], "--nodes is 0"),
        (["dit_a2m", "--sbatch", "comment=a\nb"], "control characters"),
        (["dit_a2m", "--cluster", "nowhere"], "no site at"),
        (["chain", "--sweep", "seed=1,2"], "--sweep goes with one stage"),
        (["hold", "seed=1"], "hold reads no config"),
        (["dit_a2m", "--failure-budget", "-1"], "--failure-budget is -1"),
        (["evaluate", "checkpoint=x", "data=d", "--nodes", "2"], "an evaluation is one process"),
    ],
)
def test_a_mistake_is_one_sentence_and_submits_nothing(
    arguments: list[str], said: str, checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [] if arguments[0] in ("hold", "nothing", "evaluate") else ["--config", "my configs"]
    assert main(["submit", *config, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(slurm.glob("*.script"))


@pytest.mark.parametrize("what", ["dit_a2m", "hold"])
def test_a_failure_budget_goes_to_the_launcher(
    what: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [] if what == "hold" else ["--config", "my configs", "seed=1"]
    assert main(["submit", "--dry-run", what, *config, "--failure-budget", "5"]) == 0
    assert f"momu_dist.launch {'train' if what == 'dit_a2m' else what} " in (said := capsys.readouterr().out)
    assert said.splitlines()[-2].endswith(" --failure-budget=5")


def test_an_evaluation_has_no_failure_budget(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "checkpoint=x", "data=d", "--failure-budget", "5"]
    assert main(["submit", "--dry-run", *given]) == 2
    assert "evaluate does not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sbatch", "gpus-per-node=2"], True),
        (["--sbatch", "gres=gpu:a100:2"], True),
        (["--cluster", "site.yaml"], True),
        (["--cluster", "site.yaml", "--sbatch", "gpus-per-node=0"], False),
        (["--cluster", "site.yaml", "train.device=auto"], False),
        (["--sbatch", "gres=nvme:1"], False),
        ([], False),
    ],
    ids=str,
)
def test_gpus_that_a_run_on_cpus_leaves_idle_are_said(
    options: list[str], said: bool, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--dry-run", "dit_a2m", "--config", "my configs", *options]) == 0
    note = "note: the GPUs of dit_a2m will not be used: train.device is cpu."
    assert (note in capsys.readouterr().out) is said


def test_an_evaluation_is_refused_before_the_queue_if_it_could_not_begin(
    checkout: Path, slurm: Path, prepared: Manifest, tiny_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"checkpoint": tiny_runs / "dit_a2m", "data": prepared.root}
    bad: list[tuple[dict[str, object], str]] = [
        ({"checkpoint": "runs/none"}, "no trained model at runs/none"),
        ({"checkpoint": tiny_runs / "music_vae"}, "no diffusion transformer under"),
        ({"checkpoint": "models:/none@champion"}, "no MLflow store at"),
        ({"data": "data/none"}, "no prepared data at data/none"),
        ({"sampler": "dim"}, "sampler is 'dim', expected one of"),
        ({"n": 0}, "-n is 0"),
        ({"sweep": "steps=5,2000"}, "steps is 2000"),
        ({"sweep": "data=data/none"}, "no prepared data at data/none"),
    ]
    for changed, said in bad:
        given = {**good, **changed}
        sweep = ["--sweep", str(given.pop("sweep"))] if "sweep" in given else []
        words = [f"{name}={value}" for name, value in given.items() if not (sweep and name == "data")]
        words += [f"data={prepared.root}"] if sweep and "data" not in sweep[1] else []
        assert main(["submit", "evaluate", *words, *sweep]) == 2
        assert said in capsys.readouterr().err
    assert not list(slurm.glob("*.script"))
    assert main(["submit", "evaluate", *[f"{name}={value}" for name, value in good.items()]]) == 0
    assert "note" not in capsys.readouterr().out


def test_a_job_is_not_submitted_after_one_that_has_failed(
    checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor after one that was removed from the queue, as far as that is known; after any other it may be."""
    for job, ended in {"5": {"code": 2, "why": "no config"}, "6": {"code": 0, "why": "done"}}.items():
        path = checkout / "runs" / "slurm" / job / "status.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"ended": ended}))
    (slurm / "squeue").write_text("#!/bin/sh\n")
    (slurm / "sacct").write_text(
        "#!/bin/sh\necho '7|CANCELLED by 0|None assigned|x'\necho '8|COMPLETED|n|x'\n"
    )
    for name in ("squeue", "sacct"):
        (slurm / name).chmod(0o755)
    for job, how in {"5": "ENDED(2), no config", "7": "CANCELLED"}.items():
        for more in ([], ["--dry-run"]):
            assert main(["submit", "hold", "--after", "6", "--after", job, *more]) == 2
            said = capsys.readouterr().err
            assert f"--after {job}: that job has ended without success ({how}), so" in said
    assert not list(slurm.glob("*.script"))
    assert main(["submit", "hold", "--after", "6", "--after", "8", "--after", "9"]) == 0
    (slurm / "squeue").write_text("#!/bin/sh\necho '5|5|PENDING|1|BeginTime|x'\n")
    assert main(["submit", "hold", "--after", "5"]) == 0


def test_an_evaluation_is_read_by_its_own_parser_first(
    checkout: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "evaluate", "checkpoint=x", "data=d", "guidance=high"]) == 2
    said = capsys.readouterr().err
    assert "invalid float value: 'high'" in said and "here each is key=value, such as checkpoint=" in said
    assert not list(slurm.glob("*.script"))
