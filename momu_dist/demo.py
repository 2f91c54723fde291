"""The main job on the embedded default: synthetic set, four trainings, three generations, scores, a page to look at."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from momu_dist.config.load import load_config
from momu_dist.core.metrics.beats import TOLERANCE_S, beat_score
from momu_dist.data.clips import first_clips
from momu_dist.data.prepare import PrepareOptions, prepare
from momu_dist.data.ray_pipeline import map_units
from momu_dist.data.report import report
from momu_dist.data.sources import make_source
from momu_dist.errors import ConfigError
from momu_dist.inference.curves import draw_curves
from momu_dist.inference.evaluate import EvaluationSettings, evaluate_beats
from momu_dist.inference.generator import Generator
from momu_dist.inference.outputs import write_sample
from momu_dist.inference.page import Page
from momu_dist.inference.page import Sample as Card
from momu_dist.inference.request import Request, Sample, variations
from momu_dist.tracking import auto_uri
from momu_dist.train.ray_session import cpus_per_core, ray_session
from momu_dist.train.run import train

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
STAGES = ("music_vae", "motion_vae", "dit_m2a", "dit_a2m")
CURVES = {
    "music_vae": ("rec", "val/rec"),
    "motion_vae": ("rec", "val/rec", "contrast", "val/contrast"),
    "dit_m2a": ("val/true", "val/shuffled", "val/null"),
    "dit_a2m": ("val/true", "val/shuffled", "val/null"),
}
GUIDANCE = 2.0
SHOWN_SCORES = ("generated", "shuffled", "ceiling", "chance")
TASKS = {"a2m": "Motion from music", "m2a": "Music from motion", "joint": "Both at once"}


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does."""

    n_clips: int
    held_out: int
    shown: int
    steps: int
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    overrides: tuple[str, ...] = ()


FULL = DemoSize(n_clips=864, held_out=24, shown=2, steps=20)
SMOKE = DemoSize(
    n_clips=24,
    held_out=2,
    shown=1,
    steps=4,
    fractions=(0.8, 0.1, 0.1),  # two held-out clips at least, to have a stranger to compare with
    overrides=(
        "train.max_steps=8",
        "train.validate_every=8",
        "train.log_every=2",
        "train.checkpoint_every=8",
        "data.validation_clips=4",
        "optim.warmup_steps=2",
    ),
)


def prepare_options(size: DemoSize) -> PrepareOptions:
    """How its set is prepared; jobs/prepare.sh makes the same."""
    return PrepareOptions(fractions=size.fractions, shard_mb=16.0)


def run_demo(out: Path, smoke: bool = False) -> None:
    """Run everything into `out`; what an earlier attempt finished is not done again."""
    if not CONFIGS.is_dir():
        raise ConfigError(f"the demo's configs are not at {CONFIGS}; run it from a checkout of the project.")
    size = SMOKE if smoke else FULL
    out = out.absolute()
    clock = Clock()
    with ray_session(workers=2):
        with clock.stage("prepare"):
            source = make_source("synthetic", n_clips=size.n_clips)
            runner = partial(map_units, num_cpus=cpus_per_core())
            print(report(prepare(source, out / "data", prepare_options(size), runner=runner)))
        for stage in STAGES:
            with clock.stage(stage):
                _train(stage, out, size)
    with clock.stage("generate and score"):
        summary, samples = _score(out, size)
    with clock.stage("write"):
        cards = {
            task: _write(out, task, made[: size.shown], summary["inputs"]) for task, made in samples.items()
        }
    summary["seconds"] = clock.seconds
    summary["machine"] = {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2))
    _page(out, summary, cards)
    for task, values in summary["beat_f1"].items():
        print(f"{task} beat F1: " + "  ".join(f"{name} {values[name]:.3f}" for name in SHOWN_SCORES))
    print(
        f"Done in {sum(clock.seconds.values()) / 60:.1f} min. Open {out / 'index.html'} and look; numbers: {out / 'summary.json'}"
    )


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and measure it."""
        print(f"== {name}", flush=True)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)


def _train(stage: str, out: Path, size: DemoSize) -> None:
    paths = [f"out={out}", f"data.root={out / 'data'}", f"tracking.uri={auto_uri(out, {})}"]
    if stage != "music_vae":
        paths.append(f"inputs.music_vae={out / 'music_vae'}")
    if stage.startswith("dit"):
        paths.append(f"inputs.motion_vae={out / 'motion_vae'}")
    train(load_config(CONFIGS / f"{stage}.yaml", [*size.overrides, *paths]))


def _score(out: Path, size: DemoSize) -> tuple[dict[str, Any], dict[str, list[Sample]]]:
    generator = Generator.load(out)
    clips = first_clips(out / "data", "test", size.held_out)
    settings = EvaluationSettings(size.steps, guidance_a2m=GUIDANCE, guidance_m2a=GUIDANCE)
    scores, samples = evaluate_beats(generator, clips, settings)
    joint = Request("joint", seconds=8.0, steps=size.steps, guidance=GUIDANCE)
    samples["joint"] = generator.generate(variations(joint, max(size.shown, 4 if size.held_out > 4 else 1)))
    together = [beat_score(s.onsets_s, s.beats_s).f1 for s in samples["joint"]]
    summary = {
        "beat_f1": scores,
        "inputs": {"clips": [clip.clip_id for clip in clips], "weights": dict(generator.models.origins)},
        "joint": {"beats_vs_onsets_f1": sum(together) / len(together), "n": len(together)},
        "settings": {**vars(settings), "held_out_clips": len(clips), "tolerance_s": TOLERANCE_S},
    }
    return summary, samples


def _write(out: Path, task: str, samples: Sequence[Sample], inputs: dict[str, Any]) -> list[Card]:
    cards = []
    for i, sample in enumerate(samples):
        name = f"{task}-seed{sample.request.seed}"
        origin = {"checkpoints": [str(out)], "weights": inputs["weights"]}
        if task != "joint":
            origin |= {"input": inputs["clips"][i], "data": str(out / "data")}
        paths = write_sample(out / "samples", name, sample, origin)
        relative = {kind: str(path.relative_to(out)) for kind, path in paths.items()}
        note = f"Sound: {sample.vocoder} vocoder" if sample.vocoder else "Sound: the music that was given"
        cards.append(
            Card(name, relative["mp4"], relative["wav"], relative["sheet"], relative["recipe"], note)
        )
    return cards


def _page(out: Path, summary: dict[str, Any], cards: dict[str, list[Card]]) -> None:
    page = Page("MoMu-Diffusion: the demo")
    page.text(
        "A synthetic set of music and dancers was prepared, two autoencoders and two diffusion transformers were trained on "
        "it, and held-out clips were scored. The bars are beat F1 at ±0.07 s against the true partner. 'generated' should stand "
        "clearly above 'shuffled', the same samples against other clips' partners; 'ceiling' is what the autoencoder itself "
        "keeps, 'chance' what evenly spaced beats get."
    )
    found = summary["beat_f1"]
    page.scores(
        {title: {k: found[task][k] for k in SHOWN_SCORES} for task, title in TASKS.items() if task in found}
    )
    for task, title in TASKS.items():
        page.heading(title).gallery(cards[task])
    curves = {}
    for stage, names in CURVES.items():
        draw_curves(out / stage / "curves.png", out / stage / "metrics.jsonl", names, stage)
        curves[stage] = f"{stage}/curves.png"
    page.heading("Training").pictures(curves)
    page.heading("Seconds").facts(summary["seconds"])
    page.text(
        f"Runs, metrics and previews are in MLflow: mlflow ui --backend-store-uri sqlite:///{out / 'mlflow.db'}"
    )
    page.write(out / "index.html")
