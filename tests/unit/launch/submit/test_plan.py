"""What is submitted for a stage, a chain, a sweep; nothing that cannot be run is."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.config.load import load_config
from momu_dist.core.ranges import Name
from momu_dist.errors import ConfigError
from momu_dist.launch.submit.plan import (
    CHAIN,
    Submission,
    combinations,
    config_path,
    names,
    parse_sweep,
    plan_chain,
    plan_evaluation,
    plan_stage,
)

DEMO = str(Path(__file__).parents[4] / "configs" / "demo")


def words(job: Submission) -> list[list[str]]:
    return [list(element.arguments) for element in job.elements]


def test_one_stage_is_one_job_under_the_name_of_its_run() -> None:
    (job,) = plan_stage("dit_a2m", DEMO, ["name=mine", "seed=3"])
    assert (job.name, job.after) == ("mine", ())
    assert words(job) == [
        ["momu_dist.launch", "train", "--config", f"{DEMO}/dit_a2m.yaml", "name=mine", "seed=3"]
    ]


@pytest.mark.parametrize(
    ("stage", "given", "expected"),
    [
        ("dit_a2m", None, "configs/paper/aistpp/dit_a2m.yaml"),
        ("vocoder", None, "configs/vocoder/full.yaml"),
        ("dit_a2m", "configs/demo/", "configs/demo/dit_a2m.yaml"),
        ("dit_a2m", "mine.yaml", "mine.yaml"),
    ],
)
def test_which_yaml_a_stage_reads(stage: str, given: str | None, expected: str) -> None:
    assert config_path(stage, given) == expected


def test_what_cannot_be_run_is_refused_before_it_is_submitted() -> None:
    with pytest.raises(ConfigError, match="train.workers"):
        plan_stage("dit_a2m", DEMO, ["train.workers=no"])
    with pytest.raises(ConfigError, match="a run of stage dit_m2a, expected dit_a2m"):
        plan_stage("dit_a2m", f"{DEMO}/dit_m2a.yaml", [])
    with pytest.raises(ConfigError, match="train.workers"):
        plan_stage("dit_a2m", DEMO, [], [parse_sweep("train.workers=1,0")])
    with pytest.raises(ConfigError, match="^tracking.uri is a text of 14 characters"):
        plan_stage("dit_a2m", DEMO, ["tracking.uri=http//me:pw@hi"])


def test_a_sweep_is_every_combination_each_with_a_name_of_its_own() -> None:
    sweeps = [parse_sweep("optim.lr=1e-4,2.0e-4"), parse_sweep("data.length_s=[1, 2],[2, 2]")]
    (job,) = plan_stage("dit_a2m", DEMO, ["seed=1"], sweeps)
    assert job.name == "dit_a2m"
    assert [element.name for element in job.elements] == [
        "dit_a2m-lr-1e-4-length_s-1_2",
        "dit_a2m-lr-1e-4-length_s-2_2",
        "dit_a2m-lr-0.0002-length_s-1_2",
        "dit_a2m-lr-0.0002-length_s-2_2",
    ]
    _, _, _, path, *overrides = words(job)[3]
    assert overrides == ["seed=1", "optim.lr=0.0002", "data.length_s=[2, 2]", f"name={job.elements[3].name}"]
    config = load_config(path, overrides)
    assert (config.optim.lr, config.data.length_s, config.seed) == (2e-4, (2.0, 2.0), 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1,2", ("1", "2")),
        ("a=[1, 2],[3]", ("[1, 2]", "[3]")),
        ("a=true,null", ("true", "null")),
        ("a='x, y',z w", ("x, y", "z w")),
        ("a='1','null','[b'", ('"1"', '"null"', '"[b"')),
        ("a=-1", ("-1",)),
    ],
)
def test_values_of_a_sweep(text: str, expected: tuple[str, ...]) -> None:
    assert parse_sweep(text).values == expected


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=[1", "name=a,b", "out=a", ""])
def test_a_sweep_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--sweep"):
        parse_sweep(text)


def test_a_setting_is_swept_once() -> None:
    with pytest.raises(ConfigError, match="each setting once"):
        combinations([parse_sweep("a=1"), parse_sweep("a=2")])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[("m.x", "1"), ("l.x", "2")]], ["b-m.x-1-l.x-2"]),
        ([[("x", '"$(rm)/../a b"')]], ["b-x-rm_.._a_b"]),
        ([[("x", "a b")], [("x", "a/b")]], ["b-0", "b-1"]),
        ([[("x", "y" * 120)], [("x", "z")]], ["b-0", "b-1"]),
        ([[]], ["b"]),
    ],
)
def test_names_are_names_and_never_alike(values: list[list[tuple[str, str]]], expected: list[str]) -> None:
    found = names("b", values)
    assert found == expected and all(name in Name() for name in found)


def test_a_chain_hands_on_what_it_trains_and_encodes_once() -> None:
    jobs = {job.name: job for job in plan_chain(DEMO, ["out=elsewhere"])}
    assert {name: job.after for name, job in jobs.items()} == {
        "music_vae": (),
        "motion_vae": ("music_vae",),
        "latents": ("motion_vae",),
        "dit_m2a": ("latents",),
        "dit_a2m": ("latents",),
    }
    music, motion = 'inputs.music_vae="elsewhere/music_vae"', 'inputs.motion_vae="elsewhere/motion_vae"'
    assert words(jobs["music_vae"])[0][4:] == ["out=elsewhere"]
    assert words(jobs["motion_vae"])[0][4:] == ["out=elsewhere", music]
    assert words(jobs["dit_a2m"])[0][4:] == ["out=elsewhere", music, motion]
    assert words(jobs["latents"])[0] == [*words(jobs["dit_m2a"])[0], "--only-latents"]
    config = load_config(words(jobs["dit_a2m"])[0][3], words(jobs["dit_a2m"])[0][4:])
    assert config.inputs.motion_vae == "elsewhere/motion_vae"


def test_a_chain_of_the_yamls_as_they_are_needs_no_overrides() -> None:
    for job in plan_chain(DEMO, []):
        assert all(word == "--only-latents" for word in words(job)[0][4:])


@pytest.mark.parametrize(
    ("given", "overrides", "said"),
    [
        (f"{DEMO}/dit_a2m.yaml", [], "needs four configs"),
        (DEMO, ["inputs.music_vae=x"], "leave inputs"),
        (DEMO, ["name=x"], "names of their own"),
        (DEMO, ["model.depth=2"], "unknown key model.depth"),
    ],
)
def test_a_chain_that_would_not_hold(given: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_chain(given, overrides)


def test_stages_of_a_chain_read_the_same_data(tmp_path: Path) -> None:
    for stage in CHAIN:
        root = "other" if stage == "dit_a2m" else "data"
        (tmp_path / f"{stage}.yaml").write_text(f"stage: {stage}\nname: {stage}\ndata: {{root: {root}}}\n")
    with pytest.raises(ConfigError, match="read the same data, data.root is data, data, data, other"):
        plan_chain(str(tmp_path), [])


def test_a_sweep_of_an_evaluation_is_of_its_own_options() -> None:
    (job,) = plan_evaluation(["checkpoint=runs/a b", "data=d", "n=4"], [parse_sweep("guidance=1,-2.5")])
    assert words(job) == [
        [
            "momu_dist.launch", "evaluate", "--checkpoint=runs/a b", "--data=d", "-n4", f"--guidance={value}",
            f"--name=evaluate-guidance-{value}",
        ]
        for value in ("1", "-2.5")
    ]  # fmt: skip
    (one,) = plan_evaluation(["checkpoint=a", "data=d"], [])
    assert words(one) == [["momu_dist.launch", "evaluate", "--checkpoint=a", "--data=d"]]
    with pytest.raises(ConfigError, match="not of the form key=value"):
        plan_evaluation(["--data=d"], [])
