"""Exponential moving average of weights, in fp32, sharded like the parameters it follows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """shadow <- decay * shadow + (1 - decay) * parameter, with decay ramped up as (1 + n) / (10 + n) at the start."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        """Follow `parameters`, which have the names and shapes given at the start."""
        self.updates += 1
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        names = list(self.shadow)
        torch._foreach_lerp_(
            [self.shadow[name] for name in names], [parameters[name].float() for name in names], weight
        )

    def restore(self, parameters: Mapping[str, Tensor], updates: int) -> None:
        """Go on from an average that had followed `updates` updates."""
        self.updates = updates
        for name, value in self.shadow.items():
            value.copy_(parameters[name])
