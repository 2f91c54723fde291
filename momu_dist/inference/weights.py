"""Weights made by others: what they are for, where they come from, where they lie here, and whether they are whole."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from momu_dist.data.hashes import file_sha256
from momu_dist.errors import CheckpointError, ConfigError
from momu_dist.inference.vocoders import load_vocoder

SUMS_FILE = "sha256sums"
_SUM = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Weights:
    """Files of one set of weights, which lie in the folder `name`; none are shipped, and no hash of them is known here."""

    name: str
    files: tuple[str, ...]
    use: str
    source: str
    licence: str
    loads_as_vocoder: bool = False


CATALOG = (
    Weights(
        "bigvgan",
        ("args.yml", "best_netG.pt"),
        "the sound of generated music: `momu generate --vocoder`; 16 kHz, 112 million parameters",
        "github.com/Text-to-Audio/Make-An-Audio (or bytedance/Make-An-Audio-2): its README links a Google Drive folder; "
        "take its folder `bigvgan` (older copies call it `bigvnat`)",
        "the repository is MIT; nothing separate is said of the weights, which were trained on AudioSet (sound of "
        "YouTube videos)",
        loads_as_vocoder=True,
    ),
    Weights(
        "vggish",
        ("vggish-10086976.pth",),
        "the Frechet audio distance (FAD) of the paper; no command reads it yet",
        "github.com/harritaylor/torchvggish, release v0.1, file vggish-10086976.pth",
        "a port of Google's VGGish (github.com/tensorflow/models, Apache 2.0), trained on YouTube videos; read the port's "
        "own terms",
    ),
    Weights(
        "motionbert",
        ("latest_epoch.bin",),
        "embeddings of motion for the Frechet distance and diversity of the paper; no command reads it yet",
        "github.com/Walter0807/MotionBERT, README, Model Zoo: `MotionBERT` (162 MB) or `MotionBERT-Lite` (61 MB)",
        "the repository is Apache 2.0; it was trained on Human3.6M and AMASS, whose terms allow non-commercial research only",
    ),
)


@dataclass(frozen=True)
class Finding:
    """One file: `state` is missing, differs (from the sum given), verified, or unverified (no sum was given)."""

    file: str
    state: str
    sha256: str | None = None


@dataclass(frozen=True)
class Report:
    """What was found of one set. `loads`: what loading it gave, None where it was not tried; `broken` if that failed."""

    weights: Weights
    findings: tuple[Finding, ...]
    loads: str | None = None
    broken: bool = False

    @property
    def missing(self) -> bool:
        return any(finding.state == "missing" for finding in self.findings)

    @property
    def wrong(self) -> bool:
        return self.broken or any(finding.state == "differs" for finding in self.findings)


def check_weights(root: Path, given: Sequence[str] = ()) -> list[Report]:
    """Look for every set of `CATALOG` under `root`, compare with the sums given, and load what can be loaded.

    Sums are lines of `root/sha256sums` (as the tool sha256sum writes them, paths from `root`) and items NAME=HEX of
    `given`, NAME being a path from `root` or a file's name. Raises ConfigError for a sum that is none, that is of a file
    not in the catalog, or that contradicts another.
    """
    sums = _given_sums(root, given)
    return [_check(weights, root, sums) for weights in CATALOG]


def _check(weights: Weights, root: Path, sums: Mapping[str, str]) -> Report:
    findings = []
    for name in weights.files:
        file = f"{weights.name}/{name}"
        if not (root / file).is_file():
            findings.append(Finding(file, "missing"))
            continue
        found = file_sha256(root / file)
        state = "unverified" if file not in sums else "verified" if sums[file] == found else "differs"
        findings.append(Finding(file, state, found))
    report = Report(weights, tuple(findings))
    # What differs from the sum that was given is not opened.
    if not weights.loads_as_vocoder or report.missing or report.wrong:
        return report
    try:
        vocoder = load_vocoder(root / weights.name, "cpu")
    except CheckpointError as error:
        return Report(weights, report.findings, str(error), broken=True)
    return Report(weights, report.findings, f"loads, {vocoder.parameters:,} parameters, as {vocoder.name}")


def _given_sums(root: Path, given: Sequence[str]) -> dict[str, str]:
    sums: dict[str, str] = {}
    path = root / SUMS_FILE
    if path.is_file():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                digits, _, name = line.strip().partition(" ")
                _add(sums, name.strip().removeprefix("*"), digits, f"{path}, line {number}")
    for item in given:
        name, _, digits = item.partition("=")
        _add(sums, name, digits, f"--sha256 {item}")
    return sums


def _add(sums: dict[str, str], name: str, digits: str, where: str) -> None:
    if not _SUM.fullmatch(digits):
        raise ConfigError(
            f"{where}: {digits!r} is no SHA-256, expected 64 hexadecimal digits with the file's name; mend it there."
        )
    known = [f"{weights.name}/{file}" for weights in CATALOG for file in weights.files]
    name = name.removeprefix("./")
    file = next((file for file in known if name in (file, file.split("/")[1])), None)
    if file is None:
        raise ConfigError(f"{where}: {name!r} is none of the files looked for, which are {', '.join(known)}.")
    if sums.setdefault(file, digits.lower()) != digits.lower():
        raise ConfigError(f"{where}: another sum was given for {file} before; keep the right one.")
