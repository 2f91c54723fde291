"""DeepSpeed ZeRO 0-3 behind the engine contract. The only file that imports deepspeed."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError
from momu_dist.train.checkpoint import Checkpoint, check_files, derived_folder
from momu_dist.train.engine import EngineOptions, saved


def _import_deepspeed() -> ModuleType:
    """Return deepspeed without what it would load, or compile, for parts that are not used here.

    Its autotuner imports MLflow (1.7 s of a processor in every worker); its Muon optimiser, imported to be compared
    with ours, asks for torch's compiler (0.7 s); and on CPUs it compiles a shared-memory all-reduce for inference
    (once a minute of two cores and a need for g++ and ninja; then 1 s to load). Measured with 0.19.8; a version that
    is laid out otherwise only loads more.
    """
    tuner = ModuleType("deepspeed.autotuning.autotuner")
    vars(tuner)["Autotuner"] = None
    sys.modules.setdefault(tuner.__name__, tuner)
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__ = {}  # of ready-made operators: none is asked for but that all-reduce
    with mock.patch("torch.compile", lambda model=None, **_: model or (lambda function: function)):
        import deepspeed.runtime.zero.muon.muon_optimizer
    return deepspeed


deepspeed: Any = _import_deepspeed()


def deepspeed_config(options: EngineOptions, stage: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON, derived from the one config; nothing in it is set anywhere else."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": options.micro_batch,
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": options.optim.clip_norm,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }
    if options.bf16:
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


class DeepSpeedEngine:
    """torch's AdamW under ZeRO. Parameters stay fp32; bf16 is autocast inside the network's forward."""

    def __init__(self, stage: int, name: str, net: nn.Module, options: EngineOptions) -> None:
        self.name = name
        self.stage = stage
        self.sharded = stage == 3
        self.net = net
        self.options = options
        self.device_type = next(net.parameters()).device.type
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=options.optim.lr,
            betas=options.optim.betas,
            weight_decay=options.optim.weight_decay,
        )
        self.module, *_ = deepspeed.initialize(
            model=net, optimizer=optimizer, config=deepspeed_config(options, stage)
        )
        self.engine: Any = self.module

    def computing(self) -> AbstractContextManager[object]:
        # DeepSpeed's own autocast covers its network only; frozen networks and discriminators belong to the phase too.
        if not self.options.bf16:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(self, lr: float) -> float | None:
        boundary = self.engine.is_gradient_accumulation_boundary()
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if boundary else None
        return None if norm is None else float(norm)

    def local_parameters(self) -> dict[str, Tensor]:
        named: Iterable[tuple[str, Any]] = self.net.named_parameters()  # ZeRO-3 hangs ds_tensor on them
        return {name: (p.ds_tensor if self.stage == 3 else p).detach() for name, p in named}

    def gather(self, local: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = self.net.state_dict().keys()  # buffers that are not stored, such as rotary tables, stay out
        buffers = {name: value for name, value in self.net.named_buffers() if name in kept}
        state = {name: value.detach().to("cpu", copy=True) for name, value in buffers.items()}
        if self.stage < 3:
            return {**state, **{name: value.to("cpu", copy=True) for name, value in local.items()}}
        for name, parameter in self.net.named_parameters():
            state[name] = self._whole(parameter, local[name])
        return state

    @staticmethod
    def _whole(parameter: Any, shard: Tensor) -> Tensor:
        """Join one parameter's ZeRO-3 shards: equal flat parts, the last one padded."""
        parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, shard.contiguous())
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape).to("cpu", copy=True)

    def localise(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named: Iterable[tuple[str, Any]] = self.net.named_parameters()
        if self.stage < 3:
            return {name: whole[name] for name, _ in named}
        return {name: self._part(parameter, whole[name]) for name, parameter in named}

    @staticmethod
    def _part(parameter: Any, whole: Tensor) -> Tensor:
        """Cut this rank's shard of one parameter out, the inverse of `_whole`."""
        size = parameter.ds_tensor.numel()
        flat = whole.new_zeros(size * dist.get_world_size())
        flat[: whole.numel()] = whole.flatten()
        return flat[dist.get_rank() * size :][:size].view_as(parameter.ds_tensor)

    def snapshot(self) -> dict[str, memoryview]:
        captured = _InMemory()
        usual, self.engine.checkpoint_engine = self.engine.checkpoint_engine, captured
        try:
            with tempfile.TemporaryDirectory() as scratch:
                self.engine.save_checkpoint(scratch, tag=self.name, save_latest=False)
                return {str(path.relative_to(scratch)): data for path, data in captured.files.items()}
        finally:
            self.engine.checkpoint_engine = usual

    def load(self, checkpoint: Checkpoint) -> None:
        folder = checkpoint.folder
        resized = checkpoint.world_size != dist.get_world_size()
        if resized:
            folder = universal(checkpoint, self.name)
        # DeepSpeed reads this setting when it loads and nowhere else.
        self.engine._config.load_universal_checkpoint = resized
        try:
            path, _ = self.engine.load_checkpoint(str(folder), tag=self.name)
        finally:
            self.engine._config.load_universal_checkpoint = False
        if path is None:
            raise CheckpointError(f"{folder} holds no complete DeepSpeed checkpoint of {self.name}.")


class _InMemory(deepspeed.runtime.checkpoint_engine.TorchCheckpointEngine):  # type: ignore[misc]
    """Keeps what DeepSpeed would write: copying memory is all that training waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[Path, memoryview] = {}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing is written."""

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path)] = saved(state_dict)


def universal(checkpoint: Checkpoint, name: str) -> Path:
    """Return the checkpoint in DeepSpeed's universal form, which any number of workers can load; converted once.

    Every rank must call it.
    """
    folder = derived_folder(checkpoint.folder, "universal")
    if dist.get_rank() == 0 and not _is_of(folder, checkpoint):
        from deepspeed.checkpoint.ds_to_universal import main as convert

        shutil.rmtree(folder, ignore_errors=True)
        temporary = derived_folder(checkpoint.folder, "universal-writing")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        arguments = {
            "input_folder": str(checkpoint.folder / name),
            "output_folder": str(temporary / name),
            # One process: a pool would import DeepSpeed again in each of its own.
            "num_extract_workers": 1,
            "num_merge_workers": 1,
            "keep_temp_folder": False,
            "strict": True,
            "inject_missing_state": True,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            convert(argparse.Namespace(**arguments))
        files = {str(p.relative_to(temporary)): file_sha256(p) for p in temporary.rglob("*") if p.is_file()}
        (temporary / _SOURCE).write_text(json.dumps({"of": checkpoint.state["sha256"], "files": files}))
        temporary.rename(folder)
    dist.barrier()
    return folder


_SOURCE = "source.json"


def _is_of(folder: Path, checkpoint: Checkpoint) -> bool:
    """Whether the universal form at `folder` was made from this checkpoint and is what was written."""
    try:
        source = json.loads((folder / _SOURCE).read_text())
        check_files(folder, source["files"])
    except (OSError, ValueError, KeyError, CheckpointError):
        return False
    return bool(source["of"] == checkpoint.state["sha256"])
