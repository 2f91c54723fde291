"""The loop on one process: a broken run continued is the unbroken run, and a bad loss changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.core.seeds import seed_of
from momu_dist.core.tasks.base import Task
from momu_dist.data.feed import LocalFeed
from momu_dist.data.latents import in_process
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError, Stopped, TrainingError
from momu_dist.inference.export import find_export
from momu_dist.inference.models import load_vae
from momu_dist.train import loop
from momu_dist.train.build import build_task, feed_spec, open_run_latents, required_exports
from momu_dist.train.exports import Exports
from momu_dist.train.folder import RunFolder
from momu_dist.train.loop import AgreedEnd, Hooks, Trainer, Wish
from momu_dist.train.store import CheckpointStore, Retention
from momu_dist.train.worker import build_engines

TOTAL = 6
TinyConfig = Callable[..., RunConfig]


class Broken(Exception):
    """A machine that goes away."""


class Feed(LocalFeed):
    """The local feed, which can break off before a step or spoil clips."""

    break_before: int | None = None
    spoil: Callable[[int, dict[str, Any]], None] | None = None

    def steps(self, first: int, total: int) -> Iterator[Sequence[dict[str, Any]]]:
        for step, rows in enumerate(super().steps(first, total), start=first):
            if step == self.break_before:
                raise Broken
            if self.spoil is not None:
                for row in rows:
                    self.spoil(step, row)
            yield rows


@dataclass
class Session:
    """A trainer with what it logged, exported and sampled."""

    trainer: Trainer
    feed: Feed
    task: Task
    store: CheckpointStore
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    exported: list[tuple[int, dict[str, Tensor]]] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    wishes: dict[int, Wish] = field(default_factory=dict)

    def newest_step(self) -> int:
        newest = self.store.newest()
        return 0 if newest is None else newest.step

    def state(self) -> dict[str, Tensor]:
        """Every number that training has changed: weights, buffers, optimisers' moments, averages."""
        out = {}
        for name, engine in self.trainer.engines.items():
            for key, value in engine.net.state_dict().items():  # type: ignore[attr-defined]
                out[f"{name}/{key}"] = value.clone()
            moments = engine.optimizer.state_dict()["state"]  # type: ignore[attr-defined]
            for index, parts in moments.items():
                for key, value in parts.items():
                    out[f"{name}/{index}/{key}"] = torch.as_tensor(value).clone()
        if self.trainer.ema is not None:
            out |= {f"ema/{key}": value.clone() for key, value in self.trainer.ema.shadow.items()}
        return out

    def values(self, name: str) -> dict[int, float]:
        return {step: metrics[name] for step, metrics in self.logged if name in metrics}


@pytest.fixture
def session(
    prepared: Manifest, tiny_config: TinyConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> Any:
    """(stage, folder of checkpoints, further overrides) -> Session; stages above the first use the trained chain."""

    def make(stage: str, folder: str = "run", more: tuple[str, ...] = (), total: int = TOTAL) -> Session:
        runs = request.getfixturevalue("tiny_runs") if STAGES[stage].needs else None
        config = tiny_config(stage, tmp_path, prepared.root, runs, (f"train.max_steps={total}", *more))
        exports = required_exports(config, prepared)
        latents = None
        if STAGES[stage].reads == "latents":
            latents = open_run_latents(config, prepared, exports, in_process)
        task = build_task(config, latents, prepared, exports)
        root = prepared.root if latents is None else latents.root
        feed = Feed(feed_spec(config, root, task.columns))
        device = torch.device("cpu")
        store = CheckpointStore(tmp_path / folder, Retention(config.train.keep_last))
        made: list[Session] = []
        written = Exports(RunFolder(config), config, {"feature_fingerprint": "f"}, {}, total)

        def write(step: int, weights: dict[str, Tensor], validated: dict[str, float], to: Path) -> None:
            made[0].exported.append((step, weights))
            written.write(step, weights, validated, to)

        hooks = Hooks(
            log=lambda step, metrics: made[0].logged.append((step, metrics)),
            resumed=lambda step: None,
            judge=lambda step, validated: None,
            export=write,
            committed=lambda checkpoint: None,
            sample=lambda step, weights: made[0].sampled.append(step),
            wish=lambda done: made[0].wishes.get(done, Wish.GO_ON),
            reached=lambda step, place: None,
            reported=lambda step: None,
        )
        engines = build_engines(config, task, device)
        made.append(
            Session(Trainer(config, task, feed, engines, store, hooks, total, device), feed, task, store)
        )
        return made[0]

    return make


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("music_vae", ("loss.disc_norm=batch",)),  # running statistics are part of the state
        ("music_vae", ("train.micro_batch=2", "optim.schedule=cosine")),
        ("motion_vae", ("train.ema_decay=null",)),
        ("dit_m2a", ()),
    ],
)
def test_resuming_is_bitwise_the_unbroken_run(session: Any, stage: str, more: tuple[str, ...]) -> None:
    unbroken = session(stage, "unbroken", more)
    unbroken.trainer.run()
    broken = session(stage, "broken", (*more, "train.checkpoint_every=2"))
    broken.feed.break_before = 5  # one step after the newest checkpoint is lost
    with pytest.raises(Broken):
        broken.trainer.run()
    assert broken.newest_step() == 4
    again = session(stage, "broken", more)
    again.trainer.run()
    assert_same(again.state(), unbroken.state())
    assert again.newest_step() == TOTAL
    for (step, mine), (other_step, theirs) in zip(again.exported, unbroken.exported[-2:], strict=True):
        assert step == other_step
        assert_same(mine, theirs)
    timed = {"samples_per_s", "data_wait"}
    for step, metrics in again.logged:
        expected = next(m for s, m in unbroken.logged if s == step and m.keys() == metrics.keys())
        assert {k: v for k, v in metrics.items() if k not in timed} == {
            k: v for k, v in expected.items() if k not in timed
        }


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(session: Any) -> None:
    first, again, other = (
        session("music_vae", name, more) for name, more in (("a", ()), ("b", ()), ("c", ("seed=1",)))
    )
    for one in (first, again, other):
        one.trainer.run()
    assert_same(first.state(), again.state())
    assert not torch.equal(
        first.exported[-1][1]["encoder.conv_in.weight"], other.exported[-1][1]["encoder.conv_in.weight"]
    )


def test_micro_batches_are_one_batch(session: Any) -> None:
    """Per-sample noise and means over samples: how a batch is split changes rounding only."""
    whole, split = session("dit_m2a", "whole"), session("dit_m2a", "split", ("train.micro_batch=1",))
    for one in (whole, split):
        one.trainer.run()
    for name, value in whole.state().items():
        torch.testing.assert_close(split.state()[name], value, atol=1e-4, rtol=1e-3)


def test_logs_exports_and_samples_come_when_they_should(session: Any) -> None:
    run = session(
        "music_vae",
        more=(
            "train.log_every=2",
            "train.validate_every=4",
            "train.checkpoint_every=3",
            "train.sample_every=4",
        ),
    )
    run.trainer.run()
    assert list(run.values("total")) == [2, 4, 6]
    assert list(run.values("val/rec")) == [
        0,
        3,
        4,
        6,
    ]  # before the first step, at checkpoints and intervals, at the end
    assert [step for step, _ in run.exported] == [3, 6]
    assert run.sampled == [4, 6]
    assert list(run.values("disc")) == [4, 6]  # the GAN starts at half of the run
    assert all(rate == 1e-3 or rate < 1e-3 for rate in run.values("lr").values())


def test_a_run_without_previews_samples_at_no_step(session: Any) -> None:
    run = session("music_vae", more=("train.sample_every=2", "train.previews=false"))
    run.trainer.run()
    assert run.exported and not run.sampled


def test_exports_are_the_averaged_weights(session: Any) -> None:
    run = session("music_vae")
    run.trainer.run()
    _, weights = run.exported[-1]
    shadow = run.trainer.ema.shadow
    assert all(torch.equal(weights[name], value) for name, value in shadow.items())
    assert not all(
        torch.equal(weights[name], value) for name, value in run.trainer.main.local_parameters().items()
    )


def test_a_finished_run_does_nothing_more(session: Any) -> None:
    session("music_vae").trainer.run()
    again = session("music_vae")
    again.trainer.run()
    assert not again.logged and not again.exported


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(session: Any, bad: float) -> None:
    # Running statistics of a batch norm would have moved in memory; a restart reads them from the checkpoint.
    more = ("loss.disc_norm=group",)
    good = session("music_vae", "good", more)
    good.feed.break_before = 4
    with pytest.raises(Broken):
        good.trainer.run()
    run = session("music_vae", "bad", more)
    spoilt: list[str] = []

    def spoil(step: int, row: dict[str, Any]) -> None:
        if step == 4:
            row["mel"] = np.full_like(row["mel"], bad)
            spoilt.append(row["clip_id"])

    run.feed.spoil = spoil
    with pytest.raises(TrainingError) as caught:
        run.trainer.run()
    sentence = str(caught.value)
    assert "step 4" in sentence and len(set(spoilt)) == len(spoilt) == 4
    assert all(clip in sentence for clip in spoilt)
    assert run.newest_step() == 4 and str(run.store.path_of(4)) in sentence
    assert_same(run.state(), good.state())  # as after the last good step
    restarted = session("music_vae", "bad", more)
    restarted.trainer.run()
    unbroken = session("music_vae", "unbroken", more)
    unbroken.trainer.run()
    assert_same(restarted.state(), unbroken.state())


def test_one_bad_clip_is_named_among_its_micro_batch_only(session: Any) -> None:
    run = session("dit_m2a", more=("train.micro_batch=1",))
    spoilt: list[str] = []

    def spoil(step: int, row: dict[str, Any]) -> None:
        if step == 1 and not spoilt:
            row["music_mean"] = np.full_like(row["music_mean"], np.nan)
            spoilt.append(row["clip_id"])

    run.feed.spoil = spoil
    with pytest.raises(TrainingError) as caught:
        run.trainer.run()
    named = str(caught.value).split("Clips of that batch: ")[1].split(". ")[0]
    assert named == spoilt[0]


def test_a_bad_loss_before_any_checkpoint_says_so(session: Any) -> None:
    run = session("music_vae")
    run.feed.spoil = lambda step, row: row.update(mel=np.full_like(row["mel"], np.nan))
    with pytest.raises(TrainingError, match="Last checkpoint: none yet"):
        run.trainer.run()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_validation_that_is_not_finite_is_no_checkpoint(session: Any, bad: float) -> None:
    run = session("music_vae")
    validate, reached = run.task.validate, []
    run.trainer.hooks = replace(run.trainer.hooks, reached=lambda step, place: reached.append(step))

    def spoilt(networks: Any, batch: Any) -> dict[str, Tensor]:
        values = validate(networks, batch)
        return (
            {name: torch.full_like(value, bad) for name, value in values.items()}
            if reached[-1] == 3
            else values
        )

    run.task.validate = spoilt
    with pytest.raises(
        TrainingError, match=r"the validation after step 3 is not finite \(val/rec\)"
    ) as caught:
        run.trainer.run()
    assert "no checkpoint was made of that step" in str(caught.value) and "optim.lr" in str(caught.value)
    assert run.newest_step() == 2 and str(run.store.path_of(2)) in str(caught.value)
    assert [step for step, _ in run.exported] == [1, 2]
    session("music_vae").trainer.run()  # the one before was not touched


@pytest.mark.parametrize(("value", "ends"), [(np.nan, False), (np.inf, True)])
def test_one_clip_without_a_value_spoils_no_validation_one_of_infinite_value_does(
    session: Any, value: float, ends: bool
) -> None:
    run = session("music_vae", total=1)
    validate = run.task.validate

    def one_spoilt(networks: Any, batch: Any) -> dict[str, Tensor]:
        values = validate(networks, batch)
        values["rec"][0] = value
        return values

    run.task.validate = one_spoilt
    with pytest.raises(TrainingError, match="is not finite") if ends else nullcontext():
        run.trainer.run()
    assert run.newest_step() == (0 if ends else 1)


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (
            (False, True),
            r"^rank 1 on node1: the loss of step 0 is not finite; .*Clips of that batch: clip1\.",
        ),
        ((True, True), r"^the loss of step 0 is not finite; .*Clips of that batch: clip0, clip1\."),
    ],
)
def test_a_loss_that_is_not_finite_is_said_of_the_worker_that_had_it(
    session: Any, monkeypatch: pytest.MonkeyPatch, spoilt: tuple[bool, bool], says: str
) -> None:
    """All raise the same, so the one that says it is not the one it comes from."""
    found = [
        (float("nan") if bad else 0.5, f"rank {r} on node{r}", [f"clip{r}"]) for r, bad in enumerate(spoilt)
    ]
    monkeypatch.setattr(loop, "largest", lambda value, device: 1.0)
    monkeypatch.setattr(loop, "from_all", lambda mine: found)
    with pytest.raises(AgreedEnd, match=says):
        session("music_vae").trainer.run()


def spoil_weights_of(run: Session, name: str, step: int) -> None:
    """That step leaves a weight of the network `name` that is not finite, whatever the gradients were."""
    engine = run.trainer.engines[name]
    usual, steps = engine.step, iter(range(1, 100))

    def spoilt(lr: float) -> float | None:
        norm = usual(lr)
        if next(steps) == step:
            next(iter(engine.local_parameters().values())).view(-1)[0] = torch.nan
        return norm

    engine.step = spoilt  # type: ignore[method-assign]


@pytest.mark.parametrize("more", [(), ("train.ema_decay=null",)])
@pytest.mark.parametrize("network", ["vae", "disc"])
def test_weights_that_are_not_finite_are_no_checkpoint_of_a_stop(
    session: Any, network: str, more: tuple[str, ...]
) -> None:
    """A stop saves without a validation."""
    run = session("music_vae", more=("train.checkpoint_every=2", "loss.gan_start=0.0", *more))
    spoil_weights_of(run, network, 3)
    run.wishes[3], reached = Wish.STOP, []
    run.trainer.hooks = replace(run.trainer.hooks, reached=lambda step, place: reached.append(place))
    with pytest.raises(TrainingError, match=r"weights are not finite after step 3; .* Lower optim\.lr"):
        run.trainer.run()
    assert run.newest_step() == 2
    assert ["ending" in place for place in reached[-2:]] == [True, True]  # for the watch: hashing takes long


def test_weights_that_are_not_finite_on_another_rank_are_no_checkpoint(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks end, by the same sentence, whoever found it."""
    run, asked = session("music_vae"), []

    def largest(value: float, device: torch.device) -> float:
        asked.append(value)
        return 1.0

    monkeypatch.setattr(loop, "largest", largest)
    with pytest.raises(TrainingError, match="weights are not finite after step 3"):
        run.trainer._save(3, {})
    assert asked == [0.0] and run.newest_step() == 0


def test_what_lies_behind_a_part_of_the_weights_does_not_end_the_run(session: Any) -> None:
    """Under ZeRO-3 a rank has flat parts, the last of them padded with whatever the memory held."""
    run = session("music_vae", total=1, more=("train.ema_decay=null",))
    main, weights = run.trainer.main, run.trainer.main.local_parameters()
    main.local_parameters = lambda: {
        name: torch.cat([value.flatten(), torch.full((3,), torch.nan)]) for name, value in weights.items()
    }
    gather = main.gather
    main.gather = lambda local: gather(
        {name: local[name][: value.numel()].view_as(value) for name, value in weights.items()}
    )
    run.trainer.run()
    assert run.newest_step() == 1


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("data.shuffle_row_groups=1",), "another order of samples"),
        (("train.global_batch=8",), "another order of samples"),
    ],
)
def test_another_order_of_samples_is_not_continued(session: Any, more: tuple[str, ...], reason: str) -> None:
    session("music_vae", total=2).trainer.run()
    with pytest.raises(CheckpointError, match=reason):
        session("music_vae", more=more).trainer.run()


def test_another_strategy_is_not_continued(session: Any) -> None:
    session("music_vae", total=2).trainer.run()
    run = session("music_vae")
    train = replace(run.trainer.config.train, strategy="zero1")
    run.trainer.config = replace(run.trainer.config, train=train)
    with pytest.raises(CheckpointError, match="was written by local, this run is zero1"):
        run.trainer.run()


def test_each_samples_seed_is_of_run_epoch_and_clip(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = session("music_vae", more=("seed=5",))
    seen: dict[int, tuple[int, str]] = {}
    collate = run.task.collate

    def spy(rows: Any, seeds: Any) -> Any:
        seen.update(zip(seeds, ((int(row["epoch"]), row["clip_id"]) for row in rows), strict=True))
        return collate(rows, seeds)

    monkeypatch.setattr(run.task, "collate", spy)
    run.trainer.run()
    assert all(seed == seed_of(5, epoch, clip) for seed, (epoch, clip) in seen.items())
    assert len({epoch for epoch, _ in seen.values()}) > 1


@pytest.mark.parametrize(("wish", "saved"), [(Wish.SAVE, [3, 6]), (Wish.STOP, [3])])
def test_a_wish_is_obeyed_after_the_step_and_changes_nothing_else(
    session: Any, wish: Wish, saved: list[int]
) -> None:
    unbroken = session("dit_m2a", "unbroken", ("train.checkpoint_every=10",))
    unbroken.trainer.run()
    asked = session("dit_m2a", "asked", ("train.checkpoint_every=10",))
    asked.wishes[3] = wish
    if wish == Wish.STOP:
        with pytest.raises(Stopped, match="stopped as asked after step 3 of 6"):
            asked.trainer.run()
    else:
        asked.trainer.run()
    assert [step for step, _ in asked.exported] == saved
    assert asked.newest_step() == saved[-1]
    if wish == Wish.STOP:
        asked = session("dit_m2a", "asked")
        asked.trainer.run()
    assert_same(asked.state(), unbroken.state())


def test_a_wish_before_the_first_step_stops_at_once(session: Any) -> None:
    run = session("music_vae")
    run.wishes[0] = Wish.STOP
    with pytest.raises(Stopped):
        run.trainer.run()
    assert run.newest_step() == 0 and not run.exported


def test_a_torn_checkpoint_costs_the_steps_since_the_one_before(session: Any) -> None:
    unbroken = session("music_vae", "unbroken")
    unbroken.trainer.run()
    broken = session("music_vae", "broken", ("train.checkpoint_every=2",))
    broken.feed.break_before = 5
    with pytest.raises(Broken):
        broken.trainer.run()
    weights = broken.store.path_of(4) / "vae.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = session("music_vae", "broken")
    again.trainer.run()
    assert min(step for step, _ in again.logged) == 3
    assert_same(again.state(), unbroken.state())


def test_a_full_disk_is_told_at_the_next_step_and_the_checkpoint_before_stays(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session("music_vae")
    write = run.trainer.hooks.export

    def full(step: int, weights: Any, validated: Any, to: Path) -> None:
        if step == 3:
            raise OSError(28, "No space left on device")
        write(step, weights, validated, to)

    run.trainer.hooks = replace(run.trainer.hooks, export=full)
    with pytest.raises(OSError, match="No space left"):
        run.trainer.run()
    assert run.newest_step() == 2


def test_every_kept_checkpoint_can_be_used(session: Any) -> None:
    run = session("music_vae", more=("train.checkpoint_every=2", "train.keep_last=2"))
    run.trainer.run()
    kept = sorted(run.store.folder.glob("step-*"))
    assert [path.name[-1] for path in kept] == ["4", "6"]
    for folder, (step, weights) in zip(kept, run.exported[-2:], strict=True):
        export = find_export(folder)
        assert export.facts["step"] == step == int(folder.name[-1])
        assert_same(dict(load_vae(export).state_dict()), weights)


def test_samples_that_end_too_early_are_no_finished_run(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session("music_vae")
    steps = run.feed.steps
    monkeypatch.setattr(run.feed, "steps", lambda first, total: steps(first, total - 2))
    with pytest.raises(TrainingError, match="ended after step 4 of 6"):
        run.trainer.run()


def test_an_error_of_a_worker_while_a_checkpoint_is_loaded_is_not_the_checkpoints(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session("music_vae", total=2).trainer.run()
    run = session("music_vae")

    def closed(checkpoint: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(run.trainer.main, "load", closed)
    with pytest.raises(RuntimeError, match="closed by peer"):
        run.trainer.run()
