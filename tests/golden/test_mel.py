"""Golden 02: Make-An-Audio's mel, and its natural-logarithm twin by BigVGAN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from momu_dist.core.audio.mel import SAMPLE_RATE, hann_window, log_mel, mel_filterbank

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mel(golden: Any) -> Any:
    return golden.npz("02_mel.npz")


def names(mel: Any) -> list[str]:
    found = [key.removeprefix("wav_") for key in mel if key.startswith("wav_")]
    assert found
    return found


def test_equals_make_an_audio(mel: Any) -> None:
    for name in names(mel):
        ours = log_mel(torch.from_numpy(mel[f"wav_{name}"])).numpy()
        assert ours.shape == mel[f"maa_mel_{name}"].shape, name
        np.testing.assert_allclose(ours, mel[f"maa_mel_{name}"], atol=2e-5, rtol=0, err_msg=name)


def test_is_bigvgans_over_the_natural_logarithm_of_ten(mel: Any) -> None:
    for name in names(mel):
        if np.abs(mel[f"wav_{name}"]).max() <= 1:  # theirs does not clamp
            ours = log_mel(torch.from_numpy(mel[f"wav_{name}"])).numpy() * math.log(10)
            np.testing.assert_allclose(ours, mel[f"nv16k_mel_{name}"], atol=5e-5, rtol=0, err_msg=name)


def test_basis_and_window(mel: Any) -> None:
    np.testing.assert_allclose(mel_filterbank(CPU).numpy(), mel["mel_basis_16k_80_0_8000"], atol=1e-7)
    np.testing.assert_allclose(hann_window(CPU).numpy(), mel["hann_1024"], atol=1e-6)


def test_frame_counts(golden: Any) -> None:
    for seconds, frames in golden.json("02_mel.json")["frame_counts"].items():
        assert log_mel(torch.zeros(round(float(seconds) * SAMPLE_RATE))).shape == (80, frames)


def test_summary_numbers(golden: Any, mel: Any) -> None:
    summary = golden.json("02_mel.json")
    for name in names(mel):
        ours = log_mel(torch.from_numpy(mel[f"wav_{name}"]))
        found = {"min": ours.min().item(), "max": ours.max().item(), "mean": ours.mean().item()}
        assert found == pytest.approx({key: summary[name][key] for key in found}, abs=2e-5), name
        assert list(ours.shape) == summary[name]["mel_shape"]
