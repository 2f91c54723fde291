"""What a job tells of itself, and what it takes over from the attempts before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from momu_dist.errors import ConfigError
from momu_dist.launch.facts import Ended, Facts, Node, read_facts
from momu_dist.launch.status import Status, job_folder, own_status


def opened(folder: Path) -> Status:
    return Status(folder / "status.json").open(7, "momu", ["train"])


def on_disk(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "status.json").read_text())
    return found


def test_an_attempt_knows_those_before_it(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.restarted(0)
    first.set(failures=2)
    first.end(75, "saved", requeued=True)
    second = opened(tmp_path)
    assert on_disk(tmp_path)["ended"] is None  # from its first moment on
    second.restarted(1)
    third = opened(tmp_path)
    third.restarted(2)
    assert [one["restart"] for one in third.facts["before"]] == [0, 1]
    assert third.failures == 2 and third.facts["before"][0]["ended"]["why"] == "saved"


def test_an_attempt_that_died_before_it_knew_its_number_forgets_no_failures(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.restarted(0)
    first.set(failures=3)
    opened(tmp_path)
    third = opened(tmp_path)
    third.restarted(2)
    assert third.failures == 3


def test_the_first_attempt_of_a_job_knows_none_of_an_older_job_of_its_number(tmp_path: Path) -> None:
    """As on a cluster that was set up anew."""
    older = opened(tmp_path)
    older.set(failures=3)
    older.end(1, "long ago")
    assert on_disk(tmp_path)["ended"]
    job = opened(tmp_path)
    job.restarted(0)
    assert on_disk(tmp_path)["ended"] is None and job.facts["before"] == [] and job.failures == 0


def test_others_read_all_that_a_job_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status = opened(job_folder(tmp_path, "7"))
    assert Facts.model_fields.keys() <= status.facts.keys()
    facts = read_facts("7")
    assert (facts.name, facts.work, facts.phase, facts.ended) == ("momu", ("train",), "start", None)
    status.set(nodes=[{"name": "n1", "cpus": 4}], total_steps=9)
    status.phase("ended")
    status.end(75, "saved", "rank 1", requeued=True)
    assert Ended.model_fields.keys() == status.facts["ended"].keys()
    facts = read_facts("7")
    assert facts.ended == Ended(code=75, why="saved", first_failure="rank 1", requeued=True)
    assert (facts.nodes, facts.phase, facts.total_steps) == ((Node(name="n1"),), "ended", 9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"job": 7}',
        '{"job": 7, "failures": "x", "reached": 1, "before": []}',
        '{"job": 7, "failures": 1, "reached": "x", "before": []}',
        '{"job": 7, "failures": 1, "reached": 1, "before": 3}',
        '{"job": 7, "failures": 1, "reached": 1, "before": [3]}',
        '{"job": 8, "failures": 1, "reached": 1, "before": []}',
    ],
    ids=lambda text: text[:50],
)
def test_a_file_that_is_none_of_ours_tells_of_no_attempt(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    status = opened(tmp_path)
    status.restarted(1)
    assert status.facts["before"] == [] and status.failures == 0


def test_what_is_no_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    opened(tmp_path).restarted(1)
    assert on_disk(tmp_path)["restart"] == 1


def test_a_job_opens_its_own_in_the_folder_it_was_submitted_from(tmp_path: Path) -> None:
    env = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NAME": "train_dit", "SLURM_SUBMIT_DIR": str(tmp_path)
    }  # fmt: skip
    status = own_status(["train", "tracking.uri=http://me:secret@login01:5000"], env)
    assert status.path == tmp_path / "runs" / "slurm" / "7" / "status.json"
    found = on_disk(status.path.parent)
    assert (found["job"], found["name"], found["phase"]) == (7, "train_dit", "start")
    assert found["work"] == ["train", "tracking.uri=http://***@login01:5000"]


def test_outside_an_allocation_one_is_told_what_to_do() -> None:
    with pytest.raises(ConfigError, match="sbatch jobs/train_dit.sh"):
        own_status(["hold"], {})
