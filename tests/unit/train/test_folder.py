"""A run's folder: continued with the same settings, refused with others."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from momu_dist.config.load import config_from_dict, resolved_dict
from momu_dist.config.schema import RunConfig
from momu_dist.errors import ConfigError, DiskError
from momu_dist.train.folder import RunFolder, read_metrics, writing_to


def config_of(out: Path, **other: object) -> RunConfig:
    return config_from_dict({"stage": "dit_a2m", "name": "run", "out": str(out), **other}, where="test")


ORIGIN = {"data": "d1", "music_vae": "w1"}


def opened(config: RunConfig, origin: dict[str, str] = ORIGIN) -> RunFolder:
    folder = RunFolder(config)
    folder.open(config, origin)
    return folder


def test_open_writes_the_resolved_config(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = opened(config)
    tree = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert folder.path == tmp_path / "run" and tree == resolved_dict(config)
    assert config_from_dict(tree, where="there") == config


def test_a_login_of_the_tracker_is_not_stored_and_may_change(tmp_path: Path) -> None:
    for password in ("secret", "another"):
        folder = opened(config_of(tmp_path, tracking={"uri": f"http://me:{password}@h:5000"}))
        stored = (folder.path / "config.yaml").read_text()
        assert yaml.safe_load(stored)["tracking"]["uri"] == "http://***@h:5000"


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("seed", 1),
        ("model", {"hidden_size": 64, "num_heads": 2}),
        ("loss", {"condition_drop": 0.2}),
        ("optim", {"lr": 1.0}),
        ("data.length_s", {"length_s": [1, 2]}),
        ("train.precision", {"precision": "bf16"}),
        ("train.ema_decay", {"ema_decay": 0.5}),
        ("stage", "dit_m2a"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path: Path, section: str, value: object) -> None:
    folder = opened(config_of(tmp_path))
    before = (folder.path / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=f"holds a run with another {section};") as caught:
        opened(config_of(tmp_path, **{section.split(".")[0]: value}))
    assert str(folder.path) in str(caught.value)
    assert (folder.path / "config.yaml").read_text() == before


def test_check_alone_creates_nothing(tmp_path: Path) -> None:
    RunFolder(config_of(tmp_path)).check(config_of(tmp_path), ORIGIN)
    assert not (tmp_path / "run").exists()


def test_other_data_or_weights_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    opened(config_of(tmp_path))
    opened(config_of(tmp_path, inputs={"music_vae": "moved"}, data={"root": "moved"}))
    for name in ORIGIN:
        with pytest.raises(ConfigError, match=f"holds a run with another {name};"):
            opened(config_of(tmp_path), {**ORIGIN, name: "other"})


@pytest.mark.parametrize("text", ["", "a: [", "[]"])
def test_a_torn_config_is_one_sentence(tmp_path: Path, text: str) -> None:
    folder = opened(config_of(tmp_path))
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml .* delete that file"):
        opened(config_of(tmp_path))


def test_metrics_of_what_is_done_again_and_torn_lines_are_dropped(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    for step in range(1, 6):
        folder.append_metrics(step, {"total": float(step)}, 100.0 + step)
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "to')
    before = folder.rewind_metrics(3)
    assert [entry["step"] for entry in before.kept] == [1, 2, 3]
    assert before.time_of(4, {"total": 0.0}) == 104.0, "what comes again has the time it had"
    assert before.time_of(4, {"val/rec": 0.0}) > 1e9 and before.time_of(9, {"total": 0.0}) > 1e9
    assert [entry["step"] for entry in read_metrics(folder.metrics)] == [1, 2, 3]


def test_what_is_logged_again_after_two_kills_has_the_time_it_had(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    for step in range(1, 6):
        folder.append_metrics(step, {"total": float(step)}, 100.0 + step)
    before = folder.rewind_metrics(2)
    folder.append_metrics(3, {"total": 3.0}, before.time_of(3, {"total": 3.0}))
    again = folder.rewind_metrics(2)  # killed before steps 4 and 5 came again
    assert [again.time_of(step, {"total": 0.0}) for step in (3, 4, 5)] == [103.0, 104.0, 105.0]
    assert [entry["step"] for entry in folder.rewind_metrics(4).kept] == [1, 2]


def test_the_one_who_writes_waits_for_the_one_before(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    came = []

    def second() -> None:
        with folder.written_alone():
            came.append("second")

    with folder.written_alone():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        came.append("first")
    thread.join()
    assert came == ["first", "second"]


def test_what_the_system_says_of_other_things_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError):
        with writing_to(tmp_path):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    with pytest.raises(DiskError, match="No space left on device"):
        with writing_to(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_what_does_not_change_the_result_may_change(tmp_path: Path) -> None:
    opened(config_of(tmp_path))
    opened(config_of(tmp_path, train={"log_every": 3, "max_failures": 9}, tracking={"uri": "none"}))


def test_failure_is_kept_until_the_next_attempt(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    folder = opened(config)
    assert folder.failure() is None
    folder.fail("it broke.")
    assert RunFolder(config).failure() == "it broke."
    assert opened(config).failure() is None


def test_finished_and_tracking_id_come_back(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    assert folder.finished() is None and folder.tracking_id() is None
    folder.finish({"steps": 4, "export": "there"})
    folder.keep_tracking_id("abc")
    assert folder.finished() == {"steps": 4, "export": "there"} and folder.tracking_id() == "abc"


def test_metrics_are_appended_line_by_line(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    folder.append_metrics(1, {"total": 0.5}, 1.0)
    folder.append_metrics(2, {"total": 0.25}, 1.0)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(1, 0.5), (2, 0.25)]


def test_a_second_training_of_the_name_is_refused_while_the_first_lasts(tmp_path: Path) -> None:
    """The lock is the system's: a holder that dies leaves none."""
    config = config_of(tmp_path)
    with RunFolder(config).alone():
        with pytest.raises(ConfigError, match="another training works in .*run; wait for it"):
            with RunFolder(config).alone():
                pass
    with RunFolder(config).alone():
        assert (tmp_path / "run").is_dir()


def test_a_config_cut_in_the_middle_is_torn_and_no_other_run(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    whole = (folder.path / "config.yaml").read_text()
    (folder.path / "config.yaml").write_text(whole[: whole.index("loss:")])
    with pytest.raises(ConfigError, match="has no .*loss.*, it is torn"):
        opened(config_of(tmp_path))


@pytest.mark.parametrize("text", ["{}", '{"steps": "x", "export": "e"}'])
def test_a_torn_end_is_one_sentence(tmp_path: Path, text: str) -> None:
    folder = opened(config_of(tmp_path))
    (folder.path / "finished.json").write_text(text)
    with pytest.raises(ConfigError, match=r"finished\.json .* torn; delete that file"):
        folder.finished()


def test_metrics_that_are_no_entries_are_dropped(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    folder.append_metrics(1, {"total": 1.0}, 1.0)
    with folder.metrics.open("ab") as file:
        file.write(b'[1]\n{"step": "x"}\n\xff\xfe\x00\n')
    folder.append_metrics(2, {"total": 1.0}, 1.0)
    folder.rewind_metrics(5)
    assert [entry["step"] for entry in read_metrics(folder.metrics)] == [1, 2]


@contextmanager
def disk_of(most_bytes: int) -> Iterator[None]:
    """The system refuses to write more than this to a file, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("save", [torch.save, save_file, lambda tree, path: path.write_bytes(bytes(10**5))])
def test_a_full_disk_is_one_sentence_whoever_writes(tmp_path: Path, save: Callable[..., object]) -> None:
    with pytest.raises(DiskError, match="cannot be written .*make room.*the same command"):
        with disk_of(1000), writing_to(tmp_path):
            save({"net": torch.zeros(10**5)}, tmp_path / "file")


def test_files_that_could_not_be_copied_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_bytes(bytes(64))

    def copy(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskError, match="cannot be written .*No space left on device.*; make room"):
        with writing_to(tmp_path):
            shutil.copytree(tmp_path / "source", tmp_path / "target", copy_function=copy)


def test_an_error_of_the_network_is_not_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), writing_to(tmp_path):
        torch.zeros(2) + torch.zeros(3)


def test_a_file_that_is_missing_elsewhere_is_not_the_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing_to(tmp_path / "run"):
        (tmp_path / "data" / "00000.parquet").read_bytes()


def test_a_file_that_is_missing_in_a_run_that_is_there_is_named(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    with pytest.raises(DiskError, match=r"No such file or directory: .*checkpoints/\.attempt\)"):
        with writing_to(folder.path):
            (folder.checkpoints / ".attempt").write_text("")
    shutil.rmtree(folder.path)
    with pytest.raises(DiskError, match="is gone"), writing_to(folder.path):
        (folder.checkpoints / ".attempt").write_text("")


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DiskError, match="run cannot be written"),
        RunFolder(config_of(tmp_path / "file")).alone(),
    ):
        pass


def test_a_reason_that_found_no_room_is_still_a_sentence(tmp_path: Path) -> None:
    folder = opened(config_of(tmp_path))
    with disk_of(0):
        folder.fail("it broke.")
    assert "make room" in str(folder.failure())
