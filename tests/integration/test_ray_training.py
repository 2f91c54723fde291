"""Training through Ray: a run goes on where it stopped, bf16 trains, and a loss that is not finite ends in one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from momu_dist.config.load import load_config
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError, TrainingError
from momu_dist.train.ray_session import ray_session
from momu_dist.train.run import train

pytestmark = pytest.mark.integration

CONFIG = Path(__file__).parents[2] / "configs/demo/music_vae.yaml"


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


def make_config(prepared: Manifest, out: Path, *more: str) -> RunConfig:
    small = ["model.ch_mult=[1, 1]", "model.num_res_blocks=1", "loss.disc_ndf=4", "data.length_s=[2.0, 2.0]"]
    run = ["train.global_batch=4", "train.log_every=1", "train.validate_every=1000", "train.previews=false"]
    return load_config(
        CONFIG, [f"out={out}", f"data.root={prepared.root}", "tracking.uri=none", *small, *run, *more]
    )


def steps_logged(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [entry["step"] for line in path.read_text().splitlines() if "total" in (entry := json.loads(line))]


def totals(run: Path) -> dict[int, float]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["total"] for entry in entries if "total" in entry}


def test_a_run_of_the_same_name_goes_on_where_it_stopped(
    prepared: Manifest, ray: None, tmp_path: Path
) -> None:
    common = ("train.strategy=zero1", "loss.gan_start=0", "optim.schedule=constant", "optim.warmup_steps=0")
    train(make_config(prepared, tmp_path, "name=continued", "train.max_steps=4", *common))
    train(make_config(prepared, tmp_path, "name=continued", "train.max_steps=8", *common))
    train(make_config(prepared, tmp_path, "name=unbroken", "train.max_steps=8", *common))
    assert totals(tmp_path / "continued") == pytest.approx(totals(tmp_path / "unbroken"), abs=1e-5)
    assert sorted(totals(tmp_path / "continued")) == list(range(1, 9))


def test_bf16_under_deepspeed_stays_near_fp32(prepared: Manifest, ray: None, tmp_path: Path) -> None:
    final = {}
    for precision in ("fp32", "bf16"):
        more = (
            "train.strategy=zero1",
            "train.max_steps=6",
            f"train.precision={precision}",
            f"name={precision}",
        )
        run = train(make_config(prepared, tmp_path, *more))
        entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        final[precision] = [entry["rec"] for entry in entries if "rec" in entry]
    assert final["bf16"] == pytest.approx(final["fp32"], rel=0.02)
    assert final["bf16"] != final["fp32"], "bf16 computed exactly what fp32 computes: it was not used"


def test_a_loss_that_is_not_finite_is_one_sentence_and_is_not_tried_again(
    prepared: Manifest, ray: None, tmp_path: Path
) -> None:
    more = ("train.strategy=zero1", "train.max_steps=6", "optim.lr=1.0e+30", "optim.warmup_steps=0")
    with pytest.raises(TrainingError, match=r"step \d+ is not finite; .*Clips of that batch: syn"):
        train(make_config(prepared, tmp_path, *more))
    assert len([step for step in steps_logged(tmp_path / "music_vae") if step == 1]) == 1


def test_a_cluster_without_room_for_the_readers_is_refused(
    prepared: Manifest, ray: None, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="start Ray with more --num-cpus"):
        train(
            make_config(
                prepared, tmp_path, "train.strategy=ddp", "train.max_steps=2", "train.worker_cpus=100"
            )
        )
