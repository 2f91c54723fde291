"""A run that is interrupted, at any step and in any way, ends as if it had not been."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from faults import (
    Drill,
    Field,
    Kill,
    assert_every_sample_once,
    assert_same_state,
    losses,
    steps_logged,
    training_processes,
)
from momu_dist.errors import STOPPED
from momu_dist.train.checkpoint import newest_checkpoint

pytestmark = pytest.mark.integration

STEPS = 24
EVERY = 3
NAMES = ("train.max_steps=24", f"train.checkpoint_every={EVERY}")
MakeDrill = Callable[..., Drill]

RUNS = [
    *(("dit_a2m", strategy) for strategy in ("ddp", "zero1", "zero2", "zero3")),
    *((stage, strategy) for stage in ("motion_vae", "music_vae") for strategy in ("ddp", "zero2")),
]


@pytest.fixture(scope="session")
def unbroken(field: Field) -> Callable[[str, str], Path]:
    """(stage, strategy) -> the run folder of a training that nothing disturbed, made once."""
    made: dict[tuple[str, str], Path] = {}

    def run(stage: str, strategy: str) -> Path:
        name = f"{stage}-{strategy}-unbroken"
        if (stage, strategy) not in made:
            made[stage, strategy] = field.root / "runs" / name
            Drill(field.command(stage, strategy, name, *NAMES), made[stage, strategy]).start().finish()
        return made[stage, strategy]

    return run


def assert_as_unbroken(field: Field, stage: str, strategy: str, run: Path, whole: Path) -> None:
    assert steps_logged(run) == list(range(1, STEPS + 1)), "each step is in the log once"
    assert losses(run) == losses(whole)
    assert_same_state(run, whole)
    assert_every_sample_once(field, field.config(stage, strategy, run.name, *NAMES), run)


def report(stage: str, strategy: str, seed: int, kills: list[Kill]) -> None:
    for kill in kills:
        print(
            f"seed {seed}: {stage} under {strategy}, {kill.what} killed after step {kill.logged}: bitwise equal"
        )


def drill_with_kills(
    drill: MakeDrill, field: Field, stage: str, strategy: str, whole: Path, kinds: list[str], seed: int
) -> None:
    rng = random.Random(f"{stage}-{strategy}-{seed}")
    steps = sorted(rng.sample(range(1, STEPS - 2), len(kinds)))
    run = drill(stage, strategy, f"{stage}-{strategy}-seed{seed}", *NAMES)
    kills = [run.kill(what, step, rng) for what, step in zip(kinds, steps, strict=True)]
    run.finish()
    assert_as_unbroken(field, stage, strategy, run.run, whole)
    report(stage, strategy, seed, kills)


@pytest.mark.parametrize(("stage", "strategy"), [("dit_a2m", "ddp")])
def test_a_killed_worker_and_a_killed_driver_change_nothing(
    stage: str, strategy: str, drill: MakeDrill, field: Field, unbroken: Callable[[str, str], Path]
) -> None:
    whole = unbroken(stage, strategy)
    drill_with_kills(drill, field, stage, strategy, whole, ["worker", "driver"], seed=0)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("stage", "strategy"), RUNS)
def test_chaos(
    stage: str, strategy: str, seed: int, drill: MakeDrill, field: Field, unbroken: Callable[[str, str], Path]
) -> None:
    kinds = ["worker while saving", "driver", "driver at once"] if seed == 1 else ["driver", "worker"]
    drill_with_kills(drill, field, stage, strategy, unbroken(stage, strategy), kinds, seed)


def resize(drill: MakeDrill, field: Field, stage: str, strategy: str, whole: Path, seed: int) -> None:
    """2 -> 1 -> 2 workers, each time by a stop at a random step and a new process."""
    rng = random.Random(f"{stage}-{strategy}-resize-{seed}")
    name, stops = f"{stage}-{strategy}-resized{seed}", (rng.randrange(2, 8), rng.randrange(12, STEPS - 8))
    for workers, stop in zip((2, 1, 2), (*stops, None), strict=True):
        run = drill(stage, strategy, name, *NAMES, f"train.workers={workers}")
        if stop is None:
            run.finish()
            continue
        # A stop that waits from before a start is withdrawn, so at least one step is taken.
        run.wait_for_step(max(stop, max(steps_logged(run.run), default=0) + 1))
        (run.run / "stop").touch()  # steps are too short here to meet one by a signal
        run.finish(expected=STOPPED)
    assert "with 1 worker\n" in run.text() and "with 2 workers" in run.text().rpartition("with 1 worker\n")[2]
    assert_every_sample_once(field, field.config(stage, strategy, name, *NAMES), run.run)
    worst = max(abs(ours[1] - theirs[1]) for ours, theirs in zip(losses(run.run), losses(whole), strict=True))
    assert worst <= 1e-4, f"losses part by {worst}"
    print(
        f"seed {seed}: {stage} under {strategy}, 2 -> 1 -> 2 workers after {stops}: losses within {worst:.1e}"
    )


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("stage", "strategy"),
    [
        (stage, strategy)
        for stage in ("dit_a2m", "motion_vae")
        for strategy in ("ddp", "zero1", "zero2", "zero3")
    ],
)
def test_other_numbers_of_workers_go_on_with_the_same_training(
    stage: str, strategy: str, drill: MakeDrill, field: Field, unbroken: Callable[[str, str], Path]
) -> None:
    resize(drill, field, stage, strategy, unbroken(stage, strategy), seed=1)


def test_a_stop_signal_saves_ends_with_its_own_code_and_a_finished_run_says_so(
    drill: MakeDrill, field: Field
) -> None:
    more = ("train.max_steps=24", "train.checkpoint_every=1000")
    run = drill("dit_a2m", "local", "signalled", *more)
    run.wait_for_step(2)
    os.kill(run.pid, signal.SIGUSR2)
    text = run.finish(expected=STOPPED)
    newest = newest_checkpoint(run.run / "checkpoints")
    assert newest is not None and newest.step == max(steps_logged(run.run))
    assert f"stopped as asked after step {newest.step} of 24" in text and "run the same command again" in text
    assert "SIGUSR2 received" in text and "Traceback" not in text
    drill("dit_a2m", "local", "signalled", *more).finish()
    assert steps_logged(run.run) == list(range(1, 25))
    assert "is finished (24 steps)" in drill("dit_a2m", "local", "signalled", *more).finish()


@pytest.mark.chaos
def test_a_signal_reaches_workers_on_ray(drill: MakeDrill, field: Field) -> None:
    more = ("train.max_steps=100000", "train.checkpoint_every=100000", "train.previews=false")
    run = drill("dit_a2m", "zero1", "terminated", *more)
    run.wait_for_step(5)
    os.kill(run.pid, signal.SIGTERM)
    text = run.finish(expected=STOPPED)
    newest = newest_checkpoint(run.run / "checkpoints")
    assert newest is not None and f"stopped as asked after step {newest.step} of 100000" in text
    assert "SIGTERM received" in text and "Traceback" not in text
    assert max(steps_logged(run.run)) == newest.step


def test_a_worker_that_hangs_is_named_and_the_workers_are_restarted(
    drill: MakeDrill, field: Field, unbroken: Callable[[str, str], Path]
) -> None:
    whole = unbroken("dit_a2m", "ddp")
    run = drill("dit_a2m", "ddp", "stalled", *NAMES, "train.stall_s=8")
    run.wait_for_step(5)
    stopped = training_processes(run.pid)[-1]
    stopped.suspend()
    run.wait_for(lambda: len(training_processes(run.pid)) < 2, "end of the workers")
    text = run.finish()
    assert "without a sign of life; the workers are restarted" in text
    named = re.search(r"rank (\d) without a sign of life", text)
    answered = {path.stem.rpartition("-")[2] for path in (run.run / "stalls").glob("*-rank-*.txt")}
    assert named and answered == {"0", "1"} - {named[1]}, (
        "the one that was named is the one that left no stacks"
    )
    assert not psutil.pid_exists(stopped.pid), "the hanging worker is ended too"
    assert_as_unbroken(field, "dit_a2m", "ddp", run.run, whole)


def test_a_disk_that_fills_leaves_the_checkpoint_before(
    drill: MakeDrill, field: Field, tmp_path: Path
) -> None:
    """A file system of its own that is too small for a second checkpoint; needs root."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    assert os.system(f"mount -t tmpfs -o size=6m tmpfs {disk}") == 0
    try:
        run = Drill(
            field.command(
                "dit_a2m", "local", "full", f"out={disk}", "train.max_steps=40", "train.checkpoint_every=4"
            ),
            disk / "full",
        )
        run.output = tmp_path / "out"
        run.start()
        run.wait_for(lambda: list((disk / "full" / "checkpoints").glob("step-*")), "checkpoint")
        (disk / "filler").write_bytes(b"0" * free_bytes(disk))
        text = run.finish(expected=2)
        assert "cannot be written (No space left on device); make room" in text and "Traceback" not in text
        newest = newest_checkpoint(disk / "full" / "checkpoints")
        assert newest is not None and newest.step >= 4
        (disk / "filler").unlink()
        time.sleep(0.1)
        run.start().finish()
    finally:
        os.system(f"umount {disk}")


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
