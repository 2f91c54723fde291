"""Vocoders with weights: every format loads to the same sound, and what does not fit is one sentence."""

from __future__ import annotations

import json
import logging
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from momu_dist.core.audio.mel import HOP
from momu_dist.core.audio.vocoder import Vocoder
from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig
from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError, DataError
from momu_dist.inference import vocoders
from momu_dist.inference.export import Export, write_export
from momu_dist.inference.generator import Generator
from momu_dist.inference.request import Request
from momu_dist.inference.vocoders import STAGE, NeuralVocoder, hint_griffin_lim, load_vocoder

SETTINGS: dict[str, Any] = {
    "resblock": "1",
    "num_mels": 80,
    "upsample_rates": [8, 8, 4],
    "upsample_kernel_sizes": [16, 16, 8],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "learning_rate": 1e-4,
}
NVIDIA = {
    **SETTINGS,
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
    "sampling_rate": 16000,
    "hop_size": 256,
    "n_fft": 1024,
    "win_size": 1024,
    "fmin": 0,
    "fmax": None,
}


def network(settings: dict[str, Any], seed: int = 0) -> BigVGAN:
    torch.manual_seed(seed)
    return BigVGAN(BigVGANConfig.from_reference(settings)).eval()


def write_maa(folder: Path, **change: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "args.yml").write_text(yaml.safe_dump({**SETTINGS, **change}))
    torch.save({"generator": network(SETTINGS).state_dict(), "steps": 3}, folder / "best_netG.pt")
    return folder


def write_nvidia(folder: Path, **change: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**NVIDIA, **change}))
    torch.save({"generator": network(NVIDIA).state_dict()}, folder / "bigvgan_generator.pt")
    return folder


def a_mel(frames: int, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(seed)) - 2.0


def sound(net: BigVGAN, mel: Tensor) -> Tensor:
    with torch.no_grad():
        return net(mel)[:, 0]


def test_make_an_audios_folder(tmp_path: Path) -> None:
    vocoder: Vocoder = load_vocoder(write_maa(tmp_path / "v"), "cpu")
    mel = a_mel(9)
    assert torch.equal(vocoder(mel, [0]), sound(network(SETTINGS), mel))
    assert vocoder.name == "bigvgan-" + file_sha256(tmp_path / "v" / "best_netG.pt")[:12]


def test_nvidias_folder_gets_the_natural_logarithm(tmp_path: Path) -> None:
    vocoder = load_vocoder(write_nvidia(tmp_path / "v"), "cpu")
    mel = a_mel(9)
    expected = sound(network(NVIDIA), mel * math.log(10.0))
    torch.testing.assert_close(vocoder(mel, [0]), expected, rtol=0, atol=1e-6)


def test_weights_without_weight_norm(tmp_path: Path) -> None:
    folder = write_nvidia(tmp_path / "v")
    plain, state = {}, network(NVIDIA).state_dict()
    for name, value in state.items():
        if name.endswith("weight_v"):
            norm = value.norm(dim=(1, 2), keepdim=True)
            plain[name.removesuffix("_v")] = state[name.removesuffix("v") + "g"] * value / norm
        elif not name.endswith("weight_g"):
            plain[name] = value
    torch.save({"generator": plain}, folder / "bigvgan_generator.pt")
    mel = a_mel(9)
    expected = sound(network(NVIDIA), mel * math.log(10.0))
    torch.testing.assert_close(load_vocoder(folder, "cpu")(mel, [0]), expected, rtol=0, atol=1e-6)


def test_half_precision_weights_are_used_in_single(tmp_path: Path) -> None:
    folder = write_maa(tmp_path / "v")
    state = {name: value.half() for name, value in network(SETTINGS).state_dict().items()}
    torch.save({"generator": state}, folder / "best_netG.pt")
    assert load_vocoder(folder, "cpu")(a_mel(4), [0]).dtype == torch.float32


def test_a_sample_alone_is_the_sample_in_a_batch() -> None:
    vocoder = NeuralVocoder(network(SETTINGS), "0" * 64)
    mels = a_mel(11, batch=3)
    batch = vocoder(mels, [5, 6, 7])
    assert batch.shape == (3, HOP * 11) and batch.dtype == torch.float32 and batch.abs().max() <= 1
    for i in range(3):
        assert torch.equal(vocoder(mels[i : i + 1], [9])[0], batch[i])
    assert vocoder(mels[:0], []).shape == (0, HOP * 11)


def test_music_of_other_lengths_in_the_batch_changes_nothing(tiny_runs: Path, tmp_path: Path) -> None:
    generator = Generator.load(tiny_runs / "dit_m2a", device="cpu", vocoder=write_maa(tmp_path / "v"))
    motion = torch.randn(250, 14, 2, generator=torch.Generator().manual_seed(0)).numpy().cumsum(0) + 300
    requests = [
        Request("m2a", seed, seconds, steps=1, motion_px=motion) for seed, seconds in ((1, 3), (2, 2))
    ]
    together = generator.generate(requests)
    for request, sample in zip(requests, together, strict=True):
        (alone,) = generator.generate(request)
        assert alone.vocoder == sample.vocoder == generator.vocoder.name
        torch.testing.assert_close(
            torch.from_numpy(alone.audio), torch.from_numpy(sample.audio), rtol=0, atol=1e-4
        )


def test_long_music_in_pieces_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = NeuralVocoder(network(SETTINGS), "0" * 64)
    mel = a_mel(3 * vocoder.net.config.reach_frames + 5)
    whole = vocoder(mel, [0])
    monkeypatch.setattr(vocoders, "PIECE_FRAMES", vocoder.net.config.reach_frames - 1)
    torch.testing.assert_close(vocoder(mel, [0]), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mel", "seeds", "match"),
    [
        (torch.zeros(1, 79, 5), [0], "expected"),
        (torch.zeros(2, 80, 5), [0], "seeds"),
        (torch.full((1, 80, 5), float("nan")), [0], "not finite"),
    ],
)
def test_a_mel_that_cannot_be_is_refused(mel: Tensor, seeds: list[int], match: str) -> None:
    with pytest.raises(DataError, match=match):
        NeuralVocoder(network(SETTINGS), "0" * 64)(mel, seeds)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampling_rate": 24000}, "sampling_rate 24000, expected sampling_rate 16000"),
        ({"hop_size": 320}, "hop_size 320, expected hop_size 256"),
        ({"n_fft": 2048, "win_size": 2048}, "n_fft 2048, win_size 2048, expected n_fft 1024, win_size 1024"),
        ({"fmax": 12000}, "fmax 12000, expected fmax 8000"),
        ({"num_mels": 100}, "num_mels 100, expected num_mels 80"),
        (
            {"upsample_rates": [8, 8, 2], "upsample_kernel_sizes": [16, 16, 4]},
            "hop_size 128, expected hop_size 256",
        ),
    ],
)
def test_a_vocoder_for_another_mel_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_vocoder(write_nvidia(tmp_path / "v", **change))
    one_sentence(caught.value, said, str(tmp_path / "v" / "config.json"))


def one_sentence(error: Exception, *parts: str) -> None:
    text = str(error)
    assert all(part in text for part in parts), text
    assert "\n" not in text and text.endswith("."), text


def _lacks_generator(folder: Path) -> None:
    torch.save({"model": {}}, folder / "best_netG.pt")


def _bare_tensor(folder: Path) -> None:
    torch.save(torch.zeros(3), folder / "best_netG.pt")


def _no_tensors(folder: Path) -> None:
    torch.save({"generator": {"conv_pre.bias": 3}}, folder / "best_netG.pt")


def _change_state(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    state = network(SETTINGS).state_dict()
    change(state)
    torch.save({"generator": state}, folder / "best_netG.pt")


def _pickled_code(folder: Path) -> None:
    (folder / "best_netG.pt").write_bytes(pickle.dumps({"generator": Path("x")}, protocol=2))


BROKEN: list[tuple[str, Callable[[Path], Any], str]] = [
    ("gone", lambda f: (f / "best_netG.pt").unlink(), "is not there"),
    (
        "torn",
        lambda f: (f / "best_netG.pt").write_bytes((f / "best_netG.pt").read_bytes()[:-900]),
        "cannot be read",
    ),
    ("noise", lambda f: (f / "best_netG.pt").write_bytes(b"\x80\x02 not a checkpoint"), "cannot be read"),
    ("empty", lambda f: (f / "best_netG.pt").write_bytes(b""), "cannot be read"),
    ("code", _pickled_code, "holds code, which is not run"),
    ("no generator", _lacks_generator, "holds the keys model, expected 'generator'"),
    ("a tensor", _bare_tensor, "holds Tensor, expected 'generator'"),
    ("no tensors", _no_tensors, "is no table of tensors"),
    ("a name less", lambda f: _change_state(f, lambda s: s.pop("conv_post.bias")), "conv_post.bias"),
    ("a name more", lambda f: _change_state(f, lambda s: s.update(other=torch.zeros(1))), "other"),
    (
        "a shape",
        lambda f: _change_state(f, lambda s: s.update({"conv_pre.bias": torch.zeros(3)})),
        "conv_pre.bias has shape (3,), expected (16,)",
    ),
    (
        "not finite",
        lambda f: _change_state(f, lambda s: s["conv_pre.bias"].fill_(float("nan"))),
        "not finite",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_weights_are_one_sentence(tmp_path: Path, spoil: Callable[[Path], Any], said: str) -> None:
    folder = write_maa(tmp_path / "v")
    spoil(folder)
    with pytest.raises(CheckpointError) as caught:
        load_vocoder(folder)
    one_sentence(caught.value, said, str(folder / "best_netG.pt"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("- 1", "lacks num_mels"),
        ("num_mels: 80", "lacks upsample_rates, upsample_kernel_sizes, upsample_initial_channel"),
        (yaml.safe_dump({**SETTINGS, "upsample_rates": 4}), "no BigVGAN that can be built"),
        (yaml.safe_dump({**SETTINGS, "resblock": "7"}), "resblock='7'"),
        (yaml.safe_dump({**SETTINGS, "num_mels": "eighty"}), "no BigVGAN that can be built"),
    ],
)
def test_broken_settings_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    folder = write_maa(tmp_path / "v")
    (folder / "args.yml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_vocoder(folder)
    one_sentence(caught.value, said, str(folder / "args.yml"))


def test_no_vocoder_says_what_was_found_and_expected(tmp_path: Path) -> None:
    (tmp_path / "best_netG.pt").write_text("")
    for path, said in (
        (tmp_path, "it holds best_netG.pt"),
        (tmp_path / "none", "there is no such folder"),
        (tmp_path / "best_netG.pt", "it is a file"),
    ):
        with pytest.raises(CheckpointError) as caught:
            load_vocoder(path)
        one_sentence(caught.value, said, "args.yml and best_netG.pt", "momu weights check")


def write_export_of(folder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> BigVGAN:
    """An export as the stage `vocoder` writes it; only the reading of its run's config is stood in for."""
    net = network(settings)
    write_export(folder, {"stage": STAGE}, net.state_dict(), {}, {})
    facts = json.loads((folder / "model.json").read_text())
    export = Export(folder, SimpleNamespace(stage=STAGE, model=net.config), facts)  # type: ignore[arg-type]

    def find(path: Path, stage: str | None) -> Export:
        assert (path, stage) == (folder, STAGE)
        return export

    monkeypatch.setattr(vocoders, "find_export", find)
    monkeypatch.setattr(Export, "stands", lambda export: True)
    return net


def test_our_own_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = write_export_of(tmp_path / "export", SETTINGS, monkeypatch)
    vocoder = load_vocoder(tmp_path / "export", "cpu")
    assert torch.equal(vocoder(a_mel(9), [0]), sound(net, a_mel(9)))
    assert vocoder.sha256 == file_sha256(tmp_path / "export" / "model.safetensors")


def test_our_own_export_for_another_mel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_export_of(
        tmp_path / "e", {**SETTINGS, "upsample_rates": [8, 8], "upsample_kernel_sizes": [16, 16]}, monkeypatch
    )
    with pytest.raises(CheckpointError, match="hop_size 64, expected hop_size 256"):
        load_vocoder(tmp_path / "e")


def test_a_run_of_another_stage_is_no_vocoder(tiny_runs: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a music_vae model, expected vocoder"):
        load_vocoder(tiny_runs / "music_vae")


def test_griffin_lims_sound_is_explained_once(caplog: pytest.LogCaptureFixture) -> None:
    hint_griffin_lim.cache_clear()
    with caplog.at_level(logging.WARNING):
        hint_griffin_lim()
        hint_griffin_lim()
    (record,) = caplog.records
    assert "\n" not in record.message
    for part in ("Griffin-Lim", "BigVGAN", "--vocoder", "momu weights check"):
        assert part in record.message
