"""Exports come back as they were written, and nothing altered is used."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from momu_dist.config.load import config_from_dict, resolved_dict
from momu_dist.core.models.autoencoder import Autoencoder
from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError
from momu_dist.inference import models
from momu_dist.inference.export import Export, exports_under, find_export, link_export, settled, write_export
from momu_dist.inference.models import check_models, load_models, load_vae

CONFIG = config_from_dict(
    {
        "stage": "music_vae",
        "name": "tiny",
        "model": {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_layers": []},
    },
    where="test",
)
CPU = torch.device("cpu")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Autoencoder(CONFIG.model)


def write(run: Path, seed: int = 0, stage: str = "music_vae") -> Path:
    folder = run / "export"
    run.mkdir(exist_ok=True)
    config = {**resolved_dict(CONFIG), "stage": stage}
    write_export(folder, config, network(seed).state_dict(), {"feature_fingerprint": "ff", "step": 3}, {})
    return folder


def same_weights(net: nn.Module, seed: int) -> bool:
    mine, theirs = net.state_dict(), network(seed).state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("inside", ["", "export"])
def test_round_trip_by_run_folder_or_export_folder(tmp_path: Path, inside: str) -> None:
    write(tmp_path / "run")
    export = find_export(tmp_path / "run" / inside, stage="music_vae")
    assert export.config == CONFIG and export.stage == "music_vae"
    assert export.facts["feature_fingerprint"] == "ff" and export.facts["step"] == 3
    assert export.facts["parameters"] == sum(p.numel() for p in network(0).parameters())
    vae = load_vae(export)
    assert same_weights(vae, 0) and not vae.training


def test_a_second_export_replaces_the_first_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    write(tmp_path, seed=1)
    assert same_weights(load_vae(find_export(tmp_path)), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_an_export_that_is_replaced_between_two_files_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, seed=0)
    seeds = iter((1, 2))

    def read(found: list[Export]) -> tuple[Export, nn.Module]:
        for seed in seeds:  # once only: between the description and the weights, and a second time
            write(tmp_path, seed)
        return found[0], load_vae(found[0])

    export, vae = settled(lambda: [find_export(tmp_path)], read)
    assert same_weights(vae, 2) and export.sha256 == find_export(tmp_path).sha256


def test_what_is_wrong_with_an_export_that_stands_is_said_at_once(tmp_path: Path) -> None:
    weights, looks = write(tmp_path) / "model.safetensors", []
    weights.write_bytes(weights.read_bytes()[:-1])

    def find() -> list[Export]:
        looks.append(1)
        return [find_export(tmp_path)]

    with pytest.raises(CheckpointError, match="the file is torn"):
        settled(find, lambda found: load_vae(found[0]))
    assert looks == [1]


def test_reading_while_training_replaces_never_mixes_two_exports(tiny_runs: Path, tmp_path: Path) -> None:
    """Two exports by turns, with every number different and a step of their own; a reader gets one of them or the other."""
    source = tiny_runs / "dit_a2m" / "export"
    kinds = []
    for number in (1, 2):
        kinds.append(shutil.copytree(source, tmp_path / f"kind-{number}"))
        for folder in (kinds[-1], kinds[-1] / "music_vae", kinds[-1] / "motion_vae"):
            weights = load_file(folder / "model.safetensors")
            save_file(
                {name: torch.full_like(value, number) for name, value in weights.items()},
                folder / "model.safetensors",
            )
            tree = json.loads((folder / "model.json").read_text())
            tree["sha256"] = file_sha256(folder / "model.safetensors")
            (folder / "model.json").write_text(json.dumps(tree))
    whole = [load_models([kind], CPU).origins for kind in kinds]
    assert not set(whole[0].values()) & set(whole[1].values())
    link_export(kinds[0], tmp_path / "run" / "export")
    done, replaced, rng = threading.Event(), [], random.Random(0)

    def replace() -> None:
        while not done.wait(rng.choice([0.0, 0.02, 0.3])):
            replaced.append(1)
            kind = kinds[len(replaced) % 2]
            tree = json.loads((kind / "model.json").read_text()) | {"step": 100 + len(replaced)}
            (kind / "model.json").unlink()  # the one that was put in place shares its file
            (kind / "model.json").write_text(json.dumps(tree))
            link_export(kind, tmp_path / "run" / "export")

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        until = time.monotonic() + 60
        while len(replaced) <= 5 and time.monotonic() < until:
            loaded = load_models([tmp_path / "run"], CPU)
            number = 1 + whole.index(loaded.origins)
            for vae in (loaded.music_vae, loaded.motion_vae):
                assert all((value == number).all() for value in vae.state_dict().values())
            find_export(tmp_path / "run")  # never missing
    finally:
        done.set()
        thread.join()
    assert len(replaced) > 5


def test_an_export_that_was_put_aside_when_a_process_was_killed_is_read_at_once(tmp_path: Path) -> None:
    write(tmp_path).rename(tmp_path / ".export-old")
    began = time.monotonic()
    for path in (tmp_path, tmp_path / "export"):
        assert same_weights(load_vae(find_export(path)), 0)
    assert time.monotonic() - began < 0.5
    write(tmp_path, seed=1)
    (tmp_path / ".export-old").mkdir(exist_ok=True)  # killed while it was being removed
    assert same_weights(load_vae(find_export(tmp_path)), 1)


def test_a_run_beside_that_trains_on_is_not_waited_for(tiny_runs: Path, tmp_path: Path) -> None:
    """Of a folder of runs only those that are used must stand still."""
    for name in ("dit_a2m", "music_vae"):
        shutil.copytree(tiny_runs / name, tmp_path / name)
    usual, tree = models.load_vae, tmp_path / "music_vae" / "export" / "model.json"

    def load(export: Export) -> Any:
        facts = json.loads(tree.read_text())
        tree.write_text(json.dumps(facts | {"step": facts["step"] + 1}))
        return usual(export)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_vae", load)
        assert load_models([tmp_path], CPU).origins


def test_what_a_killed_export_left_is_cleared(tmp_path: Path) -> None:
    for name in (".export-writing", ".export-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rest").write_text("half")
    write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_weights_hold_no_pickle(tmp_path: Path) -> None:
    folder = write(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert (
        file_sha256(folder / "model.safetensors") == json.loads((folder / "model.json").read_text())["sha256"]
    )


@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_an_altered_file_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path) / "model.safetensors"
    content = bytearray(path.read_bytes())
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(content[:-100])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        load_vae(find_export(tmp_path))
    assert str(caught.value).endswith(".")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    write_export(folder, resolved_dict(CONFIG), {"other": torch.zeros(2)}, {}, {})
    with pytest.raises(CheckpointError, match="does not fit the network of its config"):
        load_vae(find_export(folder))


def test_weights_of_other_sizes_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    state = {name: torch.zeros(1) for name in network(0).state_dict()}
    write_export(folder, resolved_dict(CONFIG), state, {}, {})
    with pytest.raises(CheckpointError, match="does not fit the network of its config"):
        load_vae(find_export(folder))


def test_another_stage_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(CheckpointError, match="holds a music_vae model, expected motion_vae"):
        find_export(tmp_path, stage="motion_vae")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        find_export(tmp_path / "none")
    with pytest.raises(CheckpointError, match="has no export yet"):
        find_export(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 3}'])
def test_a_torn_description_is_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path) / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.json|export format"):
        find_export(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path) / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="export format 99"):
        find_export(tmp_path)


def test_a_folder_of_runs_gives_them_all(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    assert [export.folder.parent.name for export in exports_under(tmp_path)] == ["a", "b"]
    assert [export.folder for export in exports_under(tmp_path / "a")] == [tmp_path / "a" / "export"]
    with pytest.raises(CheckpointError):
        exports_under(tmp_path / "unfinished")


def test_one_transformer_brings_its_vaes(tiny_runs: Path, tmp_path: Path) -> None:
    """The export of a diffusion stage can be moved away from the runs it was made from."""
    shutil.copytree(tiny_runs / "dit_a2m" / "export", tmp_path / "elsewhere")
    models = load_models([tmp_path / "elsewhere"], CPU)
    assert set(models.denoising) == {"a2m"}
    for name in ("music_vae", "motion_vae"):
        alone = load_vae(find_export(tiny_runs / name)).state_dict()
        brought = getattr(models, name).state_dict()
        assert all(torch.equal(brought[key], value) for key, value in alone.items())
    assert set(models.origins) == {"a2m", "music_vae", "motion_vae"}


def test_of_several_runs_of_a_stage_the_one_called_as_the_stage_is_meant(
    tiny_runs: Path, tmp_path: Path
) -> None:
    for name in ("dit_a2m", "dit_m2a"):
        shutil.copytree(tiny_runs / name, tmp_path / name)
    for name in ("again", "zz"):
        shutil.copytree(tiny_runs / "dit_a2m", tmp_path / name)
        path = tmp_path / name / "export" / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": name}))
    expected = load_models([tiny_runs], CPU).origins
    assert load_models([tmp_path], CPU).origins == expected
    check_models([tmp_path])
    (tmp_path / "dit_a2m").rename(tmp_path / "mine")
    for read in (check_models, lambda paths: load_models(paths, CPU)):
        with pytest.raises(
            CheckpointError, match=r"two different models of dit_a2m .* name the run that is meant"
        ):
            read([tmp_path])
    assert load_models([tmp_path / "mine", tmp_path / "dit_m2a"], CPU).origins == expected
    with pytest.raises(CheckpointError, match="two different models of dit_a2m"):
        check_models([tmp_path / "mine", tmp_path / "again"])


def test_transformers_over_other_vaes_are_refused(tiny_runs: Path, tmp_path: Path) -> None:
    for name in ("dit_a2m", "dit_m2a"):
        shutil.copytree(tiny_runs / name, tmp_path / name)
    assert set(load_models([tmp_path], CPU).denoising) == {"m2a", "a2m"}
    folder = tmp_path / "dit_a2m" / "export" / "motion_vae"
    export = find_export(folder)
    state = {name: value + 0.01 for name, value in load_vae(export).state_dict().items()}
    facts: dict[str, Any] = {k: v for k, v in export.facts.items() if k != "sha256"}
    write_export(folder, resolved_dict(export.config), state, facts, {})
    for read in (check_models, lambda paths: load_models(paths, CPU)):
        with pytest.raises(CheckpointError, match="trained with different motion_vaes"):
            read([tmp_path])


def test_vaes_alone_cannot_generate(tiny_runs: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no diffusion transformer .*found music_vae"):
        load_models([tiny_runs / "music_vae"], CPU)
