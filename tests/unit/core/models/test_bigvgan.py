"""The vocoder network: its parts do what they say, whatever the reference's weights are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrizations

from momu_dist.core.models.bigvgan import (
    AntiAliasedSnake,
    BigVGAN,
    BigVGANConfig,
    Snake,
    WeightNormConv,
    low_pass_filter,
    with_weight_norm,
)
from momu_dist.errors import ConfigError, DataError

SMALL: dict[str, Any] = {
    "num_mels": 5,
    "upsample_rates": (4, 2),
    "upsample_kernel_sizes": (8, 4),
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": (3, 5),
    "resblock_dilation_sizes": ((1, 3), (1, 2)),
}


def net_of(**other: Any) -> BigVGAN:
    torch.manual_seed(0)
    return BigVGAN(BigVGANConfig(**{**SMALL, **other})).double().eval()


@pytest.mark.parametrize("resblock", ["1", "2"])
@pytest.mark.parametrize("activation", ["snake", "snakebeta"])
@pytest.mark.parametrize("logscale", [True, False])
def test_every_variant_trains(resblock: str, activation: str, logscale: bool) -> None:
    net = net_of(resblock=resblock, activation=activation, snake_logscale=logscale)
    made = net(torch.randn(2, 5, 7, dtype=torch.double))
    assert made.shape == (2, 1, 8 * 7) and made.abs().max() <= 1
    made.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    names = set(dict(net.named_parameters()))
    assert ("activation_post.act.beta" in names) == (activation == "snakebeta")
    assert ("resblocks.0.convs2.0.weight_g" in names) == (resblock == "1")


def test_zero_samples_and_one_frame() -> None:
    net = net_of()
    with torch.no_grad():
        assert net(torch.zeros(0, 5, 7, dtype=torch.double)).shape == (0, 1, 56)
        assert net(torch.zeros(1, 5, 1, dtype=torch.double)).shape == (1, 1, 8)


@pytest.mark.parametrize("shape", [(5, 7), (1, 4, 7), (1, 5, 0)])
def test_another_mel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected \(B, 5, T\)"):
        net_of()(torch.zeros(shape, dtype=torch.double))


def test_without_tanh_it_is_clamped_and_without_bias_there_is_none() -> None:
    net = net_of(use_tanh_at_final=False, use_bias_at_final=False)
    assert "conv_post.bias" not in net.state_dict()
    with torch.no_grad():
        net.conv_post.weight_g.fill_(100.0)
        assert net(torch.randn(1, 5, 9, dtype=torch.double)).abs().max() == 1


@pytest.mark.parametrize("resblock", ["1", "2"])
def test_audio_depends_on_the_mel_within_reach_only(resblock: str) -> None:
    net = net_of(resblock=resblock)
    reach, hop = net.config.reach_frames, net.config.hop
    middle = reach + 3
    mel = torch.randn(1, 5, 2 * middle + 1, dtype=torch.double)
    changed = mel.clone()
    changed[:, :, middle] += 1.0
    with torch.no_grad():
        difference = (net(mel) - net(changed))[0, 0].abs()
    touched = torch.nonzero(difference > 1e-13)[:, 0]
    assert touched.min() >= hop * (middle - reach) and touched.max() < hop * (middle + reach + 1)
    # Not a wild one: it is what pieces of long audio overlap by.
    assert touched.min() < hop * (middle - reach // 3) and touched.max() > hop * (middle + reach // 3)


def test_weight_norm_is_torchs() -> None:
    ours = WeightNormConv(3, 4, 5, dilation=2)
    theirs = parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5, dilation=2, padding=4))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 20)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


def test_weights_whose_norm_was_removed_are_the_same_network() -> None:
    net = net_of()
    with torch.no_grad():
        net.conv_pre.weight_g[0] = 0.0  # a channel that is dead
    plain = {}
    for name, value in net.state_dict().items():
        if name.endswith("weight_v"):
            g = net.state_dict()[name.removesuffix("v") + "g"]
            plain[name.removesuffix("_v")] = g * value / value.norm(dim=(1, 2), keepdim=True)
        elif not name.endswith("weight_g"):
            plain[name] = value
    other = net_of()
    other.load_state_dict(with_weight_norm(plain))
    mel = torch.randn(1, 5, 9, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(other(mel), net(mel), rtol=0, atol=1e-12)


def test_snake_is_its_formula() -> None:
    snake = Snake(BigVGANConfig(), 2)
    with torch.no_grad():
        snake.alpha.copy_(torch.tensor([2.0, 3.0]).log())
        snake.beta.copy_(torch.tensor([4.0, 5.0]).log())  # type: ignore[union-attr]
        made = snake(torch.full((1, 2, 1), 0.7))
    for value, alpha, beta in zip(made[0, :, 0].tolist(), (2, 3), (4, 5), strict=True):
        assert value == pytest.approx(0.7 + math.sin(alpha * 0.7) ** 2 / beta, abs=1e-6)


def test_overtones_above_the_band_are_held_down() -> None:
    """sin(x)^2 of a tone at .35 of the rate has an overtone at .7, which plain snake folds to .3; 12 taps take 12 dB."""
    n = 1000
    tone = torch.cos(2 * math.pi * 0.35 * torch.arange(n))[None, None]
    config = BigVGANConfig()
    with torch.no_grad():
        plain, clean = Snake(config, 1)(tone), AntiAliasedSnake(config, 1)(tone)
    folded = [torch.fft.rfft(x[0, 0, 100:-100])[240].abs().item() for x in (plain, clean)]
    assert folded[1] < 10 ** (-12 / 20) * folded[0]


def test_filter_passes_a_constant_and_is_symmetric() -> None:
    taps = low_pass_filter()[0, 0]
    assert taps.sum().item() == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(taps, taps.flip(0), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resblock": "3"},
        {"activation": "relu"},
        {"upsample_rates": (4, 0)},
        {"upsample_rates": ()},
        {"upsample_kernel_sizes": (8,)},
        {"upsample_kernel_sizes": (8, 3)},
        {"upsample_initial_channel": 6},
        {"resblock_kernel_sizes": (3, 4)},
        {"resblock_kernel_sizes": (3,)},
    ],
)
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^The vocoder got .*\.$"):
        BigVGANConfig(**{**SMALL, **wrong})


def test_reference_settings_are_read_and_their_training_keys_left() -> None:
    tree = {
        "resblock": 1,
        "upsample_rates": [4, 4],
        "upsample_kernel_sizes": [8, 8],
        "batch_size": 64,
        "dist_config": {"world_size": 1},
    }
    config = BigVGANConfig.from_reference(tree)
    assert config == BigVGANConfig(upsample_rates=(4, 4), upsample_kernel_sizes=(8, 8))
    assert config.hop == 16
