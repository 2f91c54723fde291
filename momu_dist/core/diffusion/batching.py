"""Many walks in few network calls: walks of unlike task, length, sampler and number of steps share each call.

A network takes the diffusion step and the length of each row, so rows need not agree in them. Walks join and leave between
calls; what a walk makes does not depend on who walks beside it (padding is masked in the networks).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from momu_dist.core.diffusion.guidance import Ask, ConditionalModel, Walk

# Rows share a call if the longest is at most this much longer than the shortest: a bound on what padding costs.
LENGTH_RATIO = 1.25
# Rows times latents of one call; more rows become several calls, so that memory is bounded whatever asks at once.
MAX_LATENTS_A_CALL = 65_536

Key = TypeVar("Key")


@torch.no_grad()
def evaluate(networks: Mapping[str, ConditionalModel], asks: Sequence[Ask]) -> list[Tensor]:
    """eps (B, C, L) for each ask, in order: one call for each network and bucket of lengths among them."""
    answers: list[Tensor | None] = [None] * len(asks)
    for members in _calls(asks):
        for i, eps in zip(members, _call(networks, [asks[i] for i in members]), strict=True):
            answers[i] = eps
    return [eps for eps in answers if eps is not None]


class Walkers(Generic[Key]):
    """The walks that share network calls now, by key. Not for several threads at once."""

    def __init__(self, networks: Mapping[str, ConditionalModel]) -> None:
        self._networks = networks
        self._walks: dict[Key, Walk] = {}
        self._asks: dict[Key, Sequence[Ask]] = {}

    def __len__(self) -> int:
        return len(self._walks)

    def present(self) -> list[Key]:
        """Who is here now."""
        return list(self._walks)

    def join(self, key: Key, walk: Walk) -> None:
        """Let `walk` take part from the next step on. Raises what `walk` raises at its start."""
        assert key not in self._walks
        self._asks[key] = next(walk)
        self._walks[key] = walk

    def leave(self, key: Key) -> None:
        """Forget a walk that nobody waits for any more; a key that is not there is none."""
        self._asks.pop(key, None)
        if walk := self._walks.pop(key, None):
            walk.close()

    def progress(self, key: Key) -> tuple[int, int]:
        """(sampling steps done, steps in all) of a walk."""
        point = self._asks[key][0].point
        return point.done, point.n_steps

    def steps_done(self) -> int:
        """Sampling steps done by the walks that are here."""
        return sum(self.progress(key)[0] for key in self._walks)

    def step(self) -> dict[Key, tuple[Tensor, ...]]:
        """Answer what every walk asks now; return the clean latents of those that are at their end, which leave.

        Raises what a network call raises, and then every walk is where it was; and what a walk raises, after which those
        before it have moved and those after it have not.
        """
        keys = list(self._walks)
        answers = iter(evaluate(self._networks, [ask for key in keys for ask in self._asks[key]]))
        ended: dict[Key, tuple[Tensor, ...]] = {}
        for key in keys:
            own = [next(answers) for _ in self._asks[key]]
            try:
                self._asks[key] = self._walks[key].send(own)
            except StopIteration as end:
                ended[key] = end.value
                del self._walks[key], self._asks[key]
        return ended


def _calls(asks: Sequence[Ask]) -> list[list[int]]:
    """Which asks share a call: of one network, in length buckets of LENGTH_RATIO, none larger than the limit."""
    length = [ask.point.z.shape[-1] for ask in asks]
    rows = [len(ask.point.z) for ask in asks]
    order = sorted(range(len(asks)), key=lambda i: (asks[i].network, -length[i]))
    calls: list[list[int]] = []
    room = 0
    for i in order:
        first = calls[-1][0] if calls else None
        if (
            first is None
            or asks[first].network != asks[i].network
            or length[first] > LENGTH_RATIO * length[i]
            or room < rows[i]
        ):
            calls.append([])
            room = max(rows[i], math.floor(MAX_LATENTS_A_CALL / length[i]))
        calls[-1].append(i)
        room -= rows[i]
    return calls


def _call(networks: Mapping[str, ConditionalModel], asks: Sequence[Ask]) -> list[Tensor]:
    """eps for asks of one network in one call, padded to the longest, which is the first."""
    longest = asks[0].point.z.shape[-1]
    rows = [len(ask.point.z) for ask in asks]
    device = asks[0].point.z.device

    def each(values: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).repeat_interleave(torch.tensor(rows)).to(device)

    eps = networks[asks[0].network](
        torch.cat([_padded(ask.point.z, longest) for ask in asks]),
        each([ask.point.t for ask in asks], torch.int64),
        torch.cat([_padded(ask.condition, longest) for ask in asks]),
        each([ask.point.z.shape[-1] for ask in asks], torch.int64),
        each([ask.drop for ask in asks], torch.bool),
    )
    parts = eps.split(rows)
    return [part[..., : ask.point.z.shape[-1]] for part, ask in zip(parts, asks, strict=True)]


def _padded(x: Tensor, length: int) -> Tensor:
    return pad(x, (0, length - x.shape[-1]))
