"""From what a user wants to the jobs that do it: a stage, a chain of stages, a sweep. Every config is checked here."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from momu_dist.config.load import NO_YAML, load_config
from momu_dist.config.schema import RunConfig
from momu_dist.core.catalog import STAGES
from momu_dist.core.ranges import Name
from momu_dist.errors import ConfigError, without_login
from momu_dist.tracking import check_uri

CHAIN = ("music_vae", "motion_vae", "dit_m2a", "dit_a2m")
CONFIGS = "configs/paper/aistpp"
VOCODER = "configs/vocoder/full.yaml"

Values = list[tuple[str, str]]
"""Of one element of a sweep: keys and values, as text."""


@dataclass(frozen=True)
class Element:
    """One run: its name, and what follows `python -m`."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """What one call of sbatch submits: a job, or an array where there are several elements."""

    name: str
    elements: tuple[Element, ...]
    after: tuple[str, ...] = ()
    """Names of jobs of the same plan that must have succeeded."""
    saves: bool = True
    """It saves and goes on at a signal; what does not is sent none."""
    config: RunConfig | None = None
    """That of its training; of a sweep without the values that are swept."""


@dataclass(frozen=True)
class Sweep:
    """One setting and the values it takes."""

    key: str
    values: tuple[str, ...]


def parse_sweep(text: str) -> Sweep:
    """Return the sweep `key=value,value,...`; the values are those of a YAML list, so commas inside brackets are no ends."""
    key, equals, listed = text.partition("=")
    try:
        values = yaml.safe_load(f"[{listed}]") if key and equals else None
    except NO_YAML:
        values = None
    if not values:
        raise ConfigError(
            f"--sweep {without_login(text)!r} is not of the form key=value,value with values in YAML."
        )
    if key in ("name", "out", "stage"):
        raise ConfigError(f"--sweep {key}=...: {key} says where a run lies and what it is; sweep a setting.")
    return Sweep(key, tuple(_text(value) for value in values))


def _text(value: Any) -> str:
    """A value as it is written after `key=`: a text that YAML reads as itself stays as it is, all else is JSON."""
    if isinstance(value, str):
        with suppress(*NO_YAML):
            if yaml.safe_load(value) == value:
                return value
    return json.dumps(value, default=str, ensure_ascii=False)


def combinations(sweeps: Sequence[Sweep]) -> list[Values]:
    """Return every combination, the last setting changing fastest; one empty one where nothing is swept."""
    keys = [sweep.key for sweep in sweeps]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"--sweep names {', '.join(keys)}: give each setting once, with all its values.")
    return [list(zip(keys, values, strict=True)) for values in itertools.product(*(s.values for s in sweeps))]


def names(base: str, elements: Sequence[Values]) -> list[str]:
    """Return a name for each element, of the values that are swept; numbers where those would be too long or alike."""
    if not elements[0]:
        return [base]
    keys = [key for key, _ in elements[0]]
    last = [key.rpartition(".")[2] for key in keys]
    labels = last if len(set(last)) == len(last) else keys
    found = []
    for element in elements:
        plain = [re.sub(r"[^\w.-]+", "_", value).strip("_") for _, value in element]
        found.append(
            "-".join([base, *(f"{label}-{value}" for label, value in zip(labels, plain, strict=True))])
        )
    if len(set(found)) == len(found) and all(name in Name() for name in found):
        return found
    return [f"{base[:90]}-{number}" for number in range(len(elements))]


def config_path(stage: str, given: str | None) -> str:
    """Return the stage's YAML: the one given, that of its name in the folder given, or the published one."""
    path = given or (VOCODER if stage == "vocoder" else CONFIGS)
    return path if path.endswith((".yaml", ".yml")) else f"{path.rstrip('/')}/{stage}.yaml"


def plan_stage(
    stage: str, given: str | None, overrides: Sequence[str], sweeps: Sequence[Sweep] = ()
) -> list[Submission]:
    """Return the job that trains one stage, or the array that trains it with every combination of swept values."""
    path = config_path(stage, given)
    base = _load(stage, path, overrides)
    elements = combinations(sweeps)
    runs = []
    for name, values in zip(names(base.name, elements), elements, strict=True):
        own = [
            *overrides,
            *(f"{key}={value}" for key, value in values),
            *([f"name={name}"] if values else []),
        ]
        _load(stage, path, own)
        runs.append(Element(name, _train(path, own)))
    return [Submission(base.name, tuple(runs), config=base)]


def plan_chain(given: str | None, overrides: Sequence[str]) -> list[Submission]:
    """Return the jobs that train a whole model: both VAEs, the latents once, then both transformers beside each other."""
    paths = {stage: config_path(stage, given) for stage in CHAIN}
    if len(set(paths.values())) < len(paths):
        raise ConfigError(
            f"a chain needs four configs, --config is {given}; give a folder with {', '.join(CHAIN)}.yaml."
        )
    if any(override.startswith("inputs.") for override in overrides):
        raise ConfigError(
            "a chain trains its own VAEs and hands them on; leave inputs.* out, or submit the stages one by one."
        )
    configs = {stage: _load(stage, path, overrides) for stage, path in paths.items()}
    _check_chain(configs)
    trains: dict[str, tuple[str, ...]] = {}
    for stage, config in configs.items():
        own = list(overrides)
        for need in STAGES[stage].needs:
            folder = f"{configs[need].out}/{configs[need].name}"
            if getattr(config.inputs, need) != folder:
                own.append(f"inputs.{need}={json.dumps(folder, ensure_ascii=False)}")
        trains[stage] = _train(paths[stage], own)

    def job(stage: str, after: tuple[str, ...]) -> Submission:
        config = configs[stage]
        return Submission(config.name, (Element(config.name, trains[stage]),), after, config=config)

    music, motion = configs["music_vae"].name, configs["motion_vae"].name
    latents = (*trains["dit_m2a"], "--only-latents")
    return [
        job("music_vae", ()),
        job("motion_vae", (music,)),
        # Of its own: two transformers that start at once would both encode everything.
        Submission("latents", (Element("latents", latents),), (motion,)),
        job("dit_m2a", ("latents",)),
        job("dit_a2m", ("latents",)),
    ]


def _check_chain(configs: dict[str, RunConfig]) -> None:
    for what, found in (
        ("data.root", [config.data.root for config in configs.values()]),
        ("data.latents", [str(configs[stage].data.latents) for stage in ("dit_m2a", "dit_a2m")]),
    ):
        if len(set(found)) > 1:
            raise ConfigError(
                f"the runs of a chain read the same data, {what} is {', '.join(found)}; set one."
            )
    runs = [config.name for config in configs.values()]
    if len(set(runs)) < len(runs) or "latents" in runs:
        raise ConfigError(
            f"the runs of a chain need names of their own other than latents, they are {', '.join(runs)}; set name in each YAML."
        )


def plan_evaluation(options: Sequence[str], sweeps: Sequence[Sweep]) -> list[Submission]:
    """Return the job that scores trained models, `options` being momu evaluate's as key=value, or an array of such."""
    fixed = _options(options)
    elements = combinations(sweeps)
    runs = []
    for name, values in zip(names("evaluate", elements), elements, strict=True):
        own = [*fixed, *_options([f"{key}={_unquoted(value)}" for key, value in values])]
        runs.append(
            Element(name, ("momu_dist.launch", "evaluate", *own, *([f"--name={name}"] if values else [])))
        )
    return [Submission("evaluate", tuple(runs), saves=False)]


def plan_hold() -> list[Submission]:
    """Return the job that is only a Ray cluster, for `momu ray-job`."""
    return [Submission("hold", (Element("hold", ("momu_dist.launch", "hold")),))]


def _options(texts: Sequence[str]) -> list[str]:
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError(
                f"evaluate: {text!r} is not of the form key=value, such as checkpoint=runs/dit_a2m."
            )
        # In one argument, so that a value may begin with a dash.
        found.append(f"-{key}{value}" if len(key) == 1 else f"--{key.replace('_', '-')}={value}")
    return found


def _unquoted(value: str) -> str:
    loaded = yaml.safe_load(value)
    return loaded if isinstance(loaded, str) else value


def _train(path: str, overrides: Sequence[str]) -> tuple[str, ...]:
    return ("momu_dist.launch", "train", "--config", path, *overrides)


def _load(stage: str, path: str, overrides: Sequence[str]) -> RunConfig:
    config = load_config(path, overrides)
    check_uri(config.tracking.uri)
    if config.stage != stage:
        raise ConfigError(
            f"{path} is a run of stage {config.stage}, expected {stage}; give the YAML of that stage."
        )
    return config
