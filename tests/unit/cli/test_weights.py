"""`momu weights check`: what is there, what is missing, what is not what it should be; each has its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from momu_dist.cli import main
from momu_dist.core.models.bigvgan import BigVGAN, BigVGANConfig
from momu_dist.data.hashes import file_sha256
from momu_dist.inference.weights import CATALOG

SETTINGS: dict[str, Any] = {
    "num_mels": 80,
    "upsample_rates": [16, 16],
    "upsample_kernel_sizes": [32, 32],
    "upsample_initial_channel": 4,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1]],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with every file of the catalog; the vocoder is a real, tiny one."""
    for weights in CATALOG:
        for name in weights.files:
            (tmp_path / weights.name).mkdir(exist_ok=True)
            (tmp_path / weights.name / name).write_bytes(name.encode())
    (tmp_path / "bigvgan" / "args.yml").write_text(yaml.safe_dump(SETTINGS))
    net = BigVGAN(BigVGANConfig.from_reference(SETTINGS))
    torch.save({"generator": net.state_dict()}, tmp_path / "bigvgan" / "best_netG.pt")
    return tmp_path


def check(root: Path, *more: str) -> int:
    try:
        return main(["weights", "check", "--dir", str(root), *more])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


def test_nothing_there_says_what_to_get_and_where_to_put_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path / "none") == 1
    said = capsys.readouterr().out
    for weights in CATALOG:
        for part in (weights.source, weights.licence, weights.use, str(tmp_path / "none" / weights.name)):
            assert part in said
        assert all(name in said for name in weights.files)
    assert "No sums come with this program" in said


def test_all_there_is_0_and_the_vocoder_loads(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root) == 0
    said = capsys.readouterr().out
    assert "loads," in said and "MISSING" not in said
    assert said.count("there, no sum given") == sum(len(weights.files) for weights in CATALOG)
    assert file_sha256(root / "bigvgan" / "best_netG.pt") in said


def test_one_file_missing_is_1(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "vggish" / "vggish-10086976.pth").unlink()
    assert check(root) == 1
    assert capsys.readouterr().out.count("MISSING") == 1


@pytest.mark.parametrize("how", ["file", "option by path", "option by name"])
@pytest.mark.parametrize("right", [True, False])
def test_sums_that_are_given_are_compared(
    root: Path, how: str, right: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "bigvgan/best_netG.pt"
    digits = file_sha256(root / name) if right else "0" * 64
    more: list[str] = []
    if how == "file":
        (root / "sha256sums").write_text(f"# from a friend\n{digits.upper()} *./{name}\n")
    else:
        more = ["--sha256", f"{name if how == 'option by path' else 'best_netG.pt'}={digits}"]
    assert check(root, *more) == (0 if right else 3)
    said = capsys.readouterr().out
    assert ("there, as the sum given" in said) == right
    assert ("DIFFERS from the sum given" in said) == (not right)
    # What differs is not opened.
    assert ("loads," in said) == right


def test_a_vocoder_that_does_not_load_is_3(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "bigvgan" / "best_netG.pt").write_bytes(b"torn")
    assert check(root) == 3
    assert "cannot be read" in capsys.readouterr().out


def test_wrong_beats_missing(root: Path) -> None:
    (root / "vggish" / "vggish-10086976.pth").unlink()
    assert check(root, "--sha256", f"args.yml={'0' * 64}") == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["args.yml"], "is no SHA-256"),
        (["args.yml=12"], "is no SHA-256"),
        ([f"other.pt={'0' * 64}"], "is none of the files looked for"),
        ([f"args.yml={'0' * 64}", f"bigvgan/args.yml={'1' * 64}"], "another sum was given"),
    ],
)
def test_a_sum_that_cannot_be_is_2(
    root: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(root, *(part for item in given for part in ("--sha256", item))) == 2
    assert said in capsys.readouterr().err


def test_a_bad_line_of_the_file_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "sha256sums").write_text("\nabc  bigvgan/args.yml\n")
    assert check(root) == 2
    assert "sha256sums, line 2" in capsys.readouterr().err
