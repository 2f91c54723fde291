"""YAML + base + dotted overrides -> RunConfig. Strict: an unknown key is an error that lists the valid ones.

Precedence: dataclass default < `base:` file < file < `section.field=value`. `base` is not chained.
"""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from momu_dist.config.schema import RunConfig, TrainConfig
from momu_dist.config.tree import checked, is_word, sections, shown
from momu_dist.core.catalog import STAGES
from momu_dist.core.grid import HOP, MEL_RATE_HZ, N_MELS
from momu_dist.core.models.autoencoder import AutoencoderConfig
from momu_dist.core.models.bigvgan import BigVGANConfig
from momu_dist.core.models.dit import DiTConfig
from momu_dist.core.tasks.music_vae import MusicVaeLoss
from momu_dist.errors import ConfigError, kind_of, without_login

MIN_SEGMENT_S = 0.128  # what the widest spectrogram of the vocoder's discriminators needs
MIN_GAN_CROP_S = 0.4  # 24 mel frames are what one logit of the patch discriminator sees
NO_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What reading YAML raises: bad bytes and impossible dates are ValueErrors, thousands of nested lists a RecursionError."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run that `path` and `overrides` describe; every mistake is a ConfigError that names the place."""
    tree = read_yaml(Path(path), RunConfig)
    base = tree.pop("base", None)
    if base is not None:
        base_path = Path(path).parent / str(base)
        below = read_yaml(base_path, RunConfig)
        if "base" in below:
            raise ConfigError(f"{base_path} is used as a base and has a base itself; bases are not chained.")
        tree = _merge(below, tree)
    for number, override in enumerate(overrides, 1):
        _apply_override(tree, override, number)
    return config_from_dict(tree, where=str(path))


def config_from_dict(tree: Mapping[str, Any], where: str) -> RunConfig:
    """Check a plain tree (from YAML or a checkpoint's JSON) and return the typed run."""
    content = copy.deepcopy(dict(tree))
    if "stage" not in content:
        raise ConfigError(f"{where} names no stage; set `stage:` to one of {', '.join(sorted(STAGES))}.")
    stage = STAGES.get(str(content["stage"]))
    if stage is None:
        raise ConfigError(f"{where}: unknown stage {content['stage']!r}; valid: {', '.join(sorted(STAGES))}.")
    given = content.pop("model", {})
    if isinstance(given, Mapping) and any(f.name == "in_channels" for f in fields(stage.model_config)):
        given = {"in_channels": stage.in_channels, **given}
    model = checked(stage.model_config, given, where, "model")
    loss = checked(stage.loss_config, content.pop("loss", {}), where, "loss")
    config = checked(RunConfig, {**content, "model": model, "loss": loss}, where, "")
    _check_run(config, where)
    return config


def resolved_dict(config: RunConfig) -> dict[str, Any]:
    """Return the whole run as plain lists, numbers and strings: what goes to run folder, tracker and checkpoint.

    All of these are read by others, so a login in tracking.uri is left out.
    """
    plain = typing.cast(dict[str, Any], TypeAdapter(Any).dump_python(asdict(config), mode="json"))
    plain["tracking"]["uri"] = without_login(config.tracking.uri)
    return plain


def read_yaml(path: Path, kind: type) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; one that is empty, or a section of `kind` in it, is {}.

    Its messages show nothing of the content, in which any line may hold a password.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected a YAML file, such as one in it.")
    if not path.is_file():
        raise ConfigError(f"no config at {path}; the ones that ship lie under configs/.")
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except NO_YAML as error:
        # Not from the error: a traceback would show the line.
        raise ConfigError(f"{path} is not valid YAML ({_yaml_fault(error, text)}); mend it there.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {kind_of(tree)}, expected a mapping of sections.")
    return {key: {} if value is None and key in sections(kind) else value for key, value in tree.items()}


def _yaml_fault(error: Exception, text: str) -> str:
    """Say what is wrong with a YAML, and where, without the text that is there."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, problem = error.problem_mark, (error.problem or "it cannot be read").removeprefix("but ")
        # It quotes single signs and YAML's own names, '<block end>', but also an alias or a tag: `TOKEN: *secret`.
        if re.search("['\"]", re.sub(r"'(<[\w ]+>|\\?.)'", "", problem)):
            problem = re.split("['\"]", problem)[0].rstrip()
        problem = problem.replace("second occurrence", "second occurrence of an anchor")
        begun = error.context_mark
        if begun is not None and begun.index != mark.index:
            problem += f" (begun at line {begun.line + 1}, column {begun.column + 1})"
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"line {text.count(chr(10), 0, error.position) + 1}: a sign that YAML does not know"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8"
    return "it holds a date or number that there is not, such as 2024-13-45; a text goes in quotes"


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_override(tree: dict[str, Any], override: str, number: int) -> None:
    """Set what an override, the one of that number, says. Messages name it by its key, since its value may be secret."""
    name, equals, text = override.partition("=")
    *above, field = name.split(".")
    if not equals or not all(map(is_word, (*above, field))):
        known = [field.name for field in fields(RunConfig)]
        raise ConfigError(
            f"override {number}, {shown(override, known)}, is not of the form section.field=value; one with a blank goes in "
            "quotes."
        )
    if name == "base":
        raise ConfigError(
            "override base: a base is named in the YAML itself and read before any override; write it there."
        )
    node = tree
    for section in above:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {name}: {section} is a value, not a section.")
    try:
        value = yaml.safe_load(text)
    except NO_YAML:
        raise ConfigError(
            f"override {name}: the value is not valid YAML; put it in quotes, and those in quotes of the shell: '{name}=\"...\"'."
        ) from None
    if value is None and name in sections(RunConfig):
        raise ConfigError(
            f"override {name} is empty, expected {name}.key=value with no blank around the =; leave it out to keep the file's."
        )
    node[field] = value


def _check_run(config: RunConfig, where: str) -> None:
    train = config.train
    if train.strategy == "local" and train.workers != 1:
        raise ConfigError(
            f"{where}: train.strategy local is one process, train.workers is {train.workers}; use ddp, zero1, zero2 or zero3."
        )
    if train.global_batch % train.micro:
        raise ConfigError(
            f"{where}: train.micro_batch {train.micro_batch} does not divide train.global_batch {train.global_batch}."
        )
    if train.min_workers is not None and train.min_workers > train.workers:
        raise ConfigError(
            f"{where}: train.min_workers {train.min_workers} is more than train.workers {train.workers}."
        )
    low, high = config.data.length_s
    if low > high:
        raise ConfigError(
            f"{where}: data.length_s is [{low:g}, {high:g}], expected the shortest crop before the longest."
        )
    _check_networks(config, where, int(high * MEL_RATE_HZ / 2))
    if isinstance(config.loss, MusicVaeLoss):
        _check_gan(config.loss, train, where)


def _check_gan(loss: MusicVaeLoss, train: TrainConfig, where: str) -> None:
    if train.strategy in ("local", "ddp"):
        return
    for name, wanted in (
        ("gan_weight_mode adaptive", loss.gan_weight_mode == "adaptive"),
        (f"r1_weight {loss.r1_weight:g}", loss.r1_weight > 0),
    ):
        if wanted:
            raise ConfigError(
                f"{where}: loss.{name} needs gradients inside a step, which train.strategy {train.strategy} does not give; "
                "use train.strategy local or ddp, or loss.gan_weight_mode fixed and loss.r1_weight 0."
            )


def _check_networks(config: RunConfig, where: str, longest_latents: int) -> None:
    model = config.model
    if isinstance(model, AutoencoderConfig):
        channels = STAGES[config.stage].in_channels
        if model.in_channels != channels:
            raise ConfigError(
                f"{where}: model.in_channels is {model.in_channels}, stage {config.stage} reads {channels}."
            )
        if len(model.down_layers) != 1:
            raise ConfigError(
                f"{where}: model.down_layers is {list(model.down_layers)}, expected one stride: two frames a latent is what "
                "cached latents, motion and mel share."
            )
        if model.dropout:
            raise ConfigError(
                f"{where}: model.dropout is {model.dropout}, expected 0: its randomness would belong to the worker, not "
                "to the sample."
            )
    if config.stage == "music_vae" and config.data.length_s[0] < MIN_GAN_CROP_S:
        raise ConfigError(
            f"{where}: data.length_s begins at {config.data.length_s[0]:g} s, expected at least {MIN_GAN_CROP_S} s: that is what "
            "the discriminator sees at once."
        )
    if isinstance(model, BigVGANConfig):
        _check_vocoder(config, where)
    if (
        isinstance(model, DiTConfig)
        and model.positions == "learned"
        and 1 + 2 * longest_latents > model.max_len
    ):
        raise ConfigError(
            f"{where}: data.length_s goes up to {longest_latents} latents, the learned positions of model.max_latents "
            f"{model.max_latents} end at {(model.max_len - 1) // 2}; raise model.max_latents or shorten data.length_s."
        )


def _check_vocoder(config: RunConfig, where: str) -> None:
    model, (low, high) = config.model, config.data.length_s
    if model.num_mels != N_MELS or model.hop != HOP:
        raise ConfigError(
            f"{where}: the vocoder reads model.num_mels {model.num_mels} bands and model.upsample_rates multiply to "
            f"{model.hop} samples a frame, expected {N_MELS} and {HOP}, the mels of this project."
        )
    if low != high or high < MIN_SEGMENT_S:
        raise ConfigError(
            f"{where}: data.length_s is [{low}, {high}], expected one length twice, of at least {MIN_SEGMENT_S} s: the "
            "segments of a vocoder are all as long, such as [0.512, 0.512]."
        )
