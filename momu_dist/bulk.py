"""Many samples without a service: the items of a manifest, by processes of Ray Data that each hold the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from momu_dist.client.asking import checked_item
from momu_dist.client.jobs import ItemState, names_of
from momu_dist.client.manifest import read_manifest
from momu_dist.data.progress import progress
from momu_dist.data.ray_pipeline import map_batches
from momu_dist.errors import DataError, MomuError
from momu_dist.inference.generator import Generator
from momu_dist.inference.inputs import read_inputs
from momu_dist.inference.outputs import output_folder
from momu_dist.inference.request import Request, Task, variations
from momu_dist.inference.writing import naming, whole
from momu_dist.serving.items import FromMotion, FromMusic, Joint, Settings, request_of
from momu_dist.serving.making import encoded
from momu_dist.train.ray_session import ray_session

RECORD = ".manifest.json"
"""In a folder of results: what they are results of."""

_SETTINGS: dict[Task, type[Settings]] = {"a2m": FromMusic, "m2a": FromMotion, "joint": Joint}


@dataclass(frozen=True)
class Models:
    """What each process loads."""

    checkpoints: tuple[str, ...]
    vocoder: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Items made now, made before, and those that failed, each with its sentence."""

    made: int
    before: int
    failed: dict[int, str]


def run_bulk(
    manifest: Path, out: Path, models: Models, workers: int = 1, batch: int = 16, gpus: float = 0.0
) -> Outcome:
    """Make each item of `manifest` as a file in `out`, named by its id or number; what is there already stays.

    Items are those of `momu client batch`. A killed run goes on where it was, as a file is there whole or not at all.
    Raises DataError for a manifest with mistakes, or a folder of another one's results, before anything is made.
    """
    items, sha256 = read_manifest(manifest)
    units = [_unit(number, item) for number, item in enumerate(items, start=1)]
    named = [ItemState(i, item.get("id"), "", None, 0.0, None) for i, item in enumerate(items)]
    for unit, name in zip(units, names_of(named), strict=True):
        unit["path"] = str(output_folder(out) / f"{name}.{_ending(unit)}")
    _claim(out, sha256, models)
    left = [{**unit, "index": i} for i, unit in enumerate(units) if not Path(unit["path"]).is_file()]
    failed: dict[int, str] = {}
    if left:
        with ray_session(workers), progress(len(left), "making", "item") as bar:
            for result in map_batches(left, partial(Maker, models), batch, workers, num_gpus=gpus):
                if result["error"]:
                    failed[result["index"]] = result["error"]
                bar.update(1)
    return Outcome(len(left) - len(failed), len(units) - len(left), failed)


class Maker:
    """Makes a batch of items at a time; an item that cannot be made fails alone."""

    def __init__(self, models: Models) -> None:
        self._generator = Generator.load(*models.checkpoints, device=models.device, vocoder=models.vocoder)

    def __call__(self, units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One result a unit: its index, and the error that it failed with or None."""
        requests: list[tuple[int, list[Request]]] = []
        errors: dict[int, str] = {}
        for place, unit in enumerate(units):
            try:
                asked = self._requests(unit)
                for request in asked:
                    self._generator.prepare(request)
                requests.append((place, asked))
            except MomuError as error:
                errors[place] = str(error)
        samples = iter(self._generator.generate([one for _, asked in requests for one in asked]))
        for place, asked in requests:
            made = [next(samples) for _ in asked]
            try:
                self._write(units[place], made)
            except MomuError as error:
                errors[place] = str(error)
        return [{"index": unit["index"], "error": errors.get(place)} for place, unit in enumerate(units)]

    def _requests(self, unit: dict[str, Any]) -> list[Request]:
        settings = _settings(unit)
        inputs = read_inputs(unit["task"], unit["input"], unit["settings"].get("fps"), settings.seconds)
        return variations(request_of(unit["task"], settings, inputs), settings.n)

    def _write(self, unit: dict[str, Any], samples: Sequence[Any]) -> None:
        origin = {"weights": dict(self._generator.models.origins)}
        made = encoded(samples, _settings(unit).format, origin)
        with whole(Path(unit["path"])) as path:
            path.write_bytes(made.content)


def _unit(number: int, item: dict[str, Any]) -> dict[str, Any]:
    """An item, checked: its task, its settings and the path of its input."""
    line, path = checked_item(number, item)
    task, _ = line.pop("task"), line.pop("id", None)
    unit = {"task": task, "settings": line, "input": None if path is None else str(path.absolute())}
    try:
        _settings(unit)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DataError(f"item {number} of the manifest cannot be made ({faults}).") from None
    return unit


def _settings(unit: dict[str, Any]) -> Settings:
    task: Task = unit["task"]
    return _SETTINGS[task](**unit["settings"])


def _ending(unit: dict[str, Any]) -> str:
    settings = _settings(unit)
    return "zip" if settings.n > 1 else settings.format


def _claim(out: Path, sha256: str, models: Models) -> None:
    """Let `out` belong to this manifest and these models."""
    path = out / RECORD
    mine = {"manifest_sha256": sha256, "checkpoints": list(models.checkpoints), "vocoder": models.vocoder}
    if not path.exists():
        with naming(path):
            path.write_text(json.dumps(mine, indent=2) + "\n")
    elif json.loads(path.read_text()) != mine:
        raise DataError(
            f"{out} is for results of another manifest or of other models; give another folder, or delete {path} to mix them."
        )
