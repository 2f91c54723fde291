"""Vocoders with weights: read from Make-An-Audio's, NVIDIA's and our own folders, and used like Griffin-Lim.

The network is ours in plain PyTorch (`core.models.bigvgan`), not the package `bigvgan`: that one brings its own training
code, a CUDA build step and pinned versions for what are 300 lines here.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from momu_dist.core.audio.mel import HOP, N_FFT, N_MELS, SAMPLE_RATE
from momu_dist.core.audio.vocoder import check_mel
from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig, with_weight_norm
from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.inference.export import Export, find_export, holds_export, settled

STAGE = "vocoder"
# Longer audio is made in pieces, which bounds the memory: the full network takes about 2.2 MB a frame on CPU.
PIECE_FRAMES = 1024

_log = logging.getLogger(__name__)

# The mel of this project, by the names of the reference's configs. A key that a config lacks is not compared.
_MEL = {
    "sampling_rate": SAMPLE_RATE,
    "num_mels": N_MELS,
    "hop_size": HOP,
    "n_fft": N_FFT,
    "win_size": N_FFT,
    "fmin": 0,
    "fmax": SAMPLE_RATE / 2,
}
# Config file -> weights file, and what a natural-log mel is to our log10 mel.
_FORMATS = {"args.yml": ("best_netG.pt", 1.0), "config.json": ("bigvgan_generator.pt", math.log(10.0))}


class NeuralVocoder:
    """A trained BigVGAN behind the contract of vocoders. It draws nothing: the seeds change nothing.

    Samples are made one by one, because a convolution sees what a shorter one was padded with: a sample is bit-equal
    alone or in a batch. `mel_scale` is what the network's mel is to log10 mel (ln 10 for natural logarithms).
    """

    def __init__(self, net: BigVGAN, sha256: str, mel_scale: float = 1.0) -> None:
        self.net = net.eval()
        self.sha256 = sha256
        self.mel_scale = mel_scale

    @property
    def name(self) -> str:
        """`bigvgan-` and the first 12 digits of the hash of its weights."""
        return f"bigvgan-{self.sha256[:12]}"

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    def __call__(self, log10_mel: Tensor, seeds: Sequence[int]) -> Tensor:
        """Audio (B, 256 * T), float32 in [-1, 1], 16 kHz, on the mel's device.

        log10_mel: (B, 80, T) at 62.5 Hz, T >= 2, on any device; seeds: B integers. Zero samples give (0, 256 * T).
        Raises DataError for another shape, another number of seeds, or values that are not finite.
        """
        check_mel(log10_mel, seeds)
        made = log10_mel.new_zeros((len(log10_mel), HOP * log10_mel.shape[2]), dtype=torch.float32)
        for target, mel in zip(made, log10_mel.float() * self.mel_scale, strict=True):
            target.copy_(self._one(mel))
        return made

    @torch.no_grad()
    def _one(self, mel: Tensor) -> Tensor:
        """Audio (256 T,) of one mel (80, T), in pieces with as much mel around them as the network can see."""
        mel = mel.to(next(self.net.parameters()).device)
        n_frames, reach = mel.shape[1], self.net.config.reach_frames
        pieces = []
        for start in range(0, n_frames, PIECE_FRAMES):
            stop = min(start + PIECE_FRAMES, n_frames)
            first, last = max(0, start - reach), min(n_frames, stop + reach)
            audio = self.net(mel[None, :, first:last])[0, 0]
            pieces.append(audio[HOP * (start - first) : HOP * (stop - first)])
        return torch.cat(pieces)


def load_vocoder(path: str | Path, device: str | torch.device | None = None) -> NeuralVocoder:
    """Return the vocoder of a folder: Make-An-Audio's, NVIDIA's, or an export (or run) of our stage `vocoder`.

    Make-An-Audio's has `args.yml` and `best_netG.pt` (log10 mel), NVIDIA's `config.json` and `bigvgan_generator.pt`
    (natural logarithm; their mel has the same floor, and does not clip the audio first). Without `device` it is the GPU
    if there is one. No pickled code is run. Raises CheckpointError where files are missing, torn or of another network,
    and where the vocoder was made for another mel.
    """
    folder = Path(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    for config_name, (weights_name, mel_scale) in _FORMATS.items():
        if (folder / config_name).is_file():
            weights = folder / weights_name
            config = _reference_config(folder / config_name)
            net = _with_weights(config, _reference_state(weights), weights)
            return NeuralVocoder(net.to(device), file_sha256(weights), mel_scale)
    if holds_export(folder):
        return settled(lambda: [find_export(folder, stage=STAGE)], lambda found: _trained(found[0], device))
    raise _no_vocoder(folder)


def check_vocoder(path: str | Path) -> None:
    """Raise CheckpointError where `load_vocoder` would find nothing to load."""
    folder = Path(path)
    if not any((folder / name).is_file() for name in _FORMATS) and not holds_export(folder):
        raise _no_vocoder(folder)


def _no_vocoder(folder: Path) -> CheckpointError:
    found = "there is no such folder"
    if folder.is_dir():
        names = sorted(file.name for file in folder.iterdir())
        found = f"it holds {', '.join(names[:5])}{', ...' if names[5:] else ''}" if names else "it is empty"
    elif folder.exists():
        found = "it is a file"
    return CheckpointError(
        f"no vocoder at {folder}: {found}; expected a folder with {_expected_files()}, or a run of stage {STAGE} "
        "(`momu weights check` says what to download and where to put it)."
    )


def _trained(export: Export, device: str | torch.device) -> NeuralVocoder:
    _check_mel_of({"num_mels": export.config.model.num_mels}, export.config.model, export.folder)
    net = BigVGAN(export.config.model)
    export.load_into(net)
    return NeuralVocoder(net.to(device), export.sha256)


@cache
def hint_griffin_lim() -> None:
    """Say once a process that the sound is Griffin-Lim's, and what would sound better."""
    _log.warning(
        "The sound is made by Griffin-Lim, which needs no weights and sounds hollow; a trained BigVGAN sounds better: "
        "`momu weights check` says what to download, then `momu generate ... --vocoder weights/bigvgan` (or the folder of "
        f"a run of stage {STAGE}).",
    )


def _expected_files() -> str:
    return " or ".join(f"{config} and {weights}" for config, (weights, _) in _FORMATS.items())


def _reference_config(path: Path) -> BigVGANConfig:
    try:
        text = path.read_text()
        tree = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} cannot be read ({reason}); expected the vocoder's settings, copy it again."
        ) from error
    needed = ("num_mels", "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel")
    lacks = [key for key in needed if not isinstance(tree, dict) or key not in tree]
    if lacks:
        raise CheckpointError(
            f"{path} lacks {', '.join(lacks)}, expected the settings of a BigVGAN; copy the file that came with the weights."
        )
    try:
        config = BigVGANConfig.from_reference(tree)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} describes no BigVGAN that can be built ({str(error).rstrip('.')}); copy it again."
        ) from error
    _check_mel_of(tree, config, path)
    return config


def _check_mel_of(tree: Mapping[str, Any], config: BigVGANConfig, where: Path) -> None:
    """Compare what a config says of its mel with ours."""
    said = {key: tree[key] for key in _MEL if key in tree}
    if said.get("fmax", 0) is None:
        del said["fmax"]  # half the sampling rate, which is compared
    said["hop_size"] = config.hop if config.hop != HOP else said.get("hop_size", HOP)
    wrong = [key for key, value in said.items() if value != _MEL[key]]
    if wrong:
        raise CheckpointError(
            f"{where} is of a vocoder for {', '.join(f'{key} {said[key]}' for key in wrong)}, expected "
            f"{', '.join(f'{key} {_MEL[key]:g}' for key in wrong)}, which is the mel that is generated here; give a "
            "16 kHz one (`momu weights check` names it)."
        )


def _reference_state(path: Path) -> dict[str, Tensor]:
    """Return the generator's tensors of a reference checkpoint, float32, with weight norm even if it was removed."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there, expected the weights beside their settings; download it."
        )
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file raises whatever its bytes happen to mean to the unpickler
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}), expected a checkpoint of tensors: the file is torn or holds "
            "code, which is not run; download it again."
        ) from error
    if not isinstance(tree, Mapping) or "generator" not in tree:
        holds = (
            f"the keys {', '.join(map(str, list(tree)[:5]))}"
            if isinstance(tree, Mapping)
            else type(tree).__name__
        )
        raise CheckpointError(f"{path} holds {holds}, expected 'generator'; give the generator's checkpoint.")
    state = tree["generator"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: 'generator' is no table of tensors, expected one; download it again.")
    return with_weight_norm({str(name): value.float() for name, value in state.items()})


def _with_weights(config: BigVGANConfig, state: Mapping[str, Tensor], where: Path) -> BigVGAN:
    with torch.device("meta"):
        net = BigVGAN(config)
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{where} does not fit its settings: {len(missing)} tensors are missing ({_few(missing)}) and {len(unexpected)} "
            f"unexpected ({_few(unexpected)}); take weights and settings from one place."
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{where} does not fit its settings: {name} has shape {tuple(state[name].shape)}, expected {shape}; take "
                "weights and settings from one place."
            )
        if not torch.isfinite(state[name]).all():
            raise CheckpointError(
                f"{where}: {name} holds values that are not finite, expected none; download it again."
            )
    net.load_state_dict(dict(state), assign=True)
    return net


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if names[2:] else "") if names else "none"
