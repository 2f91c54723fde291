"""Eq. 4 against a public InfoNCE on the same features."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from momu_dist.core.losses.contrast import contrastive_loss, info_nce


def test_info_nce_at_every_temperature(golden: Any) -> None:
    arrays = golden.npz("08_contrast.npz")
    c_a, c_m = torch.from_numpy(arrays["c_a"]), torch.from_numpy(arrays["c_m"])
    values = golden.json("08_contrast.json")
    assert values
    for tau, want in values.items():
        assert info_nce(c_a, c_m, float(tau)).item() == pytest.approx(want, rel=1e-5)
        # Clips of one latent are their own maximum, so the whole loss of one pair is the same number.
        clips = [(i, i + 1) for i in range(len(c_a))]
        whole = contrastive_loss(c_a.t()[None], c_m.t()[None], [clips], float(tau))
        assert whole.item() == pytest.approx(want, rel=1e-5)
