"""Masked layers are PyTorch's own, seen through a sample's valid positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from momu_dist.core.models.masked import (
    MaskedBatchNorm2d,
    MaskedConv1d,
    MaskedGroupNorm,
    length_mask,
    padding_mask,
    zero_outside,
)

LENGTHS = torch.tensor([5, 9, 1])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_masks() -> None:
    assert length_mask(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]
    assert padding_mask(None, 3) is None
    assert padding_mask(torch.tensor([3, 3]), 3) is None
    mask = padding_mask(torch.tensor([3, 2]), 3)
    assert mask is not None
    assert mask.tolist() == [[True] * 3, [True, True, False]]
    kept = zero_outside(
        torch.tensor([[1.0, 2.0, float("nan")], [1.0, 2.0, float("inf")]]),
        length_mask(LENGTHS[:2] * 0 + 2, 3),
    )
    assert kept.tolist() == [[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]]


def test_group_norm_is_that_of_each_sample_alone() -> None:
    norm, plain = MaskedGroupNorm(4, 8, eps=1e-6), nn.GroupNorm(4, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(3, 8, 9)
    torch.testing.assert_close(norm(x), plain(x), rtol=0, atol=0)
    out = norm(x, length_mask(LENGTHS, 9)[:, None])
    for row, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(
            out[row : row + 1, :, :n], plain(x[row : row + 1, :, :n]), rtol=1e-5, atol=1e-6
        )


def test_group_norm_statistics_keep_their_digits() -> None:
    x = 1000.0 + torch.randn(1, 4, 64)
    mask = length_mask(torch.tensor([60]), 64)[:, None]
    norm = MaskedGroupNorm(2, 4)
    exact = MaskedGroupNorm(2, 4).double()(x.double(), mask)
    torch.testing.assert_close(norm(x, mask)[..., :60].double(), exact[..., :60], rtol=1e-3, atol=1e-3)
    half = norm(torch.randn(1, 4, 64).bfloat16(), mask)
    assert half.dtype == torch.bfloat16
    assert norm(x, torch.zeros(1, 1, 64, dtype=torch.bool)).isfinite().all()


def test_convolution_is_that_of_the_unpadded_sample() -> None:
    conv = MaskedConv1d(3, 2, 5, padding=2)
    x = torch.randn(3, 3, 9)
    for row, n in enumerate(LENGTHS.tolist()):
        x[row, :, n:] = float("nan")
    out = conv(x, length_mask(LENGTHS, 9)[:, None])
    for row, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(out[row, :, :n], conv(x[row, :, :n]), rtol=1e-5, atol=1e-6)


def test_batch_norm_counts_valid_columns_only() -> None:
    lengths = torch.tensor([4, 7])
    x = torch.randn(2, 3, 5, 7)
    norm, flat = MaskedBatchNorm2d(3), nn.BatchNorm1d(3)
    rows = torch.cat([x[row, :, :, :n].flatten(1).t() for row, n in enumerate(lengths.tolist())])
    leaf = x.clone().requires_grad_()
    out = norm(leaf, length_mask(lengths, 7)[:, None, None])
    want = flat(rows)
    got = torch.cat([out[row, :, :, :n].flatten(1).t() for row, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, flat.running_var, rtol=1e-5, atol=1e-6)
    assert out[0, :, :, 4:].abs().max() == 0
    for mode in (True, False):  # in both modes the gradient stays with its position
        norm.train(mode)
        (grad,) = torch.autograd.grad(
            norm(leaf, length_mask(lengths, 7)[:, None, None])[0].square().sum(), leaf
        )
        assert grad[0, ..., 4:].abs().max() == 0
        assert mode or grad[1].abs().max() == 0
