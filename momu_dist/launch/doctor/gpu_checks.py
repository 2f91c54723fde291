"""The GPUs of a machine: those that torch can use, beside those that a job was given and a site asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from momu_dist.launch.doctor.finding import Finding


@dataclass(frozen=True)
class Gpus:
    """What torch and the driver say of this machine's GPUs; `listed` is None without nvidia-smi."""

    cuda: str | None
    usable: int
    listed: int | None = None
    nccl: str | None = None
    fault: str | None = None


def see_gpus() -> Gpus:
    """Return what can be seen here; each GPU that torch sees is used once."""
    import torch

    listed = None
    if shutil.which("nvidia-smi"):
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
        listed = sum(line.startswith("GPU ") for line in answer.stdout.splitlines())
    cuda = torch.version.cuda or torch.version.hip
    if cuda is None or not torch.cuda.is_available():
        return Gpus(cuda, 0, listed)
    nccl, fault = None, None
    try:
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
        for index in range(torch.cuda.device_count()):
            torch.ones(1, device=f"cuda:{index}").item()
    except RuntimeError as error:
        fault = str(error).splitlines()[0]
    return Gpus(cuda, torch.cuda.device_count(), listed, nccl, fault)


def gpus_wanted(options: Mapping[str, str | bool]) -> int:
    """Return how many GPUs a site asks for on a node; `options` are those of sbatch, such as gres: gpu:a100:4."""
    text = str(options.get("gpus-per-node", ""))
    if not text and "gpu" in str(options.get("gres", "")):
        text = next(part for part in str(options["gres"]).split(",") if "gpu" in part)
    number = re.search(r"(\d+)(?:\(.*\))?$", text)
    return int(number[1]) if number else int(bool(text))


def check_gpus(seen: Gpus, given: int, wanted: int, unused: bool = False) -> Finding:
    """GPUs that torch can use, beside those that the allocation gives (0: it does not say) and the site asks for.

    A job that is given GPUs which torch cannot use is refused, unless its run leaves them `unused`.
    """
    expected = given or wanted
    if seen.cuda is None:
        if expected or seen.listed:
            return Finding(
                "gpus",
                "wrong" if expected and not unused else "warning",
                f"torch is a CPU build, {max(expected, seen.listed or 0)} GPUs are there or asked for",
                "install a CUDA build of torch (README.md, docs/slurm.md), or train on CPUs with train.device=cpu",
            )
        return Finding("gpus", "fine", "torch is a CPU build, no GPUs are asked for")
    build = f"torch for CUDA {seen.cuda}"
    if seen.fault is not None:
        return Finding(
            "gpus", "wrong", f"{build}: a GPU fails ({seen.fault})", "tell the site's administrators"
        )
    if seen.usable == 0 and (expected or seen.listed):
        return Finding(
            "gpus",
            "wrong",
            f"{build} can use none of {max(expected, seen.listed or 0)} GPUs",
            "ask for GPUs in the site's sbatch options, and compare the driver (nvidia-smi) with that CUDA version",
        )
    if seen.usable == 0:
        return Finding("gpus", "fine", f"{build}; no GPU here, and none asked for")
    said = f"{build} and NCCL {seen.nccl} can use {seen.usable} GPUs"
    if given and given != seen.usable:
        return Finding(
            "gpus",
            "wrong",
            f"{said}, the allocation gives {given}",
            "look at CUDA_VISIBLE_DEVICES and nvidia-smi there",
        )
    if seen.usable < wanted:
        return Finding(
            "gpus",
            "wrong",
            f"{said}, the site asks for {wanted}",
            "correct gpus-per-node of the site, or the partition",
        )
    return Finding("gpus", "fine", said)


def gpu_memory() -> int | None:
    """Return the bytes of this machine's smallest GPU; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    return min(
        torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
    )
