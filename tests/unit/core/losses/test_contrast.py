"""Choice of clips and the rhythmic contrast (Eq. 3-4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from momu_dist.core.losses.contrast import (
    ContrastConfig,
    choose_clips,
    clip_features,
    contrastive_loss,
    info_nce,
)
from momu_dist.errors import ConfigError

CFG = ContrastConfig(n_clips=24, n_categories=4, clip_latents=(4, 8))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _amplitude(n: int = 120) -> np.ndarray:
    return np.linspace(0.0, 1.0, n)


def test_clips_are_a_function_of_the_seed() -> None:
    assert choose_clips(7, _amplitude(), 120, CFG) == choose_clips(7, _amplitude(), 120, CFG)
    assert len({tuple(choose_clips(seed, _amplitude(), 120, CFG)) for seed in range(8)}) > 1
    assert choose_clips(7, torch.from_numpy(_amplitude()), 120, CFG) == choose_clips(
        7, _amplitude(), 120, CFG
    )


def test_padding_does_not_move_clips() -> None:
    padded = np.concatenate((_amplitude(), np.full(50, np.nan)))
    assert choose_clips(3, padded, 120, CFG) == choose_clips(3, _amplitude(), 120, CFG)


@pytest.mark.parametrize("seed", range(20))
def test_one_clip_a_category_inside_the_sample(seed: int) -> None:
    q = _amplitude()
    clips = choose_clips(seed, q, 120, CFG)
    categories = [min(int(q[start:end].max() * 4), 3) for start, end in clips]
    assert categories == sorted(set(categories))
    assert all(start >= 0 and end <= 120 and 4 <= end - start <= 8 for start, end in clips)


def test_flat_amplitude_has_one_category_and_nothing_has_none() -> None:
    assert len(choose_clips(0, np.zeros(60), 60, CFG)) == 1
    assert len(choose_clips(0, np.ones(60), 60, CFG)) == 1
    assert choose_clips(0, np.zeros(0), 0, CFG) == []
    assert choose_clips(0, np.linspace(0, 1, 2), 2, CFG) == [(0, 2)]  # shorter than any clip: the whole of it


def test_clip_features_are_maxima_over_time() -> None:
    z = torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, -2.0]])
    assert clip_features(z, [(0, 2), (2, 3)]).tolist() == [[5.0, 0.0], [2.0, -2.0]]
    assert clip_features(z, []).shape == (0, 2)


def test_info_nce_by_hand() -> None:
    c = torch.eye(2)
    wrong = c.flip(0)
    tau = 0.5
    assert info_nce(c, c, tau).item() == pytest.approx(math.log(1 + math.exp(-1 / tau)), rel=1e-5)
    assert info_nce(c, wrong, tau).item() == pytest.approx(math.log(1 + math.exp(1 / tau)), rel=1e-5)
    assert info_nce(c, 30.0 * c, tau).item() == pytest.approx(info_nce(c, c, tau).item())  # cosine


def test_sample_without_negatives_counts_as_zero_with_its_graph() -> None:
    z_a, z_m = torch.randn(2, 5, 40), torch.randn(2, 5, 40, requires_grad=True)
    clips = [(0, 8), (10, 20), (30, 40)]
    one = contrastive_loss(z_a[:1], z_m[:1], [clips])
    half = contrastive_loss(z_a, z_m, [clips, [(0, 8)]])
    assert half.item() == pytest.approx(one.item() / 2)
    none = contrastive_loss(z_a, z_m, [[], [(0, 8)]])
    assert none.item() == 0.0
    none.backward()
    assert z_m.grad is not None
    assert z_m.grad.abs().max() == 0


def test_contrast_under_autocast_is_float32() -> None:
    z_a, z_m = torch.randn(1, 5, 40), torch.randn(1, 5, 40)
    clips = [[(0, 8), (10, 20), (30, 40)]]
    with torch.autocast("cpu", torch.bfloat16):
        got = contrastive_loss(z_a, z_m, clips)
    torch.testing.assert_close(got, contrastive_loss(z_a, z_m, clips))


def test_wrong_config_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"clip_latents=\(8, 4\)"):
        ContrastConfig(clip_latents=(8, 4))
