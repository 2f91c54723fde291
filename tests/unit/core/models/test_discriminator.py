"""The patch discriminator's size and the patches of a sample."""

from __future__ import annotations

import pytest
import torch

from momu_dist.core.models.discriminator import PatchDiscriminator, patch_lengths
from momu_dist.errors import ConfigError


def test_default_size() -> None:
    for norm in ("batch", "group"):
        net = PatchDiscriminator(norm=norm)  # type: ignore[arg-type]
        assert sum(p.numel() for p in net.parameters()) == 2_763_585


@pytest.mark.parametrize("n_layers", [2, 3])
def test_patch_lengths_are_those_of_the_sample_alone(n_layers: int) -> None:
    net = PatchDiscriminator(ndf=8, n_layers=n_layers).eval()
    smallest = 3 * 2**n_layers
    for n in range(smallest, smallest + 20):
        columns = net(torch.zeros(1, 1, smallest, n)).shape[-1]
        assert patch_lengths(torch.tensor([n]), n_layers).tolist() == [columns]
    assert patch_lengths(torch.tensor([0, smallest - 1]), n_layers).tolist() == [0, 0]


def test_unknown_norm_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="layer"):
        PatchDiscriminator(norm="layer")  # type: ignore[arg-type]
