"""The vocoder against the reference's two variants: Make-An-Audio's (tanh) and NVIDIA's v2 (clamp, no last bias)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig


@pytest.mark.parametrize("variant", ["maa_small", "nv_v2_small"])
def test_waveform_is_the_references(golden: Any, variant: str) -> None:
    facts, arrays = golden.json("11_bigvgan.json")[variant], golden.npz(f"11_bigvgan_{variant}.npz")
    net = BigVGAN(BigVGANConfig.from_reference(facts["cfg"])).eval()
    state = {name[3:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("sd/")}
    net.load_state_dict(state)
    with torch.no_grad():
        made = net(torch.from_numpy(arrays["mel"]))
    expected = torch.from_numpy(arrays["wav"])
    assert list(made.shape) == facts["wav"]
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["maa_small", "nv_v2_small"])
def test_filters_of_a_new_net_are_the_references(golden: Any, variant: str) -> None:
    facts, arrays = golden.json("11_bigvgan.json")[variant], golden.npz(f"11_bigvgan_{variant}.npz")
    ours = BigVGAN(BigVGANConfig.from_reference(facts["cfg"])).state_dict()
    filters = [name for name in arrays if name.endswith(".filter")]
    assert filters
    for name in filters:
        torch.testing.assert_close(ours[name[3:]], torch.from_numpy(arrays[name]), rtol=0, atol=1e-7)


def test_full_size_has_the_references_names_shapes_and_count(golden: Any) -> None:
    with torch.device("meta"):
        net = BigVGAN(BigVGANConfig())
    shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert shapes == golden.json("11_bigvgan_maa_full_param_shapes.json")
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == golden.json("11_bigvgan.json")["maa_full_params"]
