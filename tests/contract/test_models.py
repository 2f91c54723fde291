"""What every network promises: shapes, gradients, samples that do not touch each other or their padding, bf16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from momu_dist.core.models.autoencoder import Autoencoder, AutoencoderConfig
from momu_dist.core.models.discriminator import PatchDiscriminator, patch_lengths
from momu_dist.core.models.dit import DiTConfig, LatentDiT
from momu_dist.core.random import randn_each
from momu_dist.errors import DataError

# Keys of an attention without positions share their bias, which the softmax cancels.
_VANISHING = ("attn_1.k.bias", "attn.0.k.bias", "attn.1.k.bias", "attn.2.k.bias")


@dataclass(frozen=True)
class _Model:
    """A network, `call(net, x, lengths)` and how long the output of a sample of n positions is."""

    build: Callable[[], nn.Module]
    call: Callable[[nn.Module, Tensor, Tensor | None], Tensor]
    channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    out_length: Callable[[int], int]
    lengths: tuple[int, ...]


def _call_vae(net: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    noise = _noise(x.shape[0], 20, x.shape[-1] // 2)
    reconstruction, mean, logvar = net(x, noise, lengths)
    # All three outputs at the rate of the latents, one under the other.
    folded = reconstruction.unflatten(-1, (-1, 2)).transpose(2, 3).flatten(1, 2)
    return torch.cat((folded, mean, logvar), dim=1)


def _call_dit(net: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    z, condition = x.chunk(2, dim=1)
    t = torch.tensor([3, 500, 999, 40])[: len(x)]
    drop = torch.tensor([False, True, False, False])[: len(x)]
    return net(z, t, condition, lengths, drop)


def _noise(batch: int, channels: int, n: int) -> Tensor:
    return randn_each(range(batch), (n, channels), "test").transpose(1, 2)


def _dit(**changes: object) -> LatentDiT:
    small = {
        "context_dim": 48,
        "hidden_size": 64,
        "num_heads": 2,
        "depth": 2,
        "max_latents": 40,
        "ff_mult": 2,
    }
    net = LatentDiT(DiTConfig(**(small | changes)))  # type: ignore[arg-type]
    for (
        block
    ) in net.net.blocks:  # at its initial zero the block's inside would have no effect and no gradient
        nn.init.normal_(block.proj_out.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    nn.init.normal_(net.null, std=1.0)
    return net


def _disc(norm: Literal["batch", "group"]) -> PatchDiscriminator:
    net = PatchDiscriminator(ndf=16, norm=norm)
    for _ in range(
        30
    ):  # running statistics of the batch norm, without which its outputs shrink from layer to layer
        net(torch.randn(8, 1, 28, 48))
    return net


def _vae(**changes: object) -> Autoencoder:
    return Autoencoder(AutoencoderConfig(in_channels=28, ch=64, **changes))  # type: ignore[arg-type]


_DIT = {
    "call": _call_dit,
    "channels": (40,),
    "out_channels": (20,),
    "out_length": lambda n: n,
    "lengths": (23, 7, 40, 1),
}
_VAE = {
    "call": _call_vae,
    "channels": (28,),
    "out_channels": (2 * 28 + 40,),
    "out_length": lambda n: n // 2,
    "lengths": (46, 8, 64, 2),
}
_DISC = {
    "call": lambda net, x, lengths: net(x, lengths),
    "channels": (1, 28),
    "out_channels": (1, 1),
    "out_length": lambda n: int(patch_lengths(torch.tensor(n))),
    "lengths": (64, 40, 97, 25),
}
MODELS = {
    "vae": _Model(build=_vae, **_VAE),  # type: ignore[arg-type]
    "vae, attention at a level": _Model(build=lambda: _vae(ch_mult=(1, 2), attn_layers=(1,)), **_VAE),  # type: ignore[arg-type]
    "dit learned": _Model(build=_dit, **_DIT),  # type: ignore[arg-type]
    "dit aligned": _Model(
        build=lambda: _dit(positions="aligned", self_attentions=1, ff_kernel=3),
        **_DIT,  # type: ignore[arg-type]
    ),
    "disc group": _Model(build=lambda: _disc("group"), **_DISC),  # type: ignore[arg-type]
    "disc batch": _Model(build=lambda: _disc("batch"), **_DISC),  # type: ignore[arg-type]
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "_"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _input(model: _Model, batch: int, n: int) -> Tensor:
    flat = 1
    for c in model.channels:
        flat *= c
    return _noise(batch, flat, n).reshape(batch, *model.channels, n)


def _built(name: str) -> tuple[_Model, nn.Module]:
    torch.manual_seed(0)
    model = MODELS[name]
    return model, model.build().eval()


def test_shape_and_every_parameter_gets_a_gradient(name: str) -> None:
    model, net = _built(name)
    n = max(model.lengths)
    for lengths in (None, torch.tensor(model.lengths)):
        net.zero_grad()
        out = model.call(net, _input(model, 4, n), lengths)
        assert out.shape == (4, *model.out_channels, model.out_length(n))
        (out * torch.randn_like(out)).sum().backward()
        without = [
            key for key, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-6
        ]
        assert [key for key in without if not key.endswith(_VANISHING)] == []


def test_samples_of_a_batch_do_not_touch(name: str) -> None:
    model, net = _built(name)
    x = _input(model, 4, max(model.lengths)).requires_grad_()
    for lengths in (None, torch.tensor(model.lengths)):
        out = model.call(net, x, lengths)[2]
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        assert grad[2].abs().max() > 0
        assert grad[[0, 1, 3]].abs().max() == 0


@pytest.mark.parametrize("junk", [0.0, 1e3, float("nan")])
def test_batch_of_unlike_lengths_equals_each_sample_alone(name: str, junk: float) -> None:
    model, net = _built(name)
    n = max(model.lengths) + 5
    x = _input(model, 4, n)
    padded = x.clone()
    for row, length in enumerate(model.lengths):
        padded[row, ..., length:] = junk
    with torch.no_grad():
        together = model.call(net, padded, torch.tensor(model.lengths))
        wider = torch.cat((padded, torch.full_like(padded[..., :6], junk)), dim=-1)
        if "learned" not in name:  # whose table ends
            further = model.call(net, wider, torch.tensor(model.lengths))
        for row, length in enumerate(model.lengths):
            # The earlier rows stay, so that row-bound inputs (steps, dropping) stay with their row.
            alone = model.call(net, x[: row + 1, ..., :length], None)[row]
            valid = model.out_length(length)
            torch.testing.assert_close(together[row, ..., :valid], alone, rtol=1e-5, atol=1e-5)
            if "learned" not in name:
                torch.testing.assert_close(further[row, ..., :valid], alone, rtol=1e-5, atol=1e-5)


def test_padding_leaves_gradients_alone(name: str) -> None:
    model, net = _built(name)
    length, n = model.lengths[1], max(model.lengths)
    x = _input(model, 2, n)
    lengths = torch.tensor([n, length])
    valid = model.out_length(length)

    net.zero_grad()
    model.call(net, x, lengths)[1, ..., :valid].square().sum().backward()
    padded = {key: p.grad.clone() for key, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    model.call(net, x[..., :length], None)[1].square().sum().backward()
    for key, p in net.named_parameters():
        if p.grad is not None:
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(padded[key], p.grad, rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=key)


def test_odd_and_short_inputs(name: str) -> None:
    model, net = _built(name)
    for n in (min(model.lengths), min(model.lengths) + 1, 33):
        out = model.call(net, _input(model, 1, n), None)
        assert out.shape[-1] == model.out_length(n)
        assert out.isfinite().all()


def test_bf16_autocast_is_finite_and_close(name: str) -> None:
    model, net = _built(name)
    x = _input(model, 4, max(model.lengths))
    lengths = torch.tensor(model.lengths)
    with torch.no_grad():
        exact = model.call(net, x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        out = model.call(net, x, lengths)
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    keep = [model.out_length(length) for length in model.lengths]
    for row, valid in enumerate(keep):
        difference = (out[row, ..., :valid].float() - exact[row, ..., :valid]).square().mean().sqrt()
        assert difference < 0.1 * exact[row, ..., :valid].square().mean().sqrt() + 0.02


def test_copy_gives_the_same_numbers(name: str) -> None:
    model, net = _built(name)
    x = _input(model, 2, max(model.lengths))
    with torch.no_grad():
        want = model.call(net, x, None)
        torch.testing.assert_close(model.call(copy.deepcopy(net), x, None), want, rtol=0, atol=0)
        again = model.build().eval()
        again.load_state_dict(net.state_dict())
        torch.testing.assert_close(model.call(again, x, None), want, rtol=0, atol=0)


def test_too_short_input_is_one_sentence() -> None:
    with pytest.raises(DataError, match="1 frames"):
        _vae().encode(torch.zeros(1, 28, 1))
    with pytest.raises(DataError, match="20 frames"):
        PatchDiscriminator(ndf=16)(torch.zeros(1, 1, 80, 20))
