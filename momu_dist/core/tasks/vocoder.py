"""The vocoder: BigVGAN from our own mels to 16 kHz audio, against discriminators of periods and of spectrograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from momu_dist.core.audio.mel import HOP, MEL_FLOOR
from momu_dist.core.losses.vocoder import discriminator_loss, feature_matching, generator_loss, mel_l1
from momu_dist.core.metrics.spectral import mel_distance, stft_distance
from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig
from momu_dist.core.models.wave_discriminator import WaveDiscriminators
from momu_dist.core.ranges import Checked, Count, Weight
from momu_dist.core.tasks.base import Batch, Networks, Phase, Row, TaskInputs, draw_crop


@dataclass(frozen=True)
class VocoderLoss(Checked):
    """Weights of the generator's terms (see `core.losses.vocoder`); the GAN's own weight is 1, as in HiFi-GAN."""

    mel_weight: Weight = 45.0  # DERIVED: HiFi-GAN's and BigVGAN's, on natural-log mels
    feature_weight: Weight = 2.0  # DERIVED: HiFi-GAN's and BigVGAN's
    gan_start: Weight = 0.0  # share of the run after which the discriminators join (theirs: from the start)
    disc_ch: Count = 32  # width of the discriminators' first layers; 32 is theirs


class VocoderTask:
    """Trains `vocoder` against `disc`. Rows hold mel (80, T), log10, and waveform (256 T,) at 16 kHz.

    Every sample is a segment of one length, the longest of `inputs.length_frames`, at a place drawn by its own seed. A
    clip that is shorter is followed by silence, which is learned as any other sound (HiFi-GAN does the same).
    """

    columns: tuple[str, ...] = ("mel", "waveform")

    def __init__(self, model: BigVGANConfig, loss: VocoderLoss, inputs: TaskInputs) -> None:
        self.model = model
        self.loss = loss
        self.segment_frames = inputs.length_frames[1]

    def networks(self) -> dict[str, nn.Module]:
        return {"vocoder": BigVGAN(self.model), "disc": WaveDiscriminators(self.loss.disc_ch)}

    def to(self, device: torch.device) -> None:
        """Nothing is frozen in this stage."""

    def collate(self, rows: Sequence[Row], seeds: Sequence[int]) -> Batch:
        mels, waveforms = [], []
        for row, seed in zip(rows, seeds, strict=True):
            n = self.segment_frames
            start, stop = draw_crop(seed, row["mel"].shape[-1], n, n)
            mels.append(_fill(row["mel"][:, start:stop], n, MEL_FLOOR))
            waveforms.append(_fill(row["waveform"][start * HOP : stop * HOP], n * HOP, 0.0))
        tensors = {
            "mel": torch.from_numpy(np.stack(mels)),
            "waveform": torch.from_numpy(np.stack(waveforms)),
        }
        ids = tuple(str(row["clip_id"]) for row in rows)
        lengths = torch.full((len(rows),), self.segment_frames, dtype=torch.int64)
        return Batch(ids, tuple(seeds), lengths, tensors)

    def phases(self, networks: Networks, batch: Batch, progress: float) -> Iterator[Phase]:
        real, disc = batch["waveform"], networks["disc"]
        fake = networks["vocoder"](batch["mel"])[:, 0]
        mel = mel_l1(real, fake)
        total = self.loss.mel_weight * mel
        parts = {"mel": mel}
        adversarial = progress >= self.loss.gan_start
        if adversarial:
            disc.requires_grad_(False)
            with torch.no_grad():
                judged_real = disc(real)
            judged_fake = disc(fake)
            gan, features = generator_loss(judged_fake), feature_matching(judged_real, judged_fake)
            total = total + gan + self.loss.feature_weight * features
            parts |= {"gan": gan, "features": features}
        yield Phase("vocoder", total, {"total": total, **parts})
        if adversarial:
            disc.requires_grad_(True)
            d_loss = discriminator_loss(disc(real), disc(fake.detach()))
            yield Phase("disc", d_loss, {"disc": d_loss})

    def validate(self, networks: Networks, batch: Batch) -> dict[str, Tensor]:
        real = batch["waveform"]
        made = networks["vocoder"](batch["mel"])[:, 0].float()
        with torch.autocast(made.device.type, enabled=False):
            return {"mel_distance": mel_distance(real, made), "stft_distance": stft_distance(real, made)}


def _fill(array: np.ndarray, n: int, value: float) -> np.ndarray:
    """`array` (..., m) as float32 (..., n), `value` behind what is there."""
    out = np.full((*array.shape[:-1], n), value, dtype=np.float32)
    out[..., : array.shape[-1]] = array[..., :n]
    return out
