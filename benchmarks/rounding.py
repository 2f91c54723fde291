"""What a sample's latents owe to the company they are sampled in, with and without TF32 in a GPU's convolutions.

    python benchmarks/rounding.py --checkpoint runs/demo

Differences are the largest of the final latents, relative to their largest value.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from sampling import walk_all
from torch import Tensor

from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request
from report import machine_line, publish, table

HEAD = ("convolutions", "alone again", "in company against alone", "against a CPU")
ASKED = (
    (4.1, "ddim", 50), (8.2, "ddim", 50), (8.2, "dpm++", 20), (12.3, "ddim", 50), (20.0, "ddim", 50), (8.0, "ddim", 50)
)  # fmt: skip
"""Seconds, sampler, steps of the joint requests."""


def difference(found: Sequence[tuple[Tensor, ...]], expected: Sequence[tuple[Tensor, ...]]) -> str:
    """The largest relative difference of any latents."""
    pairs = zip(chain(*found), chain(*expected), strict=True)
    return f"{max(float((x.cpu() - y.cpu()).abs().max() / y.abs().max()) for x, y in pairs):.1e}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A sample alone and in company.")
    parser.add_argument("--checkpoint", action="append", required=True, help="runs of both directions")
    parser.add_argument("--out", type=Path, help="where the table goes (the terminal)")
    options = parser.parse_args(arguments)
    requests = [
        Request("joint", seed=seed, seconds=seconds, sampler=sampler, steps=steps)
        for seed, (seconds, sampler, steps) in enumerate(ASKED)
    ]
    generator = Generator.load(*options.checkpoint)
    reference = walk_all(Generator.load(*options.checkpoint, device="cpu"), requests, 1)
    rows = []
    for name, allowed in (("TF32", True), ("fp32", False)):
        torch.backends.cudnn.allow_tf32 = allowed
        alone = walk_all(generator, requests, 1)
        again, together = walk_all(generator, requests, 1), walk_all(generator, requests, len(requests))
        rows.append(
            [name, difference(again, alone), difference(together, alone), difference(alone, reference)]
        )
    device = generator.models.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU, so TF32 is not used"
    publish("Rounding", f"{machine_line(('torch',))}, {where}.\n\n{table(HEAD, rows)}\n", options.out)


if __name__ == "__main__":
    main()
