"""Many samples without a service: the items of a manifest, by processes of Ray Data that each hold the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from momu_dist.client.asking import checked_item, item_name
from momu_dist.client.jobs import names_of
from momu_dist.client.manifest import read_manifest
from momu_dist.data.progress import progress
from momu_dist.data.ray_pipeline import map_batches
from momu_dist.errors import DataError, MomuError
from momu_dist.inference.generator import Generator
from momu_dist.inference.inputs import read_inputs
from momu_dist.inference.outputs import output_folder
from momu_dist.inference.request import Request, Sample, Task, variations
from momu_dist.inference.writing import whole
from momu_dist.serving.faults import faults
from momu_dist.serving.items import SETTINGS, Settings, request_of
from momu_dist.serving.making import encoded
from momu_dist.train.ray_session import ray_session

RECORD = ".manifest.json"
"""In a folder of results: what they are results of."""


@dataclass(frozen=True)
class Models:
    """What each process loads."""

    checkpoints: tuple[str, ...]
    vocoder: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Items made now, made before, and those that failed, by name, each with its sentence."""

    made: int
    before: int
    failed: dict[str, str]


def run_bulk(
    manifest: Path, out: Path, models: Models, workers: int = 1, batch: int = 16, gpus: float = 0.0
) -> Outcome:
    """Make each item of `manifest` as a file in `out`, named by its id or number; what is there already stays.

    Beside a single sample lies `<name>.recipe.json`, which makes it again; a zip of several holds theirs.

    Items are those of `momu client batch`. A killed run goes on where it was, as a file is there whole or not at all.
    Raises DataError for a manifest with mistakes, or a folder of another one's results, before anything is made.
    """
    items, sha256 = read_manifest(manifest)
    units = [_unit(number, item) for number, item in enumerate(items, start=1)]
    names = names_of([(i, item.get("id")) for i, item in enumerate(items)])
    for unit, name in zip(units, names, strict=True):
        unit["path"] = str(output_folder(out) / f"{name}.{_ending(unit)}")
    _claim(out, sha256, models)
    left = [{**unit, "index": i} for i, unit in enumerate(units) if not Path(unit["path"]).is_file()]
    failed: dict[int, str] = {}
    if left:
        with ray_session(workers), progress(len(left), "making", "item") as bar:
            for result in map_batches(left, partial(BatchMaker, models), batch, workers, num_gpus=gpus):
                if result["error"]:
                    failed[result["index"]] = result["error"]
                bar.update(1)
    named = {item_name(i + 1, items[i].get("id")): failed[i] for i in sorted(failed)}
    return Outcome(len(left) - len(failed), len(units) - len(left), named)


class BatchMaker:
    """Makes a batch of items at a time; an item that cannot be made fails alone."""

    def __init__(self, models: Models) -> None:
        self._checkpoints = list(models.checkpoints)
        self._generator = Generator.load(*models.checkpoints, device=models.device, vocoder=models.vocoder)

    def __call__(self, units: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """One result a unit: its index, and the error that it failed with or None."""
        requests: dict[int, list[Request]] = {}
        errors: dict[int, str] = {}
        for place, unit in enumerate(units):
            try:
                requests[place] = self._requests(unit)
            except MomuError as error:
                errors[place] = str(error)
        made = self._made(list(requests.values()))
        for place, samples in zip(requests, made, strict=True):
            try:
                if isinstance(samples, MomuError):
                    raise samples
                self._write(units[place], samples)
            except MomuError as error:
                errors[place] = str(error)
        return [{"index": unit["index"], "error": errors.get(place)} for place, unit in enumerate(units)]

    def _requests(self, unit: dict[str, Any]) -> list[Request]:
        """What is asked for an item, as the generator takes it. Raises what stands against it."""
        settings = _settings(unit)
        inputs = read_inputs(unit["task"], unit["input"], unit["settings"].get("fps"), settings.seconds)
        requests = variations(request_of(unit["task"], settings, inputs), settings.n)
        for request in requests:
            self._generator.prepare(request)
        return requests

    def _made(self, asked: Sequence[list[Request]]) -> list[list[Sample] | MomuError]:
        """The samples of each item, or what went wrong with them; where one does, each is made by itself."""
        try:
            samples = iter(self._generator.generate([request for one in asked for request in one]))
        except MomuError as error:
            return [error] if len(asked) == 1 else [made for one in asked for made in self._made([one])]
        return [[next(samples) for _ in one] for one in asked]

    def _write(self, unit: dict[str, Any], samples: Sequence[Sample]) -> None:
        weights = dict(self._generator.models.origins)
        origin = {"input": unit["input"], "checkpoints": self._checkpoints, "weights": weights}
        made = encoded(samples, _settings(unit).format, origin)
        target = Path(unit["path"])
        if len(made.recipes) == 1:  # before the sample, which says that the item is made
            with whole(target.with_name(f"{target.name.removesuffix(target.suffix)}.recipe.json")) as path:
                path.write_text(json.dumps(made.recipes[0], indent=2) + "\n")
        with whole(target) as path:
            path.write_bytes(made.content)


def _unit(number: int, item: dict[str, Any]) -> dict[str, Any]:
    """An item, checked: its task, its settings and the path of its input."""
    line, path = checked_item(number, item)
    task, _ = line.pop("task"), line.pop("id", None)
    unit = {"task": task, "settings": line, "input": None if path is None else str(path.absolute())}
    try:
        _settings(unit)
    except ValidationError as error:
        name = item_name(number, item.get("id"))
        raise DataError(f"{name} of the manifest cannot be made ({faults(error.errors())}).") from None
    return unit


def _settings(unit: dict[str, Any]) -> Settings:
    task: Task = unit["task"]
    return SETTINGS[task](**unit["settings"])


def _ending(unit: dict[str, Any]) -> str:
    settings = _settings(unit)
    return "zip" if settings.n > 1 else settings.format


def _claim(out: Path, sha256: str, models: Models) -> None:
    """Let `out` belong to this manifest and these models."""
    path = out / RECORD
    mine = {"manifest_sha256": sha256, "checkpoints": list(models.checkpoints), "vocoder": models.vocoder}
    if not path.exists():
        with whole(path) as temporary:
            temporary.write_text(json.dumps(mine, indent=2) + "\n")
    elif _record(path) != mine:
        raise DataError(
            f"{out} is for results of another manifest or of other models; give another folder, or delete {path} to mix them."
        )


def _record(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None  # nothing of ours
