"""What is particular to the VAE; what all networks promise is in tests/contract/test_models.py."""

from __future__ import annotations

import pytest
import torch

from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.errors import ConfigError


def _small(**changes: object) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(in_channels=6, ch=32, ch_mult=(1, 2), **changes)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "count"), [(80, 212_958_212), (28, 212_758_480)])
def test_paper_size(channels: int, count: int) -> None:
    with torch.device("meta"):
        net = Autoencoder(AutoencoderConfig(in_channels=channels))
    assert sum(p.numel() for p in net.parameters()) == count


def test_latent_is_the_mean_moved_by_the_given_noise() -> None:
    net = _small()
    x, noise = torch.randn(2, 6, 16), torch.randn(2, 20, 8)
    with torch.no_grad():
        reconstruction, mean, logvar = net(x, noise)
        want = net.decode(mean + torch.exp(logvar / 2) * noise)
    torch.testing.assert_close(reconstruction, want, rtol=0, atol=0)


def test_log_variance_is_clamped() -> None:
    net = _small()
    with torch.no_grad():
        assert net.quant_conv.bias is not None
        net.quant_conv.bias[20:30] = 100.0
        net.quant_conv.bias[30:] = -100.0
        _, logvar = net.encode(torch.randn(1, 6, 16))
    assert logvar.max() == 20.0
    assert logvar.min() == -30.0


def test_padding_is_the_prior_and_silence() -> None:
    net = _small()
    lengths = torch.tensor([10, 16])
    with torch.no_grad():
        reconstruction, mean, logvar = net(torch.randn(2, 6, 16), torch.randn(2, 20, 8), lengths)
    assert mean[0, :, 5:].abs().max() == 0
    assert logvar[0, :, 5:].abs().max() == 0
    assert reconstruction[0, :, 10:].abs().max() == 0
    assert reconstruction[1, :, 10:].abs().max() > 0


def test_two_strides_make_four_frames_a_latent() -> None:
    cfg = AutoencoderConfig(in_channels=6, ch=32, ch_mult=(1, 1, 2), down_layers=(0, 1))
    net = Autoencoder(cfg).eval()
    assert net.downsampling == cfg.downsampling == 4
    with torch.no_grad():
        mean, _ = net.encode(torch.randn(1, 6, 19))
        assert mean.shape == (1, 20, 4)
        assert net.decode(mean).shape == (1, 6, 16)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"ch": 40}, "ch=40"), ({"kernel_size": 4}, "kernel_size=4"), ({"down_layers": (2,)}, "down_layers")],
)
def test_wrong_shape_is_one_sentence(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AutoencoderConfig(**wrong)  # type: ignore[arg-type]
