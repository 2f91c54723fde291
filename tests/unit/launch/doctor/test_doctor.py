"""Who is asked, what becomes of a machine that does not answer, and `momu doctor` itself, with an srun made of shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from momu_dist.cli import main
from momu_dist.errors import ConfigError
from momu_dist.launch.doctor import nodes as doctor
from momu_dist.launch.doctor.finding import Finding
from momu_dist.launch.doctor.nodes import Where, clock_finding, examine, where, with_unlike_versions
from momu_dist.launch.sbatch import JOB
from momu_dist.launch.sites import Site

CHECKOUT = Path(__file__).parents[4]

SRUN = r"""#!/bin/bash
# Runs the command once for each node, beside each other; $MUTE does not start, and $PROLOG is printed by the site.
printf '%s\n' "$@" > "$FAKE/asked"
nodes=1
while [[ "$1" == --* ]]; do [[ "$1" == --nodes=* ]] && nodes="${1#--nodes=}"; shift; done
[[ -n "$REFUSE" ]] && { echo "srun: error: $REFUSE" >&2; exit 1; }
echo "$PROLOG"
for n in $(seq "$nodes"); do
    if [[ "node$n" == "$MUTE" ]]; then sleep 600 & else SLURMD_NODENAME="node$n" "$@" & fi
done
wait
"""
SCONTROL = "#!/bin/bash\n[[ \"$3\" == 'node[1-3]' ]] && printf 'node1\\nnode2\\nnode3\\n'\n"

# Stands for the program on a node: one finding, then the end, unless it is to hang or to live in another time or place.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
node = os.environ["SLURMD_NODENAME"]
def say(**what):
    record = dict(node=node, time=time.time() + float(os.environ.get("AHEAD_" + node, 0)), **what)
    sys.stdout.write(json.dumps(record) + "\\n")
    sys.stdout.flush()
say(check="program")
say(check="memory", finding=dict(check="memory", level="fine", what="8 GB", advice=""))
arguments = sys.argv[1:]
for folder in [value for name, value in zip(arguments, arguments[1:]) if name == "--shared"]:
    if node != os.environ.get("APART"):
        token = (pathlib.Path(folder) / "doctor").read_text()
        (pathlib.Path(folder) / ("node-" + node)).write_text(token)
    say(check="shared folders", finding=dict(check="shared folders", level="fine", what="good", advice=""))
if node == os.environ.get("HANG"):
    say(check="gpus")
    time.sleep(600)
say(done=True)
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs `srun` and `scontrol` on PATH; no job. Returns the folder that holds `asked`, the options srun was given."""
    for name, text in (
        ("srun", SRUN),
        ("scontrol", SCONTROL),
        ("program", PROGRAM.format(python=sys.executable)),
    ):
        path = tmp_path / "fake" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("SLURM", "MOMU_CLUSTER"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{tmp_path / 'fake'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path / "fake"))
    return tmp_path / "fake"


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH that holds what this machine has but SLURM."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("bash", "c++", "g++", "ninja"):
        found = shutil.which(name)
        if found:
            (bin_folder / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.delenv("MOMU_CLUSTER", raising=False)


@pytest.fixture
def quick(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(slurm / "program"))
    monkeypatch.setattr(doctor, "UNSEEN_S", 0.5)


def wrong(found: dict[str, list[Finding]]) -> dict[str, list[str]]:
    return {n: [f.what for f in all_ if f.level == "wrong"] for n, all_ in found.items()}


def test_this_machine_where_there_is_no_slurm(no_slurm: None) -> None:
    place = where(Site(), None, os.environ)
    assert place.prefix == () and "no SLURM" in place.note
    with pytest.raises(ConfigError, match="no srun"):
        where(Site(), 2, os.environ)


def test_this_machine_on_a_login_node_without_a_site(slurm: Path) -> None:
    place = where(None, None, os.environ)
    assert place.prefix == () and "no --cluster" in place.note
    with pytest.raises(ConfigError, match="no --cluster"):
        where(None, 2, os.environ)


def test_a_site_asks_with_its_options(slurm: Path) -> None:
    site = Site(sbatch={"partition": "gpu", "gpus-per-node": 4, "time": "24:00:00", "exclusive": True})
    place = where(site, 2, os.environ)
    assert place.waits and place.count == 2 and place.nodes == ()
    assert {"--partition=gpu", "--gpus-per-node=4", "--exclusive=exclusive", "--nodes=2", "--time=10"} <= set(
        place.prefix
    )
    assert "--time=24:00:00" not in place.prefix and "--overlap" not in place.prefix
    # Memory and ports are judged by what jobs will have.
    assert f"--cpus-per-task={JOB['cpus-per-task']}" in place.prefix


def test_a_job_asks_all_its_nodes(slurm: Path) -> None:
    job = {
        **os.environ,
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_CPUS_PER_NODE": "8,6(x2)",
    }
    place = where(Site(sbatch={"partition": "gpu"}), None, job)
    assert place.nodes == ("node1", "node2", "node3") and "--overlap" in place.prefix and not place.waits
    assert "--partition=gpu" not in place.prefix and "--ntasks-per-node=1" in place.prefix
    assert "--cpus-per-task=6" in place.prefix
    with pytest.raises(ConfigError, match="3 nodes"):
        where(None, 2, job)


@pytest.mark.usefixtures("quick")
def test_the_environment_is_that_of_the_launchers_steps(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm / "srun").write_text(SRUN.replace("nodes=1\n", 'env > "$FAKE/variables"\nnodes=1\n', 1))
    monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    monkeypatch.setenv("SLURM_GPUS", "8")
    examine(in_job(), [], [tmp_path], 20)
    variables = (slurm / "variables").read_text()
    assert "FAKE=" in variables and "SLURM_EXPORT_ENV=" not in variables and "SLURM_GPUS=" not in variables


def in_job(names: tuple[str, ...] = ("node1", "node2", "node3")) -> Where:
    return Where(("srun", f"--nodes={len(names)}"), names, len(names))


@pytest.mark.usefixtures("quick")
def test_all_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROLOG", 'welcome to {"node": 3}')
    found = examine(in_job(), [], [tmp_path], 20)
    assert list(found) and set(found) == {"node1", "node2", "node3"}
    assert wrong(found) == {"node1": [], "node2": [], "node3": []}
    assert {f.check for f in found["node2"]} == {"memory", "shared folders", "clock"}
    assert [path.name for path in tmp_path.iterdir()] == ["fake"]


@pytest.mark.usefixtures("quick")
def test_a_node_that_does_not_answer_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTE", "node2")
    began = time.monotonic()
    found = examine(in_job(), [], [tmp_path], 3)
    assert time.monotonic() - began < 30
    said = wrong(found)
    assert said["node1"] == said["node3"] == [] and "does not answer" in said["node2"][0]


@pytest.mark.usefixtures("quick")
def test_a_node_that_hangs_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANG", "node3")
    said = wrong(examine(in_job(), [], [tmp_path], 3))
    assert said["node1"] == [] and "hung in the check of gpus" in said["node3"][0]


@pytest.mark.usefixtures("quick")
def test_srun_that_gives_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so at once: nobody has waited, and no node is at fault."""
    monkeypatch.setenv("REFUSE", "Unable to allocate resources: Invalid partition name specified")
    began = time.monotonic()
    found = examine(Where(("srun", "--nodes=2"), (), 2, waits=True), [], [tmp_path], 20)
    assert time.monotonic() - began < 15 and list(found) == ["SLURM"]
    (finding,) = found["SLURM"]
    assert (
        finding.level == "wrong" and "Invalid partition name" in finding.what and "waited" not in finding.what
    )
    assert "options of the site, such as the partition" in finding.advice and "node" not in finding.advice


@pytest.mark.usefixtures("quick")
def test_a_program_that_does_not_start_on_the_nodes_is_not_for_want_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSE", "node1: task 0: Exited with exit code 1")
    said = wrong(examine(Where(("srun", "--nodes=2"), (), 2, waits=True), [], [tmp_path], 20))
    assert len(said) == 2 and all("does not answer; srun says:" in texts[0] for texts in said.values())


@pytest.mark.usefixtures("quick")
def test_a_step_that_ends_before_its_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSE", "Job credential expired")
    said = wrong(examine(in_job(("node1",)), [], [tmp_path], 20))
    assert said == {"node1": ["does not answer; srun says: srun: error: Job credential expired"]}


@pytest.mark.usefixtures("quick")
def test_a_clock_that_is_wrong_and_a_disk_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHEAD_node1", "45")
    monkeypatch.setenv("AHEAD_node2", "-10")
    monkeypatch.setenv("APART", "node3")
    found = examine(in_job(), [], [tmp_path], 20)
    said = wrong(found)
    assert "45 s ahead of" in said["node1"][0] and "not seen here" in said["node3"][0] and said["node2"] == []
    assert any("10 s behind" in f.what and f.level == "warning" for f in found["node2"])


def test_clock() -> None:
    assert [clock_finding(s).level for s in (0, -1.9, 3, -29, 31, -400)] == [
        "fine", "fine", "warning", "warning", "wrong", "wrong",
    ]  # fmt: skip


def test_nodes_with_unlike_packages_are_wrong() -> None:
    def of(version: str) -> list[Finding]:
        return [Finding("versions", "fine", f"torch {version}")]

    assert wrong(with_unlike_versions({"a": of("2.13.0"), "b": of("2.13.0")})) == {"a": [], "b": []}
    assert all(wrong(with_unlike_versions({"a": of("2.13.0"), "b": of("2.11.0")})).values())


def doctor_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    try:
        code = main(["doctor", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.usefixtures("quick")
def test_the_command_asks_a_site(
    slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site.yaml").write_text("sbatch: {partition: gpu}\n")
    monkeypatch.chdir(tmp_path)
    code, text = doctor_of(capsys, "--cluster", "site.yaml", "--nodes", "2")
    assert code == 0 and "all 2 nodes  8 GB" in text and "0 wrong, 0 warnings, 3 fine" in text
    asked = (slurm / "asked").read_text().splitlines()
    assert "--partition=gpu" in asked and "--cluster=site.yaml" in asked
    monkeypatch.setenv("MOMU_CLUSTER", "site.yaml")
    code, text = doctor_of(capsys, "--nodes", "2")
    assert code == 0 and "--cluster=site.yaml" in (slurm / "asked").read_text().splitlines()
    code, text = doctor_of(capsys, "--cluster", "")
    assert "this machine only" in text
    monkeypatch.setenv("HANG", "node2")
    code, text = doctor_of(capsys, "--cluster", "site.yaml", "--nodes", "2", "--silent", "2")
    assert code == 1 and "wrong  " in text and "node2" in text and "1 wrong" in text


def test_mistakes_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_of(capsys, "--nodes", "0")[0] == 2
    assert doctor_of(capsys, "train.workers=2")[0] == 2
    assert doctor_of(capsys, "--cluster", "nowhere")[0] == 2


@pytest.mark.parametrize("seconds", ["-1", "0", "inf", "nan", "1e300"])
def test_a_silence_that_is_no_time(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = doctor_of(capsys, "--silent", seconds)
    assert code == 2 and f"error: --silent is {float(seconds):g}, expected more than 0 s" in text


@pytest.mark.usefixtures("no_slurm")
def test_the_command_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real program with a real config, whose data is not there: that alone is wrong."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    config = CHECKOUT / "configs" / "demo" / "dit_a2m.yaml"
    code, text = doctor_of(capsys, "--config", str(config), f"out={tmp_path}", f"data.root={tmp_path}/none")
    lines = {line.split()[1]: line.split()[0] for line in text.splitlines()[1:-1]}
    assert code == 1 and "this machine only (there is no SLURM here)" in text
    assert lines.pop("data") == "wrong" and "no prepared data at" in text
    assert set(lines.values()) <= {"fine", "warning"}, text
    named = {
        "versions",
        "loading",
        "gpus",
        "interfaces",
        "address",
        "compiler",
        "ports",
        "scratch",
        "shared",
        "open",
    }
    assert named | {"memory", "disk", "tracking"} == set(lines)
    assert not list((tmp_path / "temporary").iterdir())


def test_what_hangs_on_a_node_and_is_given_up_on_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import time; from momu_dist.launch.doctor import checks; "
        "checks.all_checks = lambda options: [('hung', lambda: time.sleep(600))]; checks.main([])"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any('"hung"' in line for line in process.stdout)
        assert list(tmp_path.iterdir())
        process.terminate()
    assert not list(tmp_path.iterdir())


def test_the_real_program_on_two_nodes(slurm: Path, tmp_path: Path) -> None:
    """By the fake srun, from a folder that both see."""
    done = subprocess.run(
        [sys.executable, "-m", "momu_dist.cli", "doctor"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": "node[1-3]",
        },
        capture_output=True,
        text=True,
    )
    assert "all 3 nodes" in done.stdout and "shared folders" in done.stdout, done.stderr
    assert done.returncode == 0 and " 0 wrong" in f" {done.stdout.splitlines()[-1]}", done.stdout
