"""Configuration: presets are valid and of the sizes they name, bad values have a way out."""

import math
from pathlib import Path

import pytest

from pygpt import GPTConfig, InputError
from pygpt.config import (
    TrainConfig,
    from_preset,
    padded_vocab_size,
    preset_names,
    toml_file,
)
from pygpt.config.data_parts import DataPart, format_data, parse_data


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    config = from_preset(name)
    assert config.preset == name
    assert config.model(50304).n_embd % config.n_head == 0
    assert config.batch_sequences() >= 1
    assert config.warmup_steps < config.max_steps
    assert config.min_lr < config.learning_rate


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("owt-30m", 29.94),
        ("fineweb-40m", 40.56),
        ("gpt2", 123.69),
        ("gpt2-medium", 353.82),
        ("gpt2-large", 772.78),
        ("gpt2-xl", 1556.05),
    ],
)
def test_preset_sizes(name: str, millions: float) -> None:
    params = from_preset(name).model(50304).n_params(positions=False)
    assert round(params / 1e6, 2) == millions


def test_published_runs() -> None:
    owt, fineweb = from_preset("owt-30m"), from_preset("fineweb-40m")
    assert (owt.batch_tokens, owt.max_steps, owt.block_size) == (32768, 20000, 512)
    assert (fineweb.batch_tokens, fineweb.max_steps, fineweb.learning_rate) == (524288, 6000, 5e-4)
    assert fineweb.n_embd // fineweb.n_head == 32


def test_unknown_preset_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'gpt2-medium'"):
        from_preset("gpt2-meduim")


def test_width_not_divisible_by_heads_names_the_nearest() -> None:
    with pytest.raises(InputError, match="n_embd=100 is not divisible by n_head=12.* 96, 108"):
        GPTConfig(n_embd=100)


def test_batch_that_does_not_divide_names_the_nearest() -> None:
    config = TrainConfig(batch_tokens=1000, block_size=96)
    with pytest.raises(InputError, match="batch_tokens=1000 .* 960 or 1056"):
        config.batch_sequences()
    config = TrainConfig(batch_tokens=960, block_size=96)
    assert config.batch_sequences() == 10
    assert config.accumulation(5) == 2
    with pytest.raises(InputError, match="10 sequences .* do: 2 or 5; .* batch_tokens 768 or 1152"):
        config.accumulation(4)
    with pytest.raises(InputError, match="the nearest that do: 10; "):
        config.accumulation(11)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("min_lr", math.inf),
        ("lr_decay_steps", 0),
        ("lr_decay_steps", -3),
        ("beta2", 1.0),
        ("grad_clip", -1.0),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must .* got {value}"):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


def test_a_rate_below_the_one_it_decays_to_is_refused() -> None:
    with pytest.raises(
        InputError, match="min_lr=6e-05 is above learning_rate=1e-05.* --min-lr 1e-06"
    ):
        TrainConfig(learning_rate=1e-5)


def test_toml_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(data=("a/b",), micro_batch=7, lr_decay_steps=9, dropout=0.25)
    (tmp_path / "config.toml").write_text(config.as_toml(), encoding="utf-8")
    assert TrainConfig(**toml_file.read(tmp_path / "config.toml")) == config


def test_several_datasets_are_a_list(tmp_path: Path) -> None:
    config = TrainConfig(data=("a:0.7", "b:0.3"))
    (tmp_path / "config.toml").write_text(config.as_toml(), encoding="utf-8")
    assert TrainConfig(**toml_file.read(tmp_path / "config.toml")) == config
    assert config.data_parts == (DataPart(Path("a"), 0.7), DataPart(Path("b"), 0.3))


def test_one_dataset_is_a_string_as_in_older_runs() -> None:
    assert TrainConfig(data=("a/b",)).as_toml().splitlines()[1] == 'data = "a/b"'


def test_weights_are_numbers_behind_the_last_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs:2").mkdir()
    for text, path, weight in [
        ("a", "a", 1.0),
        ("a:0.7", "a", 0.7),
        ("C:/data", "C:/data", 1.0),
        ("C:/data:3", "C:/data", 3.0),
        ("a:x", "a:x", 1.0),
        ("a:b:1e-1", "a:b", 0.1),
        ("runs:2", "runs:2", 1.0),  # a directory
        ("runs:2:0.5", "runs:2", 0.5),
    ]:
        parts = parse_data([text])
        assert parts == (DataPart(Path(path), weight),)
        other = DataPart(Path("other"))
        assert parse_data(format_data([*parts, other])) == (*parts, other)


@pytest.mark.parametrize("text", ["a:0", "a:-1", "a:inf", "a:nan"])
def test_weights_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--data {text}: a weight is a positive number"):
        TrainConfig(data=(text,))


def test_datasets_that_are_refused() -> None:
    with pytest.raises(InputError, match="a is given twice"):
        TrainConfig(data=("a:1", "a:2"))
    with pytest.raises(InputError, match="--data is empty"):
        TrainConfig(data=("a", ":1"))


def test_toml_values_have_their_fields_types(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('preset = "owt-30m"\nlearning_rate = 1\nmicro_batch = "auto"\ndata = "a/b"\n')
    values = toml_file.read(file)
    assert values == {
        "preset": "owt-30m", "learning_rate": 1.0, "micro_batch": "auto", "data": ("a/b",)
    }  # fmt: skip
    assert type(values["learning_rate"]) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_step = 3", "no field 'max_step'; did you mean 'max_steps'"),
        ('max_steps = "3"', "max_steps = '3' can't be used: str is not"),
        ("max_steps = 3.5", "max_steps = 3.5 can't be used: float is not"),
        ("max_steps = true", "max_steps = True can't be used"),
        ("compile = 1", "compile = 1 can't be used: int did not match"),
        ('compile = "yes"', "compile = 'yes' can't be used"),
        ('micro_batch = "most"', "micro_batch = 'most' can't be used(.|\n)*'auto'"),
        ('dtype = "float64"', "dtype = 'float64' can't be used.*'auto', 'float32', 'bfloat16'"),
        ("max_steps = ", "not valid TOML"),
        ("resume = true", "resume is about one start of a run; give it as the flag --resume"),
        ("dry_run = true", "--dry-run"),
        ("batch_size = 12", "batch_size is nanoGPT's; here it is micro_batch, and .* batch_tokens"),
        ("depth = 12", "depth is nanochat's; here it is n_layer"),
        ("global_batch_size = 12", "global_batch_size is litgpt's; here it is batch_tokens"),
        ("data = ''", "data is empty; give a path"),
    ],
)
def test_bad_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        toml_file.read(file)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "windows.toml").write_bytes(b"\xef\xbb\xbfmax_steps = 7")
    assert toml_file.read(tmp_path / "windows.toml") == {"max_steps": 7}


def test_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't read the config"):
        toml_file.read(tmp_path / "none.toml")


def test_padding_of_the_vocabulary() -> None:
    assert padded_vocab_size(50257) == 50304
    assert padded_vocab_size(257) == 320
    assert padded_vocab_size(64) == 64
