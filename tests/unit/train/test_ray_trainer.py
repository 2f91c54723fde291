"""What the driver and the workers on Ray make of a run folder that is gone. Ray itself is not started."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from momu_dist.config.load import config_from_dict, resolved_dict
from momu_dist.errors import DiskError, GivenUp
from momu_dist.train import ray_trainer as module
from momu_dist.train.folder import RunFolder


def test_workers_that_are_started_again_without_the_run_folder_end_and_the_driver_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_from_dict({"stage": "dit_a2m", "name": "run", "out": str(tmp_path)}, where="test")
    folder, trained = RunFolder(config), []
    monkeypatch.setattr(module, "run_worker", lambda *arguments: trained.append(arguments))
    given: dict[str, Any] = {"config": resolved_dict(config), "spec": None, "total_steps": 1, "drains": False}
    folder.open(config, {})
    module._worker(given)
    module._raise_failure(folder)
    assert len(trained) == 1
    shutil.rmtree(folder.path)
    (folder.path / "ray" / "run").mkdir(parents=True)  # as Ray does
    module._worker(given)
    assert len(trained) == 1
    (folder.path / "train.lock").touch()  # of a run that somebody else begins there
    with pytest.raises(DiskError, match="run is gone"):
        module._raise_failure(folder)
    assert folder.path.is_dir()
    (folder.path / "train.lock").unlink()
    with pytest.raises(DiskError, match="run is gone"):
        module._raise_failure(folder)
    assert not folder.path.exists(), "one that is brought back is not moved into it"


@pytest.mark.parametrize("ended", [True, False])
def test_whether_workers_begin_is_what_the_first_of_them_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    config = config_from_dict({"stage": "dit_a2m", "name": "run", "out": str(tmp_path)}, where="test")
    folder, trained = RunFolder(config), []
    folder.open(config, {})
    if not ended:
        folder.fail("what this worker sees, and the first one does not")
    monkeypatch.setattr(module, "run_worker", lambda *arguments: trained.append(arguments))
    monkeypatch.setattr(module, "from_rank_0", lambda own: ended)
    module._worker({"config": resolved_dict(config), "spec": None, "total_steps": 1, "drains": False})
    assert len(trained) == (0 if ended else 1)


def test_workers_get_the_login_of_the_tracker_that_is_stored_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = {"uri": "http://me:secret@h:5000"}
    config = config_from_dict(
        {"stage": "dit_a2m", "name": "run", "out": str(tmp_path), "tracking": tracking}, where="test"
    )
    RunFolder(config).open(config, {})
    given: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, *_: object, train_loop_config: dict[str, Any], **__: object) -> None:
            given.append(train_loop_config)

        def fit(self) -> None: ...

    monkeypatch.setattr(module, "_Trainer", Trainer)
    with pytest.raises(GivenUp):  # these end without finishing
        module.run_on_ray(config, None, 1)  # type: ignore[arg-type]
    assert config_from_dict(given[0]["config"], where="there") == config
