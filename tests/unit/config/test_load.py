"""One YAML is one run: precedence, strictness, and what every mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from momu_dist.config.load import config_from_dict, load_config, resolved_dict
from momu_dist.config.schema import TrainConfig
from momu_dist.core.losses.contrast import ContrastConfig
from momu_dist.core.models.autoencoder import AutoencoderConfig
from momu_dist.core.models.dit import DiTConfig
from momu_dist.core.tasks.dit import DitLoss
from momu_dist.errors import ConfigError

SMALLEST = "stage: music_vae\nname: run\n"


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_precedence_default_base_file_override(tmp_path: Path) -> None:
    write(
        tmp_path,
        "seed: 1\ndata: {root: base, validation_clips: 7}\noptim: {lr: 1.0, clip_norm: 2.0}\n",
        "base.yaml",
    )
    path = write(tmp_path, SMALLEST + "base: base.yaml\noptim: {lr: 2.0}\ndata: {validation_clips: 8}\n")
    config = load_config(path, ["data.validation_clips=9", "model.ch=64"])
    assert config.optim.weight_decay == 0.01  # default
    assert (config.seed, config.data.root, config.optim.clip_norm) == (1, "base", 2.0)  # base
    assert config.optim.lr == 2.0  # file over base
    assert config.data.validation_clips == 9  # override over both
    assert config.model == AutoencoderConfig(ch=64)
    assert load_config(path).model == AutoencoderConfig()


def test_later_overrides_win(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, SMALLEST), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("line", "key", "valid"),
    [
        ("sed: 1", "sed", "seed"),
        ("train: {stategy: ddp}", "train.stategy", "strategy"),
        ("model: {channels: 32}", "model.channels", "in_channels"),
        ("loss: {contrast_weight: 1}", "loss.contrast_weight", "gan_weight"),
        ("trian:", "trian", "train"),
        ("train: {max_step: null}", "train.max_step", "max_steps"),
        ("train: {workers=4}", "'train.workers=4'", "workers"),
        ("train: {4: 5}", "train.4", "workers"),
        ("train.workers: 4", "train.workers", "train"),
        ("? tracking.uri=http://me:hush@h\n: 4", "tracking.uri...", "tracking"),
        ("? http://me:hush@h\n: 4", "a text of 16 characters", "tracking"),
        ("model: {newer: null}", "model.newer", "in_channels"),
    ],
)
def test_unknown_key_lists_the_valid_ones(tmp_path: Path, line: str, key: str, valid: str) -> None:
    sentence = refused(write(tmp_path, f"{SMALLEST}{line}\n"))
    assert f"unknown key {key};" in sentence and valid in sentence.split("valid here:")[1]


def test_unknown_key_inside_a_section_of_the_loss(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: motion_vae\nname: run\n")
    sentence = refused(path, "loss.contrast.tao=0.1")
    assert "loss.contrast.tao" in sentence and sentence.endswith("; the nearest is tau.")


def test_unknown_key_in_an_override(tmp_path: Path) -> None:
    assert "optim.learning_rate" in refused(write(tmp_path, SMALLEST), "optim.learning_rate=1")


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("seed=many", "seed"),
        ("train.global_batch=1.5", "train.global_batch"),
        ("train.strategy=zero4", "train.strategy"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim.lr=fast", "optim.lr"),
        ("data=5", "data is 5, expected a mapping; valid here: root, length_s"),
        ("optim=[1]", "optim is [1], expected a mapping; valid here: lr, "),
        ("tracking=none", "tracking is a text of 4 characters, expected a mapping; valid here: uri, "),
        ("model.ch=null", "model.ch is empty, expected"),
        ("model=wide", "model is 'wide', expected a mapping; valid here: in_channels, "),
        ("model=0", "model is 0, expected a mapping"),
        ("out=3", "out is 3, expected a text, in quotes"),
        ("train.previews=perhaps", "train.previews is 'perhaps', expected true or false"),
        ("data.length_s=[1, 2, 3]", "data.length_s is [1, 2, 3], expected a list of at most 2."),
        ("data.length_s=10", "data.length_s is 10, expected a list, such as [1, 2]."),
        ("train.workers=many", "train.workers is 'many', expected a whole number."),
        ("train.workers=[4]", "train.workers is [4], expected a whole number."),
        ("train.workers=4.5", "train.workers is 4.5, expected a whole number."),
        ("optim.lr=fast", "optim.lr is 'fast', expected a number."),
        ("optim.lr=[1]", "optim.lr is [1], expected a number."),
    ],
)
def test_wrong_type_names_place_and_value(tmp_path: Path, override: str, place: str) -> None:
    sentence = refused(write(tmp_path, SMALLEST), override)
    assert place in sentence and "run.yaml" in sentence


@pytest.mark.parametrize("name", ["''", "dances/a2m", "a:b", "a@b", "a b"])
def test_a_registered_model_has_a_name_that_a_model_uri_can_hold(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, SMALLEST)
    assert "tracking.registered_model" in refused(path, f"tracking.registered_model={name}")
    assert (
        load_config(path, ["tracking.registered_model=dances-a2m"]).tracking.registered_model == "dances-a2m"
    )


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-3"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f"{SMALLEST}optim: {{lr: {text}}}\nloss: {{kl_weight: {text}}}\n")
    config = load_config(path, [f"train.ema_decay={text}"])
    assert (config.optim.lr, config.loss.kl_weight, config.train.ema_decay) == (1e-3, 1e-3, 1e-3)


def test_bases_are_not_chained(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\n", "ground.yaml")
    write(tmp_path, "base: ground.yaml\n", "base.yaml")
    assert "not chained" in refused(write(tmp_path, SMALLEST + "base: base.yaml\n"))


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "gone.yaml" in refused(write(tmp_path, SMALLEST + "base: gone.yaml\n"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run", "override 2, run, is not of the form section.field=value; one with a blank goes in quotes."),
        ("train.workers", "override 2, train.workers, is not of the form"),
        ("train.workers:4", "override 2, train.workers..., is not of the form"),
        ("hush:4", "override 2, a text of 6 characters, is not of the form"),
        ("=3", "override 2, a text of 2 characters, is not of the form"),
        ("data..root=3", "override 2, data..root..., is not of the form"),
        ("seed.deeper=1", "override seed.deeper: seed is a value, not a section"),
        ("data.root=@x", "put it in quotes, and those in quotes of the shell: 'data.root=\"...\"'."),
    ],
)
def test_bad_overrides_are_named(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused(write(tmp_path, SMALLEST + "seed: 1\n"), "out=here", override)


def test_an_empty_section_is_one_without_anything(tmp_path: Path) -> None:
    write(tmp_path, "data: {root: base}\noptim:\n", "base.yaml")
    text = SMALLEST + "base: base.yaml\ndata:\nmodel:\nloss:\ntrain:\n"
    config = load_config(write(tmp_path, text), ["train.workers=2"])
    assert config.data.root == "base"  # nothing is said of it above
    assert (config.model, config.train) == (AutoencoderConfig(), TrainConfig(workers=2))


def test_an_empty_section_inside_of_one_is_refused(tmp_path: Path) -> None:
    """Elsewhere null means off, and its defaults would mean on."""
    stage = "stage: motion_vae\nname: run\n"
    expected = "loss.contrast is empty, expected a mapping; valid here: n_clips, "
    assert expected in refused(write(tmp_path, f"{stage}loss:\n  contrast:\n"))
    assert expected in refused(write(tmp_path, stage), "loss.contrast=null")
    write(tmp_path, "loss: {contrast: {tau: 1}}\n", "base.yaml")
    assert expected in refused(write(tmp_path, f"{stage}base: base.yaml\nloss: {{contrast: null}}\n"))


@pytest.mark.parametrize("section", ["data", "model", "loss", "train", "tracking"])
@pytest.mark.parametrize("empty", ["", "null", "~", " "])
def test_an_override_without_a_value_takes_no_section_away(tmp_path: Path, section: str, empty: str) -> None:
    path = write(tmp_path, SMALLEST + "train: {epochs: 3}\n")
    sentence = refused(path, f"{section}={empty}")
    assert f"override {section} is empty, expected {section}.key=value with no blank around the =" in sentence


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [1\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "run.yaml" in refused(write(tmp_path, text))


def test_model_and_loss_are_those_of_the_stage(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: dit_a2m\nname: run\nmodel: {hidden_size: 64, num_heads: 2}\n")
    config = load_config(path)
    assert isinstance(config.model, DiTConfig) and isinstance(config.loss, DitLoss)
    assert "hidden_size" in refused(write(tmp_path, SMALLEST + "model: {hidden_size: 64}\n", "other.yaml"))


def test_stage_must_be_known(tmp_path: Path) -> None:
    for text in ("name: run\n", "stage: dance\nname: run\n", "stage: [dance]\nname: run\n"):
        assert "dit_a2m, dit_m2a, motion_vae, music_vae" in refused(write(tmp_path, text))


def test_name_must_be_given(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "stage: music_vae\n")).endswith("run.yaml: name is missing.")


def test_model_that_cannot_be_built_is_a_config_error(tmp_path: Path) -> None:
    assert "ch=33" in refused(write(tmp_path, SMALLEST), "model.ch=33")


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.strategy=local", "train.workers=2"),
        ("train.workers=2", "train.min_workers=3"),
        ("train.workers=0",),
        ("train.workers=2", "train.global_batch=8", "train.micro_batch=3"),
        ("train.micro_batch=0",),
        ("data.length_s=[0, 1]",),
        ("data.length_s=[2, 1]",),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    section = overrides[-1].split("=")[0].split(".")[0]
    assert f"{section}." in refused(write(tmp_path, SMALLEST), *overrides)


@pytest.mark.parametrize(
    "place",
    [
        *("train.global_batch", "train.workers", "train.micro_batch", "train.max_steps", "train.keep_last"),
        *("train.log_every", "train.validate_every", "train.checkpoint_every", "train.sample_every"),
        *("data.shuffle_row_groups", "data.length_buckets", "data.expected_clips"),
    ],
)
def test_counts_below_one_are_refused(tmp_path: Path, place: str) -> None:
    """Zero steps would silently mean "by epochs", zero intervals and windows would divide by zero."""
    for value in (0, -4):
        assert f"{place} is {value}" in refused(write(tmp_path, SMALLEST), f"{place}={value}")


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=0",
        "train.epochs=-1",
        "train.epochs=.nan",
        "optim.lr=.nan",
        "optim.lr=.inf",
        "optim.lr=-1",
    ],
)
def test_rates_and_epochs_out_of_range(tmp_path: Path, override: str) -> None:
    assert f"{override.split('=')[0]} is" in refused(write(tmp_path, SMALLEST), override)


@pytest.mark.parametrize("wanted", ["loss.gan_weight_mode=adaptive", "loss.r1_weight=3"])
def test_gradients_inside_a_step_need_local_or_ddp(tmp_path: Path, wanted: str) -> None:
    path = write(tmp_path, SMALLEST)
    for strategy in ("local", "ddp"):
        for precision in ("fp32", "bf16"):
            load_config(path, [wanted, f"train.strategy={strategy}", f"train.precision={precision}"])
    for strategy in ("zero1", "zero2", "zero3"):
        sentence = refused(path, wanted, f"train.strategy={strategy}")
        assert wanted.replace("=", " ") in sentence and f"train.strategy {strategy}" in sentence
        assert "local or ddp" in sentence
    load_config(path, ["loss.gan_weight_mode=fixed", "loss.r1_weight=0", "train.strategy=zero3"])


@pytest.mark.parametrize("name", ["gan_weight", "gan_start", "disc_factor", "r1_weight", "kl_weight"])
def test_weights_of_the_gan_below_zero_are_refused(tmp_path: Path, name: str) -> None:
    for value in ("-1", ".nan"):
        assert f"loss.{name} is" in refused(write(tmp_path, SMALLEST), f"loss.{name}={value}")
    assert "loss.gan_weight_mode" in refused(write(tmp_path, SMALLEST), "loss.gan_weight_mode=free")


@pytest.mark.parametrize("stage", ["music_vae", "motion_vae", "dit_m2a", "dit_a2m"])
def test_resolved_dict_comes_back_as_the_same_run(tmp_path: Path, stage: str) -> None:
    path = write(tmp_path, f"stage: {stage}\nname: run\n")
    config = load_config(path, ["data.length_s=[1, 2]", "train.ema_decay=null", "inputs.music_vae=somewhere"])
    tree = resolved_dict(config)
    assert tree["data"]["length_s"] == [1.0, 2.0]  # plain lists: what YAML and JSON can hold
    assert config_from_dict(tree, where="there") == config
    assert resolved_dict(config_from_dict(tree, where="there")) == tree


def test_config_from_dict_leaves_its_argument_alone(tmp_path: Path) -> None:
    tree = {"stage": "motion_vae", "name": "run", "loss": {"contrast": {"tau": 0.5}}}
    config = config_from_dict(tree, where="there")
    assert config.loss.contrast == ContrastConfig(tau=0.5)
    assert tree == {"stage": "motion_vae", "name": "run", "loss": {"contrast": {"tau": 0.5}}}


@pytest.mark.parametrize(
    "override",
    [
        *(
            "optim.weight_decay=.nan",
            "optim.weight_decay=-1",
            "optim.warmup_steps=-5",
            "optim.betas=[0.9, 1]",
        ),
        *("train.ema_decay=.nan", "train.ema_decay=2", "train.ema_decay=-1", "train.ema_decay=1"),
        *("train.epochs=.inf", "train.epochs=0", "train.threads=1000000", "train.workers=0"),
        *("data.length_s=[1, 1e300]", "data.length_s=[.001, .001]", "data.expected_clips=0"),
        *("model.ch=0", "model.num_res_blocks=-1", "model.ch_mult=[1, 0]", "model.dropout=.nan"),
        *("loss.disc_ndf=-1", "loss.disc_ndf=0", "loss.gan_start=.nan", "loss.kl_weight=.nan"),
        *("name=.", "name=..", "name=''", "name=../../up", "name=/tmp/abs", 'name="a\\0b"', 'out="a\\0b"'),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(tmp_path: Path, override: str) -> None:
    sentence = refused(write(tmp_path, SMALLEST), override)
    assert f"run.yaml: {override.split('=')[0]} is " in sentence and ", expected " in sentence


@pytest.mark.parametrize(
    "override",
    [
        *(
            "model.depth=0",
            "model.depth=-1",
            "model.context_dim=0",
            "model.num_heads=0",
            "model.hidden_size=0",
        ),
        *("loss.condition_drop=.nan", "loss.condition_drop=2", "loss.diffusion_steps=0"),
    ],
)
def test_a_value_of_a_diffusion_transformer_out_of_range_is_named(tmp_path: Path, override: str) -> None:
    sentence = refused(write(tmp_path, "stage: dit_a2m\nname: run\n"), override)
    assert f"run.yaml: {override.split('=')[0]} is " in sentence and ", expected " in sentence


def test_a_value_of_an_inner_section_is_named_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "stage: motion_vae\nname: run\n")
    assert "loss.contrast.tau is nan, expected a finite number" in refused(path, "loss.contrast.tau=.nan")


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder, expected a YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: \xff\xfe\n", "it is no UTF-8"),
        (b"a: " + b"[" * 3000, "nested too deeply"),
        (b"a: 2024-13-45\n", "it holds a date or number that there is not"),
        (b"a: 1\nb: \x07\n", "line 2: a sign that YAML does not know"),
        (
            b"a: 1\nb: 'x\nc: 1\n",
            "line 4, column 1: found unexpected end of stream (begun at line 2, column 4))",
        ),
        (
            b"a: &x 1\nb: &x 2\n",
            "line 2, column 4: second occurrence of an anchor (begun at line 1, column 4))",
        ),
        (b"a: 1\n\tb: 2\n", "line 2, column 1: found character '\\t' that cannot start any token)"),
        (b"a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        (
            b"a: [1",
            "line 1, column 6: expected ',' or ']', but got '<stream end>' (begun at line 1, column 4))",
        ),
        (b"a: 1\n---\nb: 1\n", "line 2, column 1: found another document"),
        (b"a: *name\n", "line 1, column 4: found undefined alias)"),
        (b"a: !name b\n", "line 1, column 4: could not determine a constructor for the tag)"),
    ],
)
def test_a_file_that_yaml_cannot_read(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    sentence = refused(path)
    assert "is not valid YAML" in sentence and said in sentence


def test_a_base_is_no_override(tmp_path: Path) -> None:
    assert "a base is named in the YAML itself" in refused(write(tmp_path, SMALLEST), "base=other.yaml")


@pytest.mark.parametrize(
    ("workers", "batch", "micro", "used", "sizes"),
    [
        (3, 64, None, 2, [1, 2]),
        (7, 12, None, 6, [1, 2, 3, 6]),
        (8, 8, 4, 2, [1, 2]),
        (5, 7, None, 1, [1]),
        (4, 16, 2, 4, [1, 2, 4]),
    ],
)
def test_workers_that_do_not_divide_the_batch_are_rounded_down(
    workers: int, batch: int, micro: int | None, used: int, sizes: list[int]
) -> None:
    train = TrainConfig(workers=workers, global_batch=batch, micro_batch=micro)
    assert train.usable(workers) == used
    assert [n for n in range(1, workers + 1) if train.fits(n)] == sizes
    assert train.micro == (micro or batch // used)
