"""The learning rate as a pure function of the step, so that a restart needs no state."""

from __future__ import annotations

import math

from momu_dist.config.schema import OptimConfig


def learning_rate(optim: OptimConfig, step: int, total_steps: int, base_lr: float | None = None) -> float:
    """Return the rate of step `step` (0-based): linear warm-up from 1e-6 of the rate, then constant or cosine to zero.

    The warm-up is Latent Diffusion's LambdaLinear (f from 1e-6 to 1 over the warm-up, then 1).
    """
    lr = optim.lr if base_lr is None else base_lr
    if step < optim.warmup_steps:
        return lr * (1e-6 + (1.0 - 1e-6) * step / optim.warmup_steps)
    if optim.schedule == "constant":
        return lr
    remaining = max(1, total_steps - optim.warmup_steps)
    return lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - optim.warmup_steps) / remaining)))
