"""What is particular to the diffusion transformer; what all networks promise is in tests/contract/test_models.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from momu_dist.core.models.dit import DiTConfig, LatentDiT, timestep_embedding
from momu_dist.core.models.transformer import RotaryTable, SelfAttention, rotate
from momu_dist.errors import ConfigError

_SMALL = {"context_dim": 32, "hidden_size": 64, "num_heads": 2, "depth": 2, "max_latents": 31, "ff_mult": 1}


def _net(**changes: object) -> LatentDiT:
    torch.manual_seed(0)
    net = LatentDiT(DiTConfig(**(_SMALL | changes))).eval()  # type: ignore[arg-type]
    for block in net.net.blocks:
        nn.init.normal_(block.proj_out.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    nn.init.normal_(net.null)
    return net


def _inputs(batch: int = 2, n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, 20, n), torch.arange(batch) * 300 + 5, torch.randn(batch, 20, n)


@pytest.mark.parametrize("latents", [781, 937])
@pytest.mark.parametrize("positions", ["learned", "aligned"])
def test_paper_size(latents: int, positions: str) -> None:
    with torch.device("meta"):
        net = LatentDiT(DiTConfig(max_latents=latents, positions=positions))  # type: ignore[arg-type]
    assert 158_000_000 < sum(p.numel() for p in net.parameters()) < 160_000_000


def test_learned_table_holds_the_longest_sequence() -> None:
    assert DiTConfig(max_latents=781).max_len == 1600
    assert DiTConfig(max_latents=937).max_len == 1920
    z, t, condition = _inputs(n=31)
    _net()(z, t, condition)
    z, t, condition = _inputs(n=32)
    with pytest.raises(ConfigError, match="got 32 latents, but its learned positions end at 31"):
        _net()(z, t, condition)
    assert _net(positions="aligned")(z, t, condition).shape == z.shape


@pytest.mark.parametrize("positions", ["learned", "aligned"])
def test_dropped_condition_is_the_null_one(positions: str) -> None:
    net = _net(positions=positions)
    z, t, condition = _inputs()
    drop = torch.tensor([True, False])
    with torch.no_grad():
        mixed = net(z, t, condition, drop=drop)
        torch.testing.assert_close(mixed[0], net(z, t, None)[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mixed[1], net(z, t, condition)[1], rtol=1e-5, atol=1e-5)
        assert (mixed[0] - net(z, t, condition)[0]).abs().max() > 1e-3


def test_blocks_start_as_the_identity() -> None:
    z, t, condition = _inputs()
    fresh = LatentDiT(DiTConfig(**_SMALL))  # type: ignore[arg-type]
    with torch.no_grad():
        want = fresh(z, t, condition)
        fresh.net.blocks = nn.ModuleList()
        torch.testing.assert_close(fresh(z, t, condition), want, rtol=0, atol=0)


def test_equal_lengths_change_nothing() -> None:
    net = _net(positions="aligned")
    z, t, condition = _inputs()
    with torch.no_grad():
        torch.testing.assert_close(
            net(z, t, condition, torch.tensor([12, 12])), net(z, t, condition), rtol=0, atol=0
        )


def test_rotation_depends_on_the_distance_alone() -> None:
    table = RotaryTable(8, 1000.0, 4)
    q, k = torch.randn(8), torch.randn(8)

    def score(i: int, j: int) -> float:
        both = torch.stack((q, k))[None, None]
        turned = rotate(both, table(torch.tensor([[i, j]]), 50))[0, 0]
        return float(turned[0] @ turned[1])

    assert score(3, 7) == pytest.approx(score(33, 37), rel=1e-4)
    assert score(5, 5) == pytest.approx(float(q @ k), rel=1e-4)
    assert score(-1, -1) == pytest.approx(float(q @ k), rel=1e-5)
    assert score(3, 7) != pytest.approx(score(3, 8), rel=1e-3)


def test_rotary_table_stays_float32_and_out_of_the_state_dict() -> None:
    net = _net(positions="aligned").bfloat16()
    z, t, condition = _inputs()
    net(z.bfloat16(), t, condition.bfloat16())
    assert net.net.rotary.angles.dtype == torch.float32
    assert not [key for key in net.state_dict() if "rotary" in key]


def test_local_prior_peaks_attention_at_the_same_frame() -> None:
    torch.manual_seed(0)
    n, width, heads = 40, 96, 2
    attention = SelfAttention(width, heads, local_prior=1.2)
    attention.init_local_prior()
    assert torch.equal(attention.to_q.bias, attention.to_k.bias)
    rotation = RotaryTable(width // heads, 1000.0, n)(torch.arange(n)[None], n)
    q, k = (
        rotate(bias.detach().reshape(1, heads, 1, -1).expand(1, heads, n, -1), rotation)
        for bias in (attention.to_q.bias, attention.to_k.bias)
    )
    weights = torch.softmax(q @ k.transpose(-1, -2) / (width // heads) ** 0.5, dim=-1)
    assert torch.equal(weights.argmax(-1), torch.arange(n).expand(1, heads, n))
    assert SelfAttention(width, heads, local_prior=None).to_q.bias is None


def test_timestep_embedding_by_hand() -> None:
    got = timestep_embedding(torch.tensor([0, 2]), width=4)
    want = torch.tensor([[1.0, 1.0, 0.0, 0.0], [-0.41614684, 0.99980001, 0.90929743, 0.01999867]])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden_size": 100}, "hidden_size=100"),
        ({"positions": "absolute"}, "positions='absolute'"),
        ({"prediction": "x0"}, "prediction='x0'"),
        ({"self_attentions": 3}, "self_attentions=3"),
        ({"ff_kernel": 4}, "ff_kernel=4"),
    ],
)
def test_wrong_shape_is_one_sentence(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DiTConfig(**wrong)  # type: ignore[arg-type]
