"""What a job's work needs on every node, and how far it has come."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.config.load import config_from_dict
from momu_dist.data.manifest import Manifest
from momu_dist.errors import ConfigError
from momu_dist.launch import work as work_module
from momu_dist.launch.progress import Progress
from momu_dist.launch.sites import Site
from momu_dist.launch.status import Status
from momu_dist.launch.work import Work, make_work
from momu_dist.train.folder import RunFolder


def test_a_preparation_comes_further_with_every_file_that_is_whole(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00000.parquet").touch()
    progress = Progress(Work(("prepare",), result=tmp_path), Status(tmp_path / "status.json"))
    assert not progress.end()
    (tmp_path / "train" / "00001.parquet.123.tmp").touch()
    (tmp_path / "train" / ".00001.parquet-node-123").touch()
    assert not progress.end()
    (tmp_path / "train" / "00001.parquet").touch()
    assert progress.end()


def test_a_training_has_come_as_far_as_it_is_saved(tmp_path: Path) -> None:
    """Its metrics have an entry every `log_every` steps only, so a stop may be beyond the last one."""
    config = config_from_dict(
        {
            "stage": "dit_a2m",
            "name": "run",
            "out": str(tmp_path),
            "train": {"strategy": "local", "workers": 1},
        },
        "test",
    )
    work = Work(("train",), config=config, trains=True, total_steps=60)
    checkpoints = RunFolder(config).checkpoints
    (checkpoints / "step-000000040").mkdir(parents=True)
    status = Status(tmp_path / "status.json").open(7, "momu", ["train"])
    progress = Progress(work, status)
    assert status.facts["step"] == 40 and not progress.end()
    (checkpoints / "step-000000044").mkdir()
    assert progress.end() and status.facts["step"] == 44
    RunFolder(config).metrics.write_text('{"time": 1.0, "step": 50}\n')
    progress.end()
    assert status.facts["step"] == 50


def test_work_that_leaves_nothing_comes_no_further(tmp_path: Path) -> None:
    assert not Progress(Work(()), Status(tmp_path / "status.json")).end()


def test_what_is_prepared_into_must_be_shared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = make_work(
        "prepare", ["--source", "x", "--root", "raw", "--out", "deep/prepared"], Site(), "/tmp/x"
    )
    assert work.needed == (str(tmp_path), str(tmp_path / "raw"), str(tmp_path / "deep" / "prepared"))
    assert (tmp_path / "deep" / "prepared").is_dir()  # the agents look for it
    assert work.written == (tmp_path / "deep" / "prepared",)


def test_a_tracker_that_is_none_is_said_before_a_node_is_used() -> None:
    demo = Path(__file__).parents[3] / "configs" / "demo" / "music_vae.yaml"
    with pytest.raises(ConfigError, match="^tracking.uri is a text of 8 characters"):
        make_work("train", ["--config", str(demo), "tracking.uri=/my/runs"], Site(), "/tmp/x")


def test_words_that_cannot_be_read_are_shown_without_a_login() -> None:
    words = ["configs//a.yaml", "checkpoint=models:/dit@best", "tracking.uri=http://me:hush@h"]
    with pytest.raises(ConfigError) as error:
        make_work("train", words, Site(), "/tmp/x")
    shown = "train configs//a.yaml checkpoint=models:/dit@best tracking.uri=http://***@h"
    assert str(error.value) == f"{shown}: cannot be read; see the lines above."


DEMO = str(Path(__file__).parents[3] / "configs" / "demo")


def training(prepared: Manifest, out: Path, stage: str, site: Site, *more: str) -> Work:
    """A training of the demo on a small set; its VAEs need not be there."""
    given = ["--config", f"{DEMO}/{stage}.yaml", f"data.root={prepared.root}", f"out={out}", *more]
    return make_work("train", given, site, "/tmp/x")


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "required_exports", lambda *_: {})


@pytest.mark.parametrize("stage", ["music_vae", "dit_a2m"])
def test_data_is_copied_to_the_nodes_or_it_is_said_why_not(
    stage: str, prepared: Manifest, tmp_path: Path, without_models: None
) -> None:
    latents, site = tmp_path / "latents", Site(stage_data=True)
    more = (f"data.latents={latents}",) if stage == "dit_a2m" else ()
    source = latents if more else prepared.root
    if more:
        work = training(prepared, tmp_path, stage, site, *more)
        assert work.staged == () and "/tmp/x/shards" not in " ".join(work.command)
        assert work.notes == (
            f"stage_data copies nothing: the latents are encoded first, for all nodes, at {latents}",
        )
        (latents / "latents.json").touch()
    work = training(prepared, tmp_path, stage, site, *more)
    assert work.staged == ((str(source), "/tmp/x/shards"),) and work.notes == ()
    assert work.command[-1] == f'data.{"latents" if more else "root"}="/tmp/x/shards"'
    local = ("train.strategy=local", "train.workers=1")
    work = training(prepared, tmp_path, stage, site, *more, *local)
    assert work.staged == () and "/tmp/x/shards" not in " ".join(work.command)  # no agent would make the copy
    assert work.notes == ("stage_data copies nothing for strategy local",)


def test_latents_that_lie_elsewhere_must_be_shared_too(
    prepared: Manifest, tmp_path: Path, without_models: None
) -> None:
    out, latents = tmp_path / "runs", tmp_path / "deep" / "latents"
    work = training(prepared, out, "dit_a2m", Site(), f"data.latents={latents}")
    assert work.needed == (str(Path.cwd()), str(prepared.root), str(out), str(latents))
    assert latents.is_dir() and work.written == (out, latents)  # the agents look for them
    (latents / "latents.json").touch()
    work = training(prepared, out, "dit_a2m", Site(), f"data.latents={latents}")
    assert work.needed == (str(Path.cwd()), str(prepared.root), str(latents), str(out))
    assert work.written == (out,)  # a set that is only read may lie where nothing can be written


def test_a_job_writes_to_the_latents_that_it_encodes(
    prepared: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, latents = tmp_path / "runs", tmp_path / "latents"
    monkeypatch.setattr(work_module, "_latents", lambda *_: latents)
    assert training(prepared, out, "dit_a2m", Site()).written == (out, latents)
    assert latents.is_dir()
    assert training(prepared, out, "dit_a2m", Site(), "--only-latents").written == (latents,)
    (latents / "latents.json").touch()
    assert training(prepared, out, "dit_a2m", Site()).written == (out,)


def test_gpus_that_nothing_uses_are_said(
    prepared: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training(prepared, tmp_path, "music_vae", Site()).notes == ()
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    (note,) = training(prepared, tmp_path, "music_vae", Site()).notes
    assert note == "2 GPUs of each node are not used: train.device is cpu"


def test_a_run_that_is_finished_says_how_another_one_is_trained(
    prepared: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunFolder, "finished", lambda _: {"steps": 10**6})
    done = training(prepared, tmp_path, "music_vae", Site()).done
    assert done == f"music_vae is finished (1000000 steps): {tmp_path}/music_vae; name=... trains another run"


def test_encoding_comes_further_with_every_shard_of_latents(
    prepared: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = tmp_path / "latents"
    monkeypatch.setattr(work_module, "_latents", lambda *_: latents)
    config = str(Path(__file__).parents[3] / "configs" / "demo" / "dit_a2m.yaml")
    given = ["--config", config, f"data.root={prepared.root}", f"out={tmp_path / 'runs'}"]
    work = make_work("train", [*given, "--only-latents"], Site(), "/tmp/x")
    assert work.reached() == 0
    (latents / "train").mkdir(parents=True)
    (latents / "train" / "00000.parquet").touch()
    assert work.reached() == 1
    training = make_work("train", given, Site(), "/tmp/x")
    assert training.folder is not None and training.reached() == 0
    (training.folder.checkpoints / "step-000000020").mkdir(parents=True)
    assert training.reached() == 20


def test_the_tracker_of_a_site_is_on_no_command_line(prepared: Manifest, tmp_path: Path) -> None:
    """Others see it there, with the password that it may hold."""
    site = Site(env={"A": "b"}, tracking_uri="http://me:secret@login01:5000")
    config = str(Path(__file__).parents[3] / "configs" / "demo" / "music_vae.yaml")
    given = ["--config", config, f"data.root={prepared.root}", f"out={tmp_path}"]
    assert make_work("train", given, site, "/tmp/x").command[-4:] == tuple(given)
    assert site.variables() == {"A": "b", "MLFLOW_TRACKING_URI": "http://me:secret@login01:5000"}


def test_a_service_is_a_driver_on_the_ray_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = make_work("serve", ["--checkpoint", "runs/demo", "gpus=1"], Site(), "/tmp/x")
    assert work.command[-5:] == ("momu_dist.cli", "serve", "--checkpoint", "runs/demo", "gpus=1")
    assert work.uses_ray and not work.elastic and work.needed == (str(tmp_path),)


@pytest.mark.parametrize(
    ("given", "config", "gpus", "added"),
    [
        ([], "", 4, ["gpus=1", "replicas=4"]),
        ([], "", 0, []),
        (["gpus=2"], "", 4, ["replicas=2"]),
        (["gpus=0.5"], "", 4, ["replicas=4"]),
        (["gpus=0"], "", 4, []),
        (["replicas=2"], "", 4, ["gpus=1"]),
        (["queue=8"], "replicas: 3, gpus: 1", 4, []),
    ],
)
def test_a_service_has_one_replica_a_gpu_unless_it_is_told_otherwise(
    given: list[str],
    config: str,
    gpus: int,
    added: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(f"applications: [{{args: {{{config}}}}}]")
    arguments = ["--config", "own.yaml", "--checkpoint", "runs/demo", *given]
    work = make_work("serve", arguments, Site(), "/tmp/x")
    assert list(work.on(2, gpus).command) == [*work.command, *added]


def test_the_usual_config_leaves_replicas_to_the_allocation() -> None:
    work = make_work("serve", ["--checkpoint", "runs/demo"], Site(), "/tmp/x")
    assert work.on(1, 2).command[-2:] == ("gpus=1", "replicas=2")


def test_a_mistake_in_a_setting_is_said_before_a_node_is_used() -> None:
    with pytest.raises(ConfigError, match="replicas"):
        make_work("serve", ["replicas=0"], Site(), "/tmp/x")
