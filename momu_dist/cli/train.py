"""`momu train`: its help, under its own name; the work is `python -m momu_dist.train`'s."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any


def run_train(arguments: Sequence[str]) -> int:
    """Print the help where it is asked for, else train; return the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(_parser().format_help(), end="")
        return 0
    from momu_dist.train.__main__ import as_program

    return as_program(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="momu train",
        description="Train one stage of MoMu-Diffusion (the same as python -m momu_dist.train).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_keys(),
    )
    parser.add_argument("--config", required=True, help="a YAML under configs/, or your own")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and exit")
    parser.add_argument(
        "--only-latents", action="store_true", help="encode the latents a diffusion stage reads, and exit"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.field=value",
        help="values that overrule the file's, as YAML; null unsets",
    )
    return parser


def _keys() -> str:
    """All keys that a config may have, with their defaults."""
    from momu_dist.config.schema import RunConfig
    from momu_dist.core.catalog import STAGES

    lines = ["keys (default; what they mean: momu_dist/config/schema.py), name and stage of the run first:"]
    sections: list[tuple[str, Any]] = []
    for field in dataclasses.fields(RunConfig):
        if field.default_factory is not dataclasses.MISSING:
            sections.append((field.name, field.default_factory))
        elif field.name not in ("model", "loss"):
            lines.append(f"  {field.name}{_default(field)}")
    for stage, entry in STAGES.items():
        sections += [(f"model of {stage}", entry.model_config), (f"loss of {stage}", entry.loss_config)]
    for title, section in sections:
        name = title.split()[0]
        lines.append(f"{title}:")
        lines += [f"  {name}.{field.name}{_default(field)}" for field in dataclasses.fields(section)]
    lines += [
        "",
        "example: momu train --config configs/demo/music_vae.yaml train.strategy=local train.max_steps=100 out=runs/try",
    ]
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if value is None or isinstance(value, bool):
        return f" ({'null' if value is None else str(value).lower()})"
    return f" ({list(value) if isinstance(value, tuple) else value})"
