"""What the flags of train mean: which value wins, what is refused, what --resume may change."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from pygpt.config import TrainConfig, from_preset
from pygpt.runs.run import Run
from pygpt.training import flags
from pygpt.training.launch import Launch
from pygpt.utils.errors import InputError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(line: str) -> TrainConfig:
    return flags.read_command_line(line.split())[0]


def file(text: str) -> Path:
    path = Path("my.toml")
    path.write_text(text)
    return path


def started(name: str, *, with_checkpoint: bool = True) -> Run:
    """A run as training leaves it, of preset owt-30m."""
    run = Run(Path("runs") / name)
    run.open(from_preset("owt-30m"), torch.device("cpu"), 0)
    if with_checkpoint:
        (run.checkpoints / "step-00000001").mkdir()
    return run


def test_a_file_without_a_preset_starts_from_auto() -> None:
    file("max_steps = 7")
    config = read("--config my.toml --device cpu")
    assert (config.preset, config.max_steps, config.n_embd) == ("stdlib-cpu", 7, 128)
    file('preset = "auto"\ndevice = "cpu"')
    assert read("--config my.toml").preset == "stdlib-cpu"


def test_the_presets_values_stand_under_its_name() -> None:
    file('preset = "gpt2-medium"\nmax_steps = 7')
    config = read("--config my.toml")
    assert (config.preset, config.max_steps, config.n_embd) == ("gpt2-medium", 7, 1024)
    config = read("--preset owt-30m --config my.toml")
    assert (config.preset, config.max_steps, config.n_embd) == ("owt-30m", 7, 384)
    file('preset = "nope"')
    with pytest.raises(InputError, match=r"no preset 'nope'; there are chat, fineweb-40m"):
        read("--preset owt-30m --config my.toml")


def test_out_may_stand_in_the_file() -> None:
    run = started("mine")
    file('out = "runs/mine"')
    with pytest.raises(InputError, match="runs/mine holds a run already"):
        read("--config my.toml")
    assert read("--config my.toml --resume").out == run.path


def test_empty_out_is_refused() -> None:
    with pytest.raises(InputError, match="--out is empty"):
        flags.read_command_line(["--out", ""])


def test_flag_without_its_value() -> None:
    with pytest.raises(InputError, match="--out needs a value"):
        read("--out")


def test_resuming_what_is_not_there_names_the_runs() -> None:
    with pytest.raises(InputError, match="runs holds no run. To start one there, leave out"):
        read("--resume --out runs/tpyo")
    started("typo")
    with pytest.raises(InputError, match="runs/tpyo holds no run to resume; there are runs/typo"):
        read("--resume --out runs/tpyo --preset owt-30m")
    assert not Path("runs/tpyo").exists()


def test_help_needs_no_run_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read("--resume --help")
    assert stopped.value.code == 0
    assert "usage: python -m pygpt.train" in capsys.readouterr().out


def test_a_run_without_a_checkpoint_can_be_started_anew_and_resumed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started("early", with_checkpoint=False)
    assert read("--resume --out runs/early").preset == "owt-30m"
    assert read("--preset gpt2 --out runs/early").preset == "gpt2"
    assert "runs/early holds a run without a checkpoint: it is started again" in caplog.text


def test_a_file_is_laid_over_a_resumed_run(caplog: pytest.LogCaptureFixture) -> None:
    started("a")
    file("max_steps = 7\neval_interval = 3")
    with caplog.at_level(logging.INFO):
        config = read("--resume --config my.toml --eval-interval 5")
    assert (config.max_steps, config.eval_interval, config.n_embd) == (7, 5, 384)
    assert "resuming with max_steps = 7 (was 20000)" in caplog.text
    with pytest.raises(InputError, match="can't read the config none.toml"):
        read("--resume --config none.toml")


@pytest.mark.parametrize("text", ["seed = 7", 'preset = "gpt2"', "n_embd = 768"])
def test_a_file_changes_no_more_on_resume_than_a_flag_does(text: str) -> None:
    started("a")
    file(text)
    name = text.partition(" ")[0]
    with pytest.raises(InputError, match=f"{name} was .* can't become .* on --resume"):
        read("--resume --config my.toml")
    with pytest.raises(InputError, match=f"{name} was .* can't become .* on --resume"):
        read(f"--resume --{name} {text.partition('= ')[2]}".replace('"', ""))


def test_suggested_commands_can_be_pasted() -> None:
    run = Run(Path("my runs/it's"))
    assert flags.resume_command(run) == (
        """python -m pygpt.train --resume --out 'my runs/it'"'"'s'"""
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--max_iters=5", r"--max_iters is nanoGPT's; here it is --max-steps$"),
        ("--batch-size 12", "here it is --micro-batch, and"),
        ("--device-batch-size 12", "is nanochat's; here it is --micro-batch$"),
        ("--bias=False", "--bias=False: a switch has no value; give --bias or --no-bias$"),
        ("config/train_gpt2.py --n_layer=2", r"config/train_gpt2.py: no Python .*--config FILE"),
    ],
)
def test_nanogpts_names_are_refused_with_ours(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--n-embd 130", "n_embd=130 is not divisible by n_head=4"),
        ("--batch-tokens 1000", "batch_tokens=1000 is not a multiple of block_size=64"),
        ("--micro-batch 5", "micro_batch=5 does not divide the 24 sequences"),
    ],
)
def test_what_does_not_divide_is_refused_before_any_work(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(f"--preset stdlib-cpu {line}")


def test_ranks_must_divide_the_batch_of_a_new_and_of_a_resumed_run() -> None:
    launch = Launch(world_size=5)
    with pytest.raises(InputError, match="5 processes can't share the 24 sequences"):
        flags.read_command_line("--preset stdlib-cpu --device cpu".split(), launch)
    run = started("mine")  # 64 sequences
    with pytest.raises(InputError, match="5 processes .* nearest numbers that can: 4 or 8"):
        flags.read_command_line(f"--resume --out {run.path}".split(), launch)


def test_a_restart_by_torchrun_goes_on_with_the_run_that_it_started() -> None:
    line = "--preset owt-30m --data data --device cpu".split()
    (Path("data") / "unused").mkdir(parents=True)
    for name in ("train.bin", "val.bin"):
        (Path("data") / name).write_bytes(bytes(64))
    launch = Launch(restarts=1, id="one")
    for name, with_checkpoint, id_ in (("a", True, "one"), ("b", True, "other"), ("c", False, "c")):
        run = started(name, with_checkpoint=with_checkpoint)
        run.open(run.config(), torch.device("cpu"), 0, launch=id_)
    _, run, options = flags.read_command_line(line, launch)
    assert (run.path.name, options.resume) == ("a", True)
    # By its name, whoever started it.
    _, run, options = flags.read_command_line([*line, "--out", "runs/b"], launch)
    assert (run.path.name, options.resume) == ("b", True)
    # Without a checkpoint nothing is lost: a new run.
    _, run, options = flags.read_command_line(line, dataclasses.replace(launch, id="c"))
    assert run.path.name not in "abc"
    assert not options.resume
    # The first start, without a restart, is a new run as ever.
    with pytest.raises(InputError, match="holds a run already"):
        flags.read_command_line([*line, "--out", "runs/b"], Launch(id="one"))
