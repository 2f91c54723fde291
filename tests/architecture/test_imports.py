"""The rules of docs/architecture.md, read from the sources: who may import whom, and what may lie where."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "momu_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Imports point left only. Any other module directly under momu_dist (the demo) stands beside cli.
LAYERS = ["errors", "core", "config", "data", "inference", "tracking", "train", "serving", "launch", "cli"]

# Each foreign system is known to these files (or folders, ending in /) and to no others.
FOREIGN = {
    "ray.data": ["data/ray_pipeline.py"],
    "ray.train": ["train/ray_trainer.py", "train/ray_controller.py"],
    "ray.serve": ["serving/"],
    "fastapi": ["serving/"],
    "deepspeed": ["train/deepspeed_engine.py"],
    "mlflow": ["tracking/mlflow_client.py"],
    "submitit": ["launch/submit/slurm.py"],
    "av": ["inference/media.py", "data/audio_io.py"],
}
# Plain `import ray`, to start or join one; the modules beside cli may too.
PLAIN_RAY = [
    "train/ray_session.py",
    "train/ray_trainer.py",
    "train/ray_controller.py",
    "data/ray_pipeline.py",
    "launch/",
    "serving/",
]

# The programs of SLURM that are run by name; submitit runs sbatch.
SLURM = {
    "scontrol": ["launch/scontrol.py"],
    "scancel": ["launch/scontrol.py"],
    "squeue": ["launch/scontrol.py"],
    "sacct": ["launch/scontrol.py"],
    "sinfo": ["launch/scontrol.py"],
    "srun": ["launch/srun.py"],
}

CORE_LIBRARIES = {"torch", "numpy", "scipy", "librosa", "momu_dist"}
# No files, no environment, no clock, no other process.
NOT_IN_CORE = {
    "os",
    "pathlib",
    "time",
    "datetime",
    "io",
    "glob",
    "shutil",
    "tempfile",
    "subprocess",
    "socket",
}
NOT_IN_CORE |= {"multiprocessing", "logging"}

MOST_LINES = 400


def name_of(path: Path) -> str:
    """Return a module's path inside the package, such as train/loop.py."""
    return path.relative_to(PACKAGE).as_posix()


def layer_of(name: str) -> int:
    """Return the rank of a module, given as its path inside the package or its parts after momu_dist."""
    first = name.split("/")[0].removesuffix(".py")
    if first == "__init__":
        return 0
    return LAYERS.index(first) if first in LAYERS else LAYERS.index("cli")


def imports(source: str, name: str) -> Iterator[str]:
    """Yield the dotted names that `source`, the module at `name` in the package, imports or reaches as `ray.x`."""
    package = ["momu_dist", *name.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ray":
            yield f"ray.{node.attr}"


def is_in(imported: str, module: str) -> bool:
    return imported == module or imported.startswith(f"{module}.")


def allowed(name: str, places: list[str]) -> bool:
    return any(name == place or (place.endswith("/") and name.startswith(place)) for place in places)


def layer_faults(source: str, name: str) -> list[str]:
    """Return the imports of `source` that point right."""
    faults = []
    for imported in imports(source, name):
        parts = imported.split(".")
        known = parts[0] == "momu_dist" and len(parts) > 1 and parts[1] != "__version__"
        if known and layer_of(parts[1]) > layer_of(name):
            faults.append(f"{name} imports {imported}")
    return faults


def foreign_faults(source: str, name: str) -> list[str]:
    """Return the imports of a foreign system outside the files that may know it."""
    faults = []
    for imported in imports(source, name):
        for system, places in FOREIGN.items():
            if is_in(imported, system) and not allowed(name, places):
                faults.append(f"{name} imports {imported}")
        beside_cli = "/" not in name and layer_of(name) == LAYERS.index("cli")
        if is_in(imported, "ray") and not beside_cli and not allowed(name, PLAIN_RAY):
            faults.append(f"{name} imports {imported}")
    return faults


def core_faults(source: str, name: str) -> list[str]:
    """Return what a core module may not use: other libraries, files, environment, clock."""
    faults = []
    for imported in imports(source, name):
        top = imported.split(".")[0]
        if top in NOT_IN_CORE or (top not in CORE_LIBRARIES and top not in sys.stdlib_module_names):
            faults.append(f"{name} imports {imported}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            faults.append(f"{name} opens a file in line {node.lineno}")
    return faults


def slurm_faults(source: str, name: str) -> list[str]:
    """Return the programs of SLURM that begin a command, or are handed to a function, outside the files that may run them."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            words = node.elts
        elif isinstance(node, ast.Call) and not ast.unparse(node.func).endswith("which"):
            words = node.args
        else:
            continue
        if not words or not isinstance(words[0], ast.Constant):
            continue
        program = str(words[0].value).split(" ")[0]
        if program in SLURM and not allowed(name, SLURM[program]):
            faults.append(f"{name} runs {program} in line {node.lineno}")
    return faults


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_keeps_the_rules(path: Path) -> None:
    source, name = path.read_text(), name_of(path)
    faults = layer_faults(source, name) + foreign_faults(source, name) + slurm_faults(source, name)
    if name.startswith("core/"):
        faults += core_faults(source, name)
    lines = source.count("\n")
    if lines > MOST_LINES:
        faults.append(f"{name} has {lines} lines; over {MOST_LINES} it is usually two things")
    assert not faults


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core/models/dit.py", "from momu_dist.config.schema import RunConfig"),
        ("core/models/dit.py", "from ...train import loop"),
        ("data/plan.py", "def f():\n    import momu_dist.tracking"),
        ("inference/generator.py", "from momu_dist import train"),
        ("errors.py", "from momu_dist.core import random"),
        ("__init__.py", "from momu_dist import cli"),
        ("train/loop.py", "import momu_dist.demo"),
    ],
)
def test_an_import_that_points_right_is_found(name: str, source: str) -> None:
    assert layer_faults(source, name)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("train/loop.py", "from momu_dist.tracking import open_tracker"),
        ("core/tasks/dit.py", "from ..models.dit import DiT"),
        ("cli/demo.py", "import momu_dist.demo"),
        ("demo.py", "from momu_dist import __version__, train"),
    ],
)
def test_an_import_that_points_left_is_no_fault(name: str, source: str) -> None:
    assert not layer_faults(source, name)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("train/loop.py", "import deepspeed"),
        ("train/loop.py", "import ray"),
        ("train/deepspeed_engine.py", "from ray import train"),
        ("train/ray_trainer.py", "import ray\nds = ray.data.read_parquet('x')"),
        ("data/ray_pipeline.py", "import ray.train.torch"),
        ("tracking/__init__.py", "def f():\n    import mlflow"),
        ("launch/jobs.py", "from submitit import SlurmExecutor"),
        ("inference/export.py", "import av"),
        ("train/__main__.py", "import ray"),
        ("demo.py", "import ray.data"),
    ],
)
def test_a_foreign_system_outside_its_file_is_found(name: str, source: str) -> None:
    assert foreign_faults(source, name)


@pytest.mark.parametrize(
    "source",
    [
        "subprocess.run(['scancel', job])",
        "command = ['scontrol', 'show', 'job']",
        "command = ('srun', '--overlap', *more)",
        "os.system('squeue -u me')",
        "_asked('scontrol', 'requeue', job)",
    ],
)
def test_a_program_of_slurm_outside_its_file_is_found(source: str) -> None:
    assert slurm_faults(source, "launch/node.py")
    assert not slurm_faults("shutil.which('srun')", "launch/doctor/checks.py")


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "from pathlib import Path",
        "import time",
        "import yaml",
        "x = open('weights')",
        "import ray",
    ],
)
def test_a_core_that_is_not_pure_is_found(source: str) -> None:
    assert core_faults(source, "core/models/dit.py")


@pytest.mark.parametrize("folder", ["datasets", "serve"])
def test_no_python_where_it_would_shadow_a_library(folder: str) -> None:
    assert list((ROOT / folder).rglob("*.py")) == []


def test_every_path_of_the_extension_guide_exists() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    paths = [token for token in re.findall(r"`([^`\s]+)`", text) if "/" in token]
    assert len(paths) >= 10
    # Of `datasets/<name>/card.md` the part before the name to be chosen must be there.
    missing = [path for path in paths if not (ROOT / path.split("<")[0]).exists()]
    assert not missing


def texts() -> list[Path]:
    """Return the files that people read and edit, without what is made or installed."""
    made = {".venv", ".git", ".cache", "runs", "build"}
    kinds = {".md", ".yaml", ".toml", ".sh", ".py", ".lock"}
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in ROOT.iterdir():
        if folder.is_dir() and folder.name not in made:
            files += [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix in kinds or path.name in {"Makefile", "NOTICE", "run"}]


def test_no_file_names_a_path_of_one_machine() -> None:
    home = re.compile(r"(?<![\w.}])/(?:work|root|home|Users)/\w")
    named = [str(path.relative_to(ROOT)) for path in texts() if home.search(path.read_text())]
    assert not named
