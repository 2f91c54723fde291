"""What a user sees who makes a mistake: one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from momu_dist import cli
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.inference.media import write_wav
from momu_dist.train import __main__ as training
from momu_dist.train import run as run_module
from momu_dist.train.folder import RunFolder
from momu_dist.train.loop import Trainer
from momu_dist.train.ray_trainer import _interruptible

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo"
TinyOverrides = Callable[..., list[str]]


MAINS = {"cli": cli.main, "train": training.main}


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", f"momu_dist.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def call(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same command in this process, which saves the seconds of its imports; an exception fails the test."""
    given, out, err = list(map(str, arguments)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = MAINS[module](given)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refused command; beside it stderr may hold progress bars and warnings only."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.replace("\r", "\n").split("\n") if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    others = [
        line for line in lines if line not in errors and "|" not in line and not line.startswith("warning: ")
    ]
    assert len(errors) == 1 and lines[-1] == errors[0] and not others, result.stderr
    assert errors[0].endswith(".") and "Traceback" not in result.stdout
    return errors[0].removeprefix("error: ")


@pytest.fixture
def train(
    prepared: Manifest, tiny_runs: Path, tiny_overrides: TinyOverrides, tmp_path: Path
) -> Callable[..., str]:
    """(stage, further overrides) -> the sentence; by default a run that would succeed, written to tmp_path."""

    def command(stage: str, *more: object) -> str:
        overrides = tiny_overrides(stage, tmp_path / "out", prepared.root, tiny_runs)
        return sentence(call("train", "--config", DEMO / f"{stage}.yaml", *overrides, *more))

    return command


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# -- training ----------------------------------------------------------------------------------------------------------


def test_no_such_config() -> None:
    assert "no config at configs/none.yaml" in sentence(run("train", "--config", "configs/none.yaml"))


def test_unknown_key(train: Callable[..., str]) -> None:
    text = train("music_vae", "train.global_bach=4")
    assert "unknown key train.global_bach" in text and "global_batch" in text


def test_gradients_inside_a_step_under_zero(train: Callable[..., str], tmp_path: Path) -> None:
    for wanted in ("loss.gan_weight_mode=adaptive", "loss.r1_weight=3"):
        text = train("music_vae", wanted, "train.strategy=zero2")
        assert wanted.replace("=", " ") in text and "use train.strategy local or ddp" in text
    assert not (tmp_path / "out").exists()


def test_data_not_prepared(train: Callable[..., str], tmp_path: Path) -> None:
    text = train("music_vae", f"data.root={tmp_path / 'none'}")
    assert f"no prepared data at {tmp_path / 'none'}" in text and "momu prepare" in text
    assert not (tmp_path / "out").exists()  # nothing is left behind that a second try would trip over


def test_data_made_with_other_features(train: Callable[..., str], prepared: Manifest, tmp_path: Path) -> None:
    shutil.copytree(prepared.root, tmp_path / "data")
    edit_json(tmp_path / "data" / "manifest.json", feature_fingerprint="0123456789abcdef")
    text = train("music_vae", f"data.root={tmp_path / 'data'}")
    assert "made with other features (0123456789abcdef" in text and "prepare again" in text


def test_motion_stage_without_a_music_vae(train: Callable[..., str]) -> None:
    assert "set inputs.music_vae to its run folder" in train("motion_vae", "inputs.music_vae=null")


def test_music_vae_that_is_not_there(train: Callable[..., str], tmp_path: Path) -> None:
    text = train("motion_vae", f"inputs.music_vae={tmp_path / 'none'}")
    assert f"no trained model at {tmp_path / 'none'}" in text


def test_music_vae_of_another_stage(train: Callable[..., str], tiny_runs: Path) -> None:
    text = train("motion_vae", f"inputs.music_vae={tiny_runs / 'motion_vae'}")
    assert "holds a motion_vae model, expected music_vae" in text


def test_music_vae_of_other_features(train: Callable[..., str], tiny_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_runs / "music_vae", tmp_path / "vae")
    edit_json(tmp_path / "vae" / "export" / "model.json", feature_fingerprint="0123456789abcdef")
    text = train("motion_vae", f"inputs.music_vae={tmp_path / 'vae'}")
    assert "was trained on features 0123456789abcdef" in text


def test_latents_of_other_weights(train: Callable[..., str], tiny_runs: Path, tmp_path: Path) -> None:
    latents = tmp_path / "latents"
    latents.mkdir()
    empty = {"count": 1, "total": [0.0] * 20, "squares": [1.0] * 20}
    tree = {"fingerprint": "0123456789abcdef", "sums": {"music": empty, "motion": empty}}
    (latents / "latents.json").write_text(json.dumps(tree))
    text = train("dit_a2m", f"data.latents={latents}")
    assert "made by other weights or from other data" in text and "0123456789abcdef" in text


def test_finished_run_says_so(prepared: Manifest, tiny_runs: Path, tiny_overrides: TinyOverrides) -> None:
    overrides = tiny_overrides("music_vae", tiny_runs, prepared.root)
    before = (tiny_runs / "music_vae" / "metrics.jsonl").read_text()
    result = run("train", "--config", DEMO / "music_vae.yaml", *overrides)
    assert result.returncode == 0 and "music_vae is finished (2 steps)" in result.stdout
    assert (tiny_runs / "music_vae" / "metrics.jsonl").read_text() == before


def test_finished_run_without_its_model(train: Callable[..., str], tiny_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_runs / "music_vae", tmp_path / "out" / "music_vae")
    shutil.rmtree(tmp_path / "out" / "music_vae" / "export")
    assert "no trained model at" in train("music_vae")


def test_a_run_whose_checkpoints_are_gone_does_not_start_anew(
    train: Callable[..., str], tiny_runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "music_vae"
    shutil.copytree(tiny_runs / "music_vae", folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "finished.json").unlink()
    text = train("music_vae")
    assert "holds no checkpoint" in text and f"delete {folder} to start anew" in text
    assert (folder / "export" / "model.json").is_file()


def test_same_name_with_other_settings(train: Callable[..., str], tiny_runs: Path, tmp_path: Path) -> None:
    """Also where that run is finished: its result is not the one that was asked for."""
    shutil.copytree(tiny_runs / "music_vae", tmp_path / "out" / "music_vae")
    text = train("music_vae", "optim.lr=0.5", "seed=3")
    assert "holds a run with another seed, optim" in text and "name=" in text


def test_loss_that_is_not_finite(prepared: Manifest, tiny_overrides: TinyOverrides, tmp_path: Path) -> None:
    """One clip's mel holds a NaN, as a broken decoder would leave it; mended, the same command ends the run."""
    data = tmp_path / "data"
    shutil.copytree(prepared.root, data)
    clip = spoil_first_training_clip(data)
    command = (
        "train",
        "--config",
        DEMO / "music_vae.yaml",
        *tiny_overrides("music_vae", tmp_path / "out", data),
    )
    text = sentence(run(*command, "train.micro_batch=1"))
    assert "is not finite" in text and clip in text
    others = set(prepared.clips["clip_id"].to_pylist()) - {clip}
    assert not any(other in text for other in others)
    folder = tmp_path / "out" / "music_vae"
    assert (folder / "failure.txt").read_text() == text and not (folder / "finished.json").exists()
    shutil.copytree(prepared.root, data, dirs_exist_ok=True)
    result = call(*command, "train.micro_batch=1")
    assert result.returncode == 0 and not (folder / "failure.txt").exists(), result.stderr


def spoil_first_training_clip(data: Path) -> str:
    path = data / "train" / "00000.parquet"
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(i) for i in range(file.num_row_groups)]
    mel = groups[0]["mel"].to_pylist()
    mel[0] = np.full(len(mel[0]), np.nan, np.float32).tolist()
    place = groups[0].schema.get_field_index("mel")
    groups[0] = groups[0].set_column(
        place, groups[0].schema.field("mel"), pa.array(mel, pa.list_(pa.float32()))
    )
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"][0]["bytes"] = (
        path.stat().st_size
    )  # a NaN that was there from the start: nothing is torn
    (data / "manifest.json").write_text(json.dumps(manifest))
    return str(groups[0]["clip_id"][0])


def test_dry_run_needs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    place = (f"out={tmp_path / 'out'}", f"data.root={tmp_path / 'none'}")
    result = call("cli", "train", "--config", DEMO / "dit_a2m.yaml", place[0], "--dry-run", place[1])
    assert result.returncode == 0 and "parameters of dit" in result.stdout, result.stderr
    assert not list(tmp_path.iterdir())


def test_a_run_says_where_it_goes_on(
    prepared: Manifest, tiny_overrides: TinyOverrides, tmp_path: Path
) -> None:
    overrides = tiny_overrides("music_vae", tmp_path, prepared.root)
    command = ("--config", DEMO / "music_vae.yaml", *overrides)
    assert "goes on" not in call("train", *command).stdout
    result = call("train", *command, "train.max_steps=3")
    newest = tmp_path / "music_vae" / "checkpoints" / "step-000000002"
    assert f"music_vae goes on at step 2 of 3 (checkpoint {newest})." in result.stdout


def test_a_disk_that_fills_while_training(train: Callable[..., str], tmp_path: Path) -> None:
    """No file may grow beyond 100 kB: the system refuses the export, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        text = train("music_vae")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        f"the run folder {tmp_path / 'out' / 'music_vae'} cannot be written" in text and "make room" in text
    )


def test_two_trainings_of_one_name(train: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "out" / "music_vae"
    folder.mkdir(parents=True)
    with (folder / "train.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"another training works in {folder}" in train("music_vae")


def test_an_interrupted_run_says_how_to_continue(
    prepared: Manifest, tiny_overrides: TinyOverrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, calls = Trainer._validate, []

    def interrupted(trainer: Trainer, done: int) -> dict[str, float]:
        calls.append(done)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(trainer, done)

    monkeypatch.setattr(Trainer, "_validate", interrupted)
    overrides = tiny_overrides("music_vae", tmp_path, prepared.root)
    result = call("train", "--config", DEMO / "music_vae.yaml", *overrides, "train.validate_every=1")
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == (
        f"interrupted: music_vae has its newest checkpoint at {tmp_path / 'music_vae/checkpoints/step-000000001'}; "
        "run the same command again to continue from there."
    )


def test_ctrl_c_under_ray_closes_the_tracked_run(
    prepared: Manifest, tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train takes SIGINT over, ends the workers and then raises SystemExit; here it is in place of its trainer."""
    calls: list[object] = []
    tracker = SimpleNamespace(
        start=lambda name, params, run_id: calls.append((name, run_id)),
        finish=lambda status: calls.append(status),
    )

    def on_ray(config: RunConfig, spec: object, total_steps: int) -> None:
        RunFolder(config).keep_tracking_id("abc")
        with _interruptible():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise SystemExit(1)

    monkeypatch.setattr(run_module, "open_tracker", lambda *_: tracker)
    monkeypatch.setattr(run_module, "_with_ray_device", lambda config: config)
    monkeypatch.setattr(run_module, "_check_room", lambda _: None)
    monkeypatch.setattr(run_module, "_run_on_ray", on_ray)
    before = signal.getsignal(signal.SIGINT)
    config = tiny_config("music_vae", tmp_path, prepared.root, more=("train.strategy=ddp",))
    with pytest.raises(
        KeyboardInterrupt, match="interrupted: music_vae has no checkpoint yet; run the same command"
    ):
        run_module.train(config)
    assert calls == [("music_vae", "abc"), "KILLED"] and signal.getsignal(signal.SIGINT) == before


def test_a_transformer_of_other_channels_than_its_latents(train: Callable[..., str], tmp_path: Path) -> None:
    assert "set model.in_channels=20" in train("dit_a2m", "model.in_channels=7")
    assert "set model.condition_channels=20" in train("dit_a2m", "model.condition_channels=7")
    assert not (tmp_path / "out").exists()


# -- generation and evaluation -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "song.wav"
    write_wav(path, np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32), 16000)
    return path


def generate(runs: Path, task: str, *more: object) -> str:
    return sentence(call("cli", "generate", "--checkpoint", runs, "--task", task, "--steps", 2, *more))


def test_generate_without_input(tiny_runs: Path) -> None:
    assert "task a2m needs --input: music" in generate(tiny_runs, "a2m")


def test_commands_are_refused_alike_in_a_process_of_their_own(tmp_path: Path) -> None:
    text = sentence(
        run("cli", "generate", "--checkpoint", tmp_path, "--task", "a2m", "--input", tmp_path / "none.wav")
    )
    assert f"no input at {tmp_path / 'none.wav'}" in text
    text = sentence(run("cli", "prepare", "--no-ray", "--out", tmp_path / "out", "--source", "dances"))
    assert "no source named 'dances'" in text


def test_generate_with_a_missing_file(tiny_runs: Path, tmp_path: Path) -> None:
    assert f"no input at {tmp_path / 'none.wav'}" in generate(
        tiny_runs, "a2m", "--input", tmp_path / "none.wav"
    )


def test_generate_from_a_text_file(tiny_runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_text("This is a letter, not a song.\n" * 20)
    assert str(path) in generate(tiny_runs, "a2m", "--input", path)
    shutil.copyfile(path, tmp_path / "dance.npz")
    assert "dance.npz" in generate(tiny_runs, "m2a", "--input", tmp_path / "dance.npz")


def test_generate_jointly_without_seconds(tiny_runs: Path) -> None:
    assert "give seconds" in generate(tiny_runs, "joint")


def test_generate_with_a_network_that_is_not_there(tiny_runs: Path, sound: Path, tmp_path: Path) -> None:
    text = generate(tiny_runs / "dit_m2a", "a2m", "--input", sound)
    assert "task a2m needs a trained dit_a2m" in text and "dit_m2a" in text
    assert "no diffusion transformer" in generate(tiny_runs / "music_vae", "a2m", "--input", sound)
    assert f"no trained model at {tmp_path / 'none'}" in generate(tmp_path / "none", "a2m", "--input", sound)


def test_generate_with_settings_out_of_range(tiny_runs: Path, sound: Path) -> None:
    assert "-n is 0" in generate(tiny_runs, "a2m", "--input", sound, "-n", 0)
    assert "gamma" in generate(tiny_runs, "joint", "--seconds", 2, "--gamma", 2)
    assert "expected one of ddim, ddpm, dpm++" in generate(
        tiny_runs, "a2m", "--input", sound, "--sampler", "euler"
    )
    assert "sampler" in generate(tiny_runs, "joint", "--seconds", 2, "--sampler", "ddpm")


def test_generate_into_what_is_no_folder(
    tiny_runs: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before anything is sampled."""
    monkeypatch.setattr("momu_dist.inference.generator.Generator.generate", None)
    text = generate(tiny_runs, "a2m", "--input", sound, "--out", sound / "samples")
    assert f"{sound / 'samples'} cannot be made" in text


def test_generate_into_files(tiny_runs: Path, sound: Path, tmp_path: Path) -> None:
    """The same command without a mistake, so that the refusals above are not refusals of everything."""
    arguments = (
        "--checkpoint",
        tiny_runs,
        "--task",
        "a2m",
        "--steps",
        2,
        "--input",
        sound,
        "--out",
        tmp_path,
    )
    result = run("cli", "generate", *arguments)
    assert result.returncode == 0, result.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {
        ".wav",
        ".npz",
        ".json",
        ".bvh",
        ".csv",
        ".mp4",
        ".png",
    }


def test_evaluate_on_what_is_not_there(tiny_runs: Path, tmp_path: Path) -> None:
    text = sentence(call("cli", "evaluate", "--checkpoint", tiny_runs, "--data", tmp_path))
    assert f"no prepared data at {tmp_path}" in text


def test_evaluate_on_other_features(tiny_runs: Path, prepared: Manifest, tmp_path: Path) -> None:
    shutil.copytree(prepared.root, tmp_path / "data")
    edit_json(tmp_path / "data" / "manifest.json", feature_fingerprint="0123456789abcdef")
    text = sentence(call("cli", "evaluate", "--checkpoint", tiny_runs, "--data", tmp_path / "data"))
    assert "other features" in text


def test_evaluate_on_an_empty_split(tiny_runs: Path, prepared: Manifest, tmp_path: Path) -> None:
    """Training clips must not stand in for test clips unsaid."""
    shutil.copytree(prepared.root, tmp_path / "data")
    index = prepared.clips.filter([split != "test" for split in prepared.clips["split"].to_pylist()])
    pq.write_table(index, tmp_path / "data" / "index.parquet")
    text = sentence(call("cli", "evaluate", "--checkpoint", tiny_runs, "--data", tmp_path / "data"))
    assert "test" in text and "no clips" in text
    assert "-n is 0" in sentence(
        run("cli", "evaluate", "--checkpoint", tiny_runs, "--data", tmp_path, "-n", 0)
    )


# -- preparation -------------------------------------------------------------------------------------------------------


def prepare(out: Path, *more: object) -> str:
    return sentence(call("cli", "prepare", "--no-ray", "--out", out, *more))


def test_prepare_an_unknown_source(tmp_path: Path) -> None:
    text = prepare(tmp_path / "out", "--source", "dances")
    assert "no source named 'dances'" in text and "synthetic" in text
    neither, both = prepare(tmp_path / "out"), prepare(tmp_path / "out", "--source", "music", "--recipe", "x")
    assert neither == both and "synthetic) or --recipe FILE" in neither


def test_prepare_a_wrong_root(tmp_path: Path) -> None:
    for root in (tmp_path / "none", tmp_path):
        assert str(root) in prepare(tmp_path / "out", "--source", "dance_with_melody", "--root", root)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [
        "shard_mb=large",
        "fractions=abc",
        "window=5",
        "row_group_clips=[1]",
        "seed",
        "seed=[",
        "source_options.root=x",
        "source_options.n_clips=x",
    ],
)
def test_prepare_with_a_wrong_option(tmp_path: Path, option: str) -> None:
    name = option.split("=")[0].removeprefix("source_options.")
    assert name in prepare(tmp_path / "out", "--source", "synthetic", option)


def test_a_dry_run_looks_up_registered_models(tmp_path: Path) -> None:
    text = sentence(
        call(
            "train",
            "--config",
            DEMO / "motion_vae.yaml",
            f"out={tmp_path}",
            "inputs.music_vae=models:/nobody@x",
            "--dry-run",
        )
    )
    assert "no MLflow store" in text
