"""What is read of squeue and sacct, and which line of the queue an element of an array is in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from momu_dist.launch import scontrol
from momu_dist.launch.queue import Past, ask_accounting, ask_queue, find_queued, read_queue


def test_an_array_that_waits_as_a_whole_is_one_line() -> None:
    queue = read_queue("slurm says hello\n20|20_[0-2%3]|PENDING|1|(Priority)|a|b|c\n")
    assert list(queue) == ["20"] and queue["20"].name == "a|b|c"


@pytest.mark.parametrize(
    ("listed", "held", "other"),
    [
        ("[0-2%3]", [0, 1, 2], [3]),
        ("[7]", [7], [0, 77]),
        ("[1,3-4,9]", [1, 3, 4, 9], [0, 2, 5, 10]),
        ("[0-8:4%2]", [0, 4, 8], [1, 2, 9]),
        ("[1,3,...]", [1, 3, 500], []),
        ("4", [4], [5]),
    ],
)
def test_which_elements_a_line_of_the_queue_holds(listed: str, held: list[int], other: list[int]) -> None:
    queue = read_queue(f"20|20_{listed}|PENDING|1|Priority|x\n21|200_[0-999]|PENDING|1|Priority|y")
    assert all(find_queued(f"20_{index}", queue) is queue["20"] for index in held)
    assert all(find_queued(f"20_{index}", queue) is None for index in other)
    assert find_queued("20", queue) is queue["20"]
    for job in ("2", "20_", "_1", "20_x", "20_\xb2", "20_" + "9" * 5000):
        assert find_queued(job, queue) is None


def test_what_accounting_has_of_jobs_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of an array is asked for as users call it, and answered for by its own number."""
    program = tmp_path / "sacct"
    program.write_text(
        f"""#!/bin/bash
echo "$@" > {tmp_path}/asked
echo '7|CANCELLED by 1000|None assigned|a|b'
echo '8|FAILED|node1|c'
echo '9|RUNNING|node1|d'
echo '10.batch|FAILED|node1|batch'
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_accounting(["7", "8", "9", "3_1"]) == [
        Past("7", "CANCELLED", False, "a|b"),
        Past("8", "FAILED", True, "c"),
    ]
    words = (tmp_path / "asked").read_text().split()
    assert "--jobs=7,8,9,3_1" in words and f"--user={os.getuid()}" in words
    program.unlink()
    assert ask_accounting([]) == ask_accounting(["7"]) == []


def test_a_name_of_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_bytes(b"#!/bin/bash\necho '7|7|RUNNING|1|None|caf\xe9'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    queue = ask_queue()
    assert queue is not None and queue["7"].name == "caf\ufffd"


def test_how_many_nodes_partitions_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sinfo"
    program.write_text("#!/bin/bash\necho 'main*|2'\necho 'gpu|16'\necho 'odd'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scontrol.partition_sizes() == {"main*": 2, "gpu": 16}
    program.unlink()
    assert scontrol.partition_sizes() == {}
