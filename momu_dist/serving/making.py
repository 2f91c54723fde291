"""One item, from its input to the bytes of its answer, on the models of this process."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from momu_dist.inference.generator import Generator
from momu_dist.inference.outputs import KINDS, recipe_of, write_as
from momu_dist.inference.request import Sample, Task, variations
from momu_dist.serving.items import Format, Settings, request_of
from momu_dist.serving.stepping import Kind, Stepper

_KIND_OF: dict[Format, str] = {
    "wav": "wav", "npz": "motion", "json": "openpose", "bvh": "bvh", "csv": "csv", "mp4": "mp4", "png": "sheet",
}  # fmt: skip
# How often a client hears of steps; each word costs a message between processes, which takes from the sampling.
_TELL_S = 0.5
# What a recipe says that makes nothing: it is measured on the sample, and long.
_MEASURED = ("onsets_s", "kinematic_beats_s")

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """Sampling steps done, of all samples of an item together."""

    done: int
    total: int


@dataclass(frozen=True)
class Made:
    """The answer to one item: a file's content, how its name ends, and what makes its samples again."""

    content: bytes
    suffix: str
    recipes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        """What makes the sample, or the first of several, again: JSON in one line of ASCII."""
        return json.dumps({name: value for name, value in self.recipes[0].items() if name not in _MEASURED})


class Maker:
    """Makes items, many at a time: all share one `Stepper`; reading and writing go on in threads beside it."""

    def __init__(
        self, stepper: Stepper, threads: int = 2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stepper = stepper
        self._clock = clock
        self._began: dict[object, float] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="making")

    async def make(
        self, generator: Generator, task: Task, settings: Settings, inputs: dict[str, Any], kind: Kind
    ) -> AsyncIterator[Progress | Made]:
        """Yield progress now and then, and at last what was made. Closing the iterator ends the item's walks.

        `kind` says who asks, a request or a job. Raises as `Generator.prepare` and `Generator.finish` do.
        """
        requests = variations(request_of(task, settings, inputs), settings.n)
        prepared = [await self._aside(partial(generator.prepare, r)) for r in requests]
        done, total = [0] * len(requests), sum(p.n_steps for p in prepared)

        def hear(i: int) -> Callable[[int, int], None]:
            def on_progress(now: int, _: int) -> None:
                done[i] = now

            return on_progress

        walks = [await self._aside(partial(generator.walk, p)) for p in prepared]
        futures = [self._stepper.start(generator, walk, kind, hear(i)) for i, walk in enumerate(walks)]
        try:
            ended = asyncio.gather(*map(asyncio.wrap_future, futures))
            told = 0
            while not (await asyncio.wait([ended], timeout=_TELL_S))[0]:
                if sum(done) > told:
                    told = sum(done)
                    yield Progress(told, total)
            latents = ended.result()
        finally:
            for future in futures:
                future.cancel()
        samples = []
        for p, z in zip(prepared, latents, strict=True):
            samples.append(await self._aside(partial(generator.finish, p, z)))
            yield Progress(total, total)  # it goes on, though not by a step
        origin = {"weights": dict(generator.models.origins)}
        yield await self._aside(lambda: encoded(samples, settings.format, origin))

    def stalled_s(self) -> float:
        """Seconds since the begin of the longest work aside of the stepper, 0 where there is none."""
        now = self._clock()
        return max((now - began for began in list(self._began.values())), default=0.0)

    async def _aside(self, work: Callable[[], T]) -> T:
        def noted() -> T:
            key = object()
            self._began[key] = self._clock()
            try:
                return work()
            finally:
                del self._began[key]

        return await asyncio.get_running_loop().run_in_executor(self._pool, noted)


def encoded(samples: Sequence[Sample], format: Format, origin: dict[str, Any]) -> Made:
    """The samples as one file; several as a zip of theirs, with a JSON beside each that makes it again."""
    kind = _KIND_OF[format]
    recipes = [recipe_of(sample, origin) for sample in samples]
    files = []
    with TemporaryDirectory(prefix="momu-made-") as folder:
        for sample in samples:
            path = Path(folder) / f"sample.{KINDS[kind]}"
            write_as(kind, path, sample, f"{sample.request.task}, seed {sample.request.seed}")
            files.append(path.read_bytes())
            path.unlink()
    if len(files) == 1:
        return Made(files[0], KINDS[kind], recipes)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for sample, content, recipe in zip(samples, files, recipes, strict=True):
            name = f"seed{sample.request.seed}"
            archive.writestr(f"{name}.{KINDS[kind]}", content)
            archive.writestr(f"{name}.recipe.json", json.dumps(recipe, indent=2))
    return Made(whole.getvalue(), "zip", recipes)
