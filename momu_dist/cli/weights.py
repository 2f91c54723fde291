"""`momu weights`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from momu_dist.cli.command import Commands, add

if TYPE_CHECKING:
    from momu_dist.inference.weights import Report

EXIT_MISSING = 1
EXIT_WRONG = 3  # 2 is every command's code for what a user can mend

_STATES = {
    "missing": "MISSING",
    "differs": "DIFFERS from the sum given",
    "verified": "there, as the sum given",
    "unverified": "there, no sum given",
}


def add_weights(commands: Commands) -> None:
    parser = commands.add_parser("weights", help="Weights made by others: what to download, and is it whole.")
    actions = parser.add_subparsers(required=True, metavar="action")
    check = add(actions, "check", "Say what is there, what is not, and where to get it.", _check)
    check.description = (
        "Looks for the weights that others made, says where to get what is missing, compares SHA-256 sums with those in "
        "DIR/sha256sums or --sha256, and tries to load the vocoder. Returns 0 if all is there, 1 if something is missing, "
        "3 if something differs from its sum or does not load."
    )
    check.add_argument("--dir", default="weights", help="the folder they lie in (weights)")
    check.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="NAME=HEX",
        help="the sum that a file must have, such as bigvgan/best_netG.pt=4f0c...; may be repeated",
    )


def _check(options: argparse.Namespace) -> None:
    from momu_dist.inference.weights import SUMS_FILE, check_weights

    root = Path(options.dir)
    reports = check_weights(root, options.sha256)
    for report in reports:
        print(_text(report, root))
    print(
        "No sums come with this program, since none from a trusted source are known: get them from whoever you trust and "
        f"write them to {root / SUMS_FILE} (lines of the tool sha256sum), or give --sha256 NAME=HEX."
    )
    code = EXIT_WRONG if any(report.wrong for report in reports) else 0
    if code or any(report.missing for report in reports):
        raise SystemExit(code or EXIT_MISSING)


def _text(report: Report, root: Path) -> str:
    weights = report.weights
    lines = [f"{weights.name}: {weights.use}"]
    for finding in report.findings:
        lines.append(f"  {root / finding.file}: {_STATES[finding.state]}")
        if finding.sha256:
            lines.append(f"    sha256 {finding.sha256}")
    if report.loads:
        lines.append(f"  {report.loads}")
    if report.missing or report.wrong:
        lines.append(f"  from     {weights.source}")
        lines.append(f"  into     {root / weights.name}/")
    lines.append(f"  licence  {weights.licence}")
    return "\n".join(lines) + "\n"
