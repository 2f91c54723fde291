"""Samples near a liked one: noise between that of a liked sample and that of a new seed.

`momu generate` writes a JSON beside each sample. A request that is `like` it starts from

    cos(a) * noise(liked sample) + sin(a) * noise(new seed),  a = distance * pi / 2,

which is standard normal again, whatever the distance: 0 is the liked sample to the bit, 1 the new seed's own. All noise
of a sampler is mixed alike, the start and, with ddpm, that of every step. The vocoder's first phases are those of the
seed with the largest weight. A liked sample may itself be like another one: the chain is kept whole, so that every
sample can be made again from its JSON alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from momu_dist.core.random import Seed, SeedMix
from momu_dist.errors import ConfigError, DataError


@dataclass(frozen=True)
class Like:
    """A liked sample, by its `seed` and what it was `like` itself, and the new one's `distance` from it, 0 to 1."""

    seed: int
    distance: float
    like: Like | None = None


def noise_seed(seed: int, like: Like | None) -> Seed:
    """What the noise of `seed` near `like` is drawn from.

    Raises ConfigError for a distance outside [0, 1], or a seed that the liked sample already has a part of: the two
    noises would not be independent, and their mix too strong.
    """
    weights = _weights(seed, like)
    if len(weights) == 1:
        return next(iter(weights))
    return SeedMix(tuple(weights), tuple(weights.values()))


def leading_seed(seed: Seed) -> int:
    """The seed of the largest weight, for what cannot be mixed."""
    if not isinstance(seed, SeedMix):
        return seed
    return max(zip(seed.weights, seed.seeds, strict=True), key=lambda pair: pair[0])[1]


def _weights(seed: int, like: Like | None) -> dict[int, float]:
    """Weight of each seed's noise; seeds without any are left out."""
    if like is None:
        return {seed: 1.0}
    if not 0.0 <= like.distance <= 1.0:
        raise ConfigError(
            f"distance is {like.distance}, expected 0 (the liked sample) to 1 (a new one); try 0.3."
        )
    liked = _weights(like.seed, like.like)
    if like.distance == 0.0:
        return liked
    if like.distance == 1.0:  # where cos(pi / 2) is 6e-17
        return {seed: 1.0}
    if seed in liked:
        raise ConfigError(
            f"seed {seed} is already in the liked sample (seeds {', '.join(map(str, liked))}); give another seed."
        )
    angle = like.distance * math.pi / 2
    mixed = {one: math.cos(angle) * weight for one, weight in liked.items()}
    return {**mixed, seed: math.sin(angle)}


@dataclass(frozen=True)
class Recipe:
    """What the JSON beside a sample says; `values` are the fields of its request besides its seeds and its input."""

    path: Path
    seed: int
    like: Like | None
    values: dict[str, Any]
    input: Path | None
    checkpoints: tuple[str, ...]
    weights: Mapping[str, str]
    vocoder: str | None = None

    def near(self, distance: float) -> Like:
        """What a sample at `distance` from this one is like."""
        return Like(self.seed, distance, self.like)

    def next_seed(self) -> int:
        """A seed that no sample of the chain has: the smallest above them all."""
        highest, like = self.seed, self.like
        while like is not None:
            highest, like = max(highest, like.seed), like.like
        return highest + 1


# The fields of a request that a JSON may hold, with their types.
_FIELDS = {
    "task": str,
    "steps": int,
    "guidance": float,
    "gamma": float,
    "sampler": str,
    "seconds": float,
    "fps": float,
}


def read_recipe(path: str | Path) -> Recipe:
    """Read the JSON that `momu generate` wrote beside a sample; DataError for anything else.

    Its input is the file that was given, or where that is gone (or was a clip of a data set) the sample's own music or
    motion beside the JSON: motion there is the input to the bit, music is 16-bit, so a sample made from it again is
    very near the liked one, not the same.
    """
    path = Path(path)
    tree = _json(path)
    try:
        values = {name: kind(tree[name]) for name, kind in _FIELDS.items() if name in tree}
        given, own = _input(path, tree)
        if own:
            values.pop("fps", None)  # of the file that is gone; the sample's own holds its rate
        checkpoints = tuple(map(str, tree.get("checkpoints") or ()))
        weights = dict(tree.get("weights") or {})
        return Recipe(
            path, int(tree["seed"]), _like(tree.get("like")), values, given, checkpoints, weights,
            tree.get("vocoder_from"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} is not the JSON of a sample ({type(error).__name__}: {error}); give the .json that momu generate "
            "wrote beside it."
        ) from error


def _like(tree: Any) -> Like | None:
    return None if tree is None else Like(int(tree["seed"]), float(tree["distance"]), _like(tree.get("like")))


def _input(path: Path, tree: Mapping[str, Any]) -> tuple[Path | None, bool]:
    """The input file, and whether it is the sample's own copy."""
    kind = {"a2m": "wav", "m2a": "motion"}.get(tree["task"])
    if kind is None:
        return None, False
    given = Path(tree["input"]) if tree.get("input") else None
    if given is not None and given.exists():
        return given, False
    own = path.parent / tree["files"][kind]
    return (own, True) if own.exists() else (given, False)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as the JSON of a sample ({error}); give the .json that momu generate wrote beside it."
        ) from error
