"""Networks against the reference implementations' outputs for the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.core.models.discriminator import PatchDiscriminator
from momu_dist.core.models.dit import ConcatDiT, DiTConfig, timestep_embedding


def _tensors(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}


def _shapes(net: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in net.state_dict().items()}


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _autoencoder_config(cfg: dict[str, Any]) -> AutoencoderConfig:
    assert cfg["in_channels"] == cfg["out_ch"]
    lists = {key: tuple(cfg[key]) for key in ("ch_mult", "attn_layers", "down_layers")}
    numbers = {
        key: cfg[key]
        for key in ("in_channels", "z_channels", "ch", "num_res_blocks", "kernel_size", "dropout")
    }
    return AutoencoderConfig(**numbers, **lists)


@pytest.mark.parametrize("kind", ["vae_mel", "vae_motion"])
def test_autoencoder_encodes_and_decodes_as_the_reference(golden: Any, kind: str) -> None:
    arrays, described = golden.npz(f"06_{kind}.npz"), golden.json("06_nets.json")[kind]
    net = Autoencoder(_autoencoder_config(described["cfg"])).eval()
    net.load_state_dict(_tensors(arrays, "sd/"))
    assert _count(net) == described["params"]
    want = _tensors(arrays, "")
    with torch.no_grad():
        mean, logvar = net.encode(want["x"])
        frames = net.decode(want["mean"])
        reconstruction, _, _ = net(want["x"], torch.zeros_like(mean))
    torch.testing.assert_close(mean, want["mean"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logvar, want["logvar"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(frames, want["rec_from_mode"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(reconstruction, want["rec_from_mode"], rtol=1e-4, atol=2e-5)


def test_denoiser_predicts_as_the_reference(golden: Any) -> None:
    arrays, cfg = golden.npz("06_concatdit.npz"), golden.json("06_nets.json")["concatdit"]
    shape = {key: cfg[key] for key in ("in_channels", "context_dim", "hidden_size", "num_heads", "depth")}
    net = ConcatDiT(DiTConfig(**shape), max_len=cfg["max_len"]).eval()
    assert list(net.state_dict())[: len(cfg["keys"])] == cfg["keys"]
    net.load_state_dict(_tensors(arrays, "sd/"))
    want = _tensors(arrays, "")
    torch.testing.assert_close(
        timestep_embedding(want["t"]), want["timestep_embedding"], rtol=1e-5, atol=1e-5
    )
    with torch.no_grad():
        got = net(want["x"], want["t"], want["context"])
    torch.testing.assert_close(got, want["eps"], rtol=1e-5, atol=1e-5)


def test_discriminator_judges_as_the_reference(golden: Any) -> None:
    arrays, cfg = golden.npz("06_disc.npz"), golden.json("06_nets.json")["disc"]
    net = PatchDiscriminator(cfg["input_nc"], cfg["ndf"], cfg["n_layers"]).eval()
    net.load_state_dict(_tensors(arrays, "sd/"))
    with torch.no_grad():
        got = net(torch.from_numpy(arrays["x"]))
    torch.testing.assert_close(got, torch.from_numpy(arrays["logits"]), rtol=1e-5, atol=1e-6)


def test_full_size_networks_have_the_papers_parameters(golden: Any) -> None:
    counts = golden.json("06_nets.json")["full_params"]
    vae_shapes = golden.json("06_full_vae_param_shapes.json")
    dit_shapes = golden.json("06_full_concatdit_param_shapes.json")
    with torch.device("meta"):
        vae = Autoencoder(AutoencoderConfig())
        dit = ConcatDiT(DiTConfig(), max_len=dit_shapes["pos_emb.weight"][0])
    assert _shapes(vae) == vae_shapes
    assert _count(vae) == counts["vae_mel"]
    assert _shapes(dit) == dit_shapes
    assert _count(dit) == counts["concatdit"]
