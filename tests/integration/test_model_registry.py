"""From a run to a registered model and back, with a real MLflow on sqlite and with a server that is away."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from momu_dist import cli
from momu_dist.config.schema import RunConfig
from momu_dist.data.manifest import Manifest
from momu_dist.errors import CheckpointError
from momu_dist.inference.export import find_export
from momu_dist.inference.generator import Generator
from momu_dist.inference.models import load_vae
from momu_dist.inference.request import Request
from momu_dist.tracking import open_tracker
from momu_dist.tracking.events import Spool
from momu_dist.tracking.registry import promote, resolve
from momu_dist.train.exports import register_best
from momu_dist.train.folder import RunFolder
from momu_dist.train.run import train

pytestmark = pytest.mark.integration
TinyConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, prepared: Manifest, tiny_config: TinyConfig) -> Path:
    """A folder with the tracked run of a music VAE and its store; not to be changed."""
    out = tmp_path_factory.mktemp("tracked")
    more = ("tracking.uri=auto", "train.max_steps=3", "train.validate_every=1")
    train(tiny_config("music_vae", out, prepared.root, more=more))
    return out


def store(out: Path) -> str:
    return f"sqlite:///{out / 'mlflow.db'}"


def test_a_finished_run_is_a_candidate_that_says_where_it_comes_from(
    registered: Path, prepared: Manifest
) -> None:
    from mlflow.tracking import MlflowClient

    run = registered / "music_vae"
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = {entry["step"]: entry["val/rec"] for entry in history if "val/rec" in entry and entry["step"]}
    best_step = min(values, key=lambda step: values[step])
    best = find_export(run / "best")
    assert (best.facts["step"], best.facts["validation"]) == (best_step, values[best_step])

    client = MlflowClient(store(registered), store(registered))
    version = client.get_model_version_by_alias("momu-music_vae", "candidate")
    folder = run / "registered" / f"step-{best_step:09d}"
    assert version.source == folder.as_uri()
    assert version.tags["momu.run_id"] == (run / "tracking-id.txt").read_text()
    assert client.get_run(version.run_id).info.run_name == "music_vae"
    assert version.tags["momu.step"] == str(best_step)
    assert version.tags["momu.sha256"] == best.sha256
    assert version.tags["momu.data_fingerprint"] == prepared.fingerprint
    assert resolve("models:/momu-music_vae@candidate", store(registered)) == folder
    assert resolve("models:/momu-music_vae/1", store(registered)) == folder
    named, by_path = load_vae(find_export(folder)).state_dict(), load_vae(best).state_dict()
    assert all(torch.equal(named[name], value) for name, value in by_path.items())


def test_registering_again_changes_nothing_and_a_better_export_is_the_next_version(
    registered: Path, prepared: Manifest, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    def register(config: RunConfig, folder: RunFolder) -> list[int]:
        tracker = open_tracker(store(tmp_path), "test", folder.path)
        tracker.start("a", {}, run_id="abc")
        register_best(config, folder, tracker)
        tracker.finish()
        client = MlflowClient(store(tmp_path), store(tmp_path))
        return sorted(int(found.version) for found in client.search_model_versions("name = 'mine'"))

    shutil.copytree(registered / "music_vae", tmp_path / "music_vae")
    config = tiny_config("music_vae", tmp_path, prepared.root, more=("tracking.registered_model=mine",))
    folder = RunFolder(config)
    assert register(config, folder) == [1]
    first = resolve("models:/mine@candidate", store(tmp_path))
    assert register(config, folder) == [1]

    tree = json.loads((folder.best / "model.json").read_text())
    (folder.best / "model.json").unlink()  # its content is shared with what is registered
    (folder.best / "model.json").write_text(json.dumps({**tree, "step": 9}))
    assert register(config, folder) == [1, 2]
    assert resolve("models:/mine@candidate", store(tmp_path)).name == "step-000000009"
    assert resolve("models:/mine/1", store(tmp_path)) == first

    shutil.rmtree(folder.best)
    shutil.copytree(first, folder.best)  # as a late replay of the first registration
    assert register(config, folder) == [1, 2]
    assert resolve("models:/mine@candidate", store(tmp_path)).name == "step-000000009"


def test_promotion_by_command_and_what_it_answers_to_mistakes(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(registered / "mlflow.db", tmp_path)

    def momu_promote(*arguments: str) -> tuple[int, str]:
        code = cli.main(["promote", *arguments, "--tracking-uri", store(tmp_path)])
        out = capsys.readouterr()
        return code, (out.err if code else out.out).strip()

    assert momu_promote("momu-music_vae") == (0, "momu-music_vae@champion: new -> version 1")
    assert momu_promote("momu-music_vae/1") == (0, "momu-music_vae@champion: version 1 -> version 1")
    assert momu_promote("models:/momu-music_vae@champion", "--alias", "served") == (
        0,
        "momu-music_vae@served: new -> version 1",
    )
    where = resolve("models:/momu-music_vae@candidate", store(tmp_path))
    assert resolve("models:/momu-music_vae@champion", store(tmp_path)) == where
    for model, expected in (
        ("nobody", f"error: no model nobody is registered at {store(tmp_path)}; there are: momu-music_vae."),
        (
            "momu-music_vae@best",
            "error: the model momu-music_vae has no alias best; it has: candidate (version 1), champion (version 1), "
            "served (version 1).",
        ),
        ("momu-music_vae/7", "error: the model momu-music_vae has no version 7; it has: 1."),
    ):
        assert momu_promote(model) == (2, expected)
    code, text = momu_promote("momu-music_vae", "--alias", "v3")
    assert code == 2 and text.count("\n") == 0 and "reserved" in text


def test_a_changed_or_lost_export_is_refused(
    prepared: Manifest, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    train(tiny_config("music_vae", tmp_path, prepared.root, more=("tracking.uri=auto",)))
    folder = resolve("models:/momu-music_vae@candidate", store(tmp_path))
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text + " ")
    with pytest.raises(CheckpointError, match=r"version 1 of momu-music_vae .* was changed after it was"):
        resolve("models:/momu-music_vae@candidate", store(tmp_path))
    (folder / "model.json").write_text(text)
    assert resolve("models:/momu-music_vae@candidate", store(tmp_path)) == folder
    (folder / "more").write_text("one file more")
    with pytest.raises(CheckpointError, match="was changed after"):
        resolve("models:/momu-music_vae@candidate", store(tmp_path))
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="which is not there"):
        resolve("models:/momu-music_vae@candidate", store(tmp_path))


def test_runs_and_commands_take_registered_models(
    registered: Path, prepared: Manifest, tiny_config: TinyConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A motion VAE and a transformer from registered VAEs equal those from paths; sampling by name equals by path."""
    uri = f"tracking.uri={store(registered)}"
    music = "models:/momu-music_vae@candidate"
    train(tiny_config("motion_vae", tmp_path, prepared.root, more=(uri, f"inputs.music_vae={music}")))
    named = (
        uri,
        f"inputs.music_vae={music}",
        "inputs.motion_vae=models:/momu-motion_vae/1",
        f"inputs.init_from={music}",
    )
    with pytest.raises(CheckpointError, match="holds a music_vae model, expected dit_m2a"):
        train(tiny_config("dit_m2a", tmp_path, prepared.root, more=named))
    train(tiny_config("dit_m2a", tmp_path, prepared.root, more=named[:-1]))
    paths = (
        f"inputs.music_vae={registered / 'music_vae' / 'best'}",
        f"inputs.motion_vae={tmp_path / 'motion_vae' / 'best'}",
    )
    train(tiny_config("dit_m2a", tmp_path / "by_path", prepared.root, more=paths))
    by_path = find_export(tmp_path / "by_path" / "dit_m2a")
    assert find_export(tmp_path / "dit_m2a").sha256 == by_path.sha256

    best = resolve("models:/momu-dit_m2a@candidate", store(registered))
    motion = np.cumsum(np.ones((125, 14, 2), dtype=np.float32), axis=1) * 10
    request = Request("m2a", seconds=2.0, steps=2, motion_px=motion)
    samples = [
        Generator.load(path, device="cpu").generate(request)[0].mel
        for path in (best, tmp_path / "dit_m2a" / "best")
    ]
    assert (samples[0] == samples[1]).all()
    with pytest.raises(CheckpointError, match=r"momu_dist\.tracking\.registry\.resolve"):
        Generator.load("models:/momu-dit_m2a@candidate")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(registered))
    capsys.readouterr()
    assert (
        cli.main(["evaluate", "--checkpoint", "models:/momu-dit_m2a@nobody", "--data", str(prepared.root)])
        == 2
    )
    assert "has no alias nobody" in capsys.readouterr().err
    arguments = ["--data", str(prepared.root), "-n", "2", "--steps", "2", "--checkpoint"]
    scores = []
    for checkpoint in ("models:/momu-dit_m2a@candidate", str(best)):
        assert cli.main(["evaluate", *arguments, checkpoint]) == 0
        scores.append(json.loads(capsys.readouterr().out)["beat_f1"])
    assert scores[0] == scores[1]


def test_a_store_that_is_away_ends_no_run_and_gets_the_model_later(
    prepared: Manifest, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    with socket.socket() as probe:  # a port of this machine on which nobody listens
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    away = tiny_config("music_vae", tmp_path, prepared.root, more=(f"tracking.uri=http://127.0.0.1:{port}",))
    run = train(away)
    assert (run / "finished.json").exists()
    spool = run / "tracking-spool.jsonl"
    assert "model" in [event.kind for event in Spool(spool).read(1000)[0]]

    with pytest.raises(CheckpointError, match="the model registry at http.* failed: "):
        promote("momu-music_vae", uri=f"http://127.0.0.1:{port}")
    back = tiny_config("music_vae", tmp_path, prepared.root, more=("tracking.uri=auto",))
    assert train(back) == run  # it is finished; only what waits is sent
    assert not spool.exists()
    assert find_export(resolve("models:/momu-music_vae@candidate", store(tmp_path))).facts["step"] > 0
