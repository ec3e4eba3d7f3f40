"""Training as a user starts it: what a run leaves behind, how it goes on, what it refuses."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pygpt.data import writer
from pygpt.data.corpora.text import TextFiles
from pygpt.hub.stored import read_tensors
from pygpt.runs import checkpoint
from pygpt.runs.run import Run
from pygpt.training import trainer
from pygpt.training.trainer import Trainer
from pygpt.utils import cli, signals
from pygpt.utils.errors import InputError

TINY = """
    --preset shakespeare-char --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --dropout 0.1
    --batch-tokens 256 --micro-batch 4 --max-steps 8 --warmup-steps 2 --lr-decay-steps 8
    --eval-interval 4 --eval-tokens 256 --checkpoint-interval 4 --device cpu --dtype float32
""".split()


def losses(run: Run) -> list[tuple[int, float]]:
    return [(line["step"], line["train_loss"]) for line in run.read_metrics()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    newest = run.newest_checkpoint()
    assert newest
    return read_tensors(newest / "model.safetensors")


def assert_equal_runs(a: Run, b: Run) -> None:
    """The same losses and the same weights, to the last bit."""
    assert losses(a) == losses(b)
    for (name, x), y in zip(weights(a).items(), weights(b).values(), strict=True):
        assert torch.equal(x, y), name


def test_a_run_leaves_all_that_it_promises(run_train: Callable[..., Run]) -> None:
    run = run_train("a", "--keep-checkpoints", "1")
    lines = run.read_metrics()
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "val_loss" in line] == [4, 8]
    assert [line["tokens"] for line in lines] == [256 * step for step in range(1, 9)]
    for line in lines:
        assert line["tokens_per_second"] > 0
        assert 0 < line["mfu"] < 1
        assert math.isfinite(line["grad_norm"])
    assert lines[1]["lr"] == pytest.approx(1e-3)
    assert lines[0]["train_loss"] == pytest.approx(math.log(320), abs=0.2)
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    newest = run.newest_checkpoint()
    assert newest
    assert newest.name == "step-00000008"
    assert checkpoint.read_state(newest).val_loss == lines[-1]["val_loss"]
    starts = json.loads((run.path / "run.json").read_text())
    assert starts[0]["torch"] == torch.__version__
    # The resolved configuration starts an equal run.
    assert run.config().micro_batch == 4
    assert run.config().lr_decay_steps == 8


def test_resumed_equals_never_stopped(run_train: Callable[..., Run]) -> None:
    whole = run_train("whole", "--max-steps", "40", "--lr-decay-steps", "40")
    parts = run_train("parts", "--max-steps", "20", "--lr-decay-steps", "40")
    parts = run_train("parts", "--resume", "--max-steps", "40", "--lr-decay-steps", "40")
    assert_equal_runs(whole, parts)


def test_evaluation_and_checkpoints_do_not_disturb_training(run_train: Callable[..., Run]) -> None:
    quiet = run_train("quiet", "--eval-interval", "100", "--checkpoint-interval", "100")
    busy = run_train("busy", "--eval-interval", "1", "--checkpoint-interval", "1")
    assert_equal_runs(quiet, busy)


def test_micro_batch_changes_nothing_but_rounding(run_train: Callable[..., Run]) -> None:
    fours = run_train("fours", "--dropout", "0.0")
    twos = run_train("twos", "--dropout", "0.0", "--micro-batch", "2")
    for (_, a), (_, b) in zip(losses(fours), losses(twos), strict=True):
        # Sums of the same fp32 numbers in another order, through 8 steps of AdamW.
        assert a == pytest.approx(b, rel=1e-4)


def test_seed_decides_the_run(run_train: Callable[..., Run]) -> None:
    first, same, other = run_train("1"), run_train("2"), run_train("3", "--seed", "7")
    assert_equal_runs(first, same)
    assert losses(first) != losses(other)


def test_compiled_run_follows_the_eager_one(run_train: Callable[..., Run]) -> None:
    eager = run_train("eager", "--dropout", "0.0")
    compiled = run_train("compiled", "--dropout", "0.0", "--compile", "True")
    for (_, a), (_, b) in zip(losses(eager), losses(compiled), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_finishes_the_step_and_saves(
    run_train: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = trainer.Trainer.train_step

    def interrupted(self: trainer.Trainer) -> Any:
        if self.step == 2:
            signal.raise_signal(number)
        return original(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", interrupted)
    before = signal.signal(number, signal.SIG_DFL)  # whoever started the tests may ignore it
    try:
        with pytest.raises(SystemExit) as stopped:
            run_train("stopped")
    finally:
        signal.signal(number, before)
    assert stopped.value.code == 128 + number
    run = Run(tmp_path / "stopped")
    newest = run.newest_checkpoint()
    assert newest
    assert checkpoint.read_state(newest).step == 3
    assert f"--resume --out {run.path}" in capsys.readouterr().out
    monkeypatch.setattr(trainer.Trainer, "train_step", original)
    assert_equal_runs(run_train("stopped", "--resume"), run_train("whole"))


def test_an_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with signals.stop_on_signals(print) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_hangup_does_not_kill() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with signals.stop_on_signals(print) as stop:
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
            assert stop.signal == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_leaves_does_not_stop_training(data: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "piped")
    flags = [*TINY, "--data", str(data), "--out", str(run.path), "--log-interval", "1"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pygpt.train", *flags],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the output can't be written any more (Broken pipe)") == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert [step for step, _ in losses(run)] == list(range(1, 9))
    assert run.newest_checkpoint()


def test_dropout_differs_by_every_bit_of_the_seed() -> None:
    assert trainer._dropout_seed(1337, 5) == 1337 << 32 | 5  # so that old runs go on as they began
    seeds = {
        trainer._dropout_seed(seed, step)
        for seed in (0, 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1)
        for step in range(10)
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_seed_of_64_bits_trains(run_train: Callable[..., Run]) -> None:
    low = run_train("low", "--seed", "3", "--max-steps", "2")
    high = run_train("high", "--seed", str(2**63 + 3), "--max-steps", "2")
    assert losses(low) != losses(high)


def test_resume_refuses_other_text(run_train: Callable[..., Run], tmp_path: Path) -> None:
    run = run_train("text", "--max-steps", "4")
    other = tmp_path / "other"
    writer.prepare(TextFiles((Path(trainer.__file__),)), other, "bytes")
    with pytest.raises(InputError, match="train split of .*other is not the one .*step-00000004"):
        run_train("text", "--resume", "--data", str(other))
    assert run.config().data != other
    newest = run.newest_checkpoint()
    assert newest
    state = json.loads((newest / "trainer.json").read_text())
    del state["train_checksum"]  # a checkpoint of an older version
    (newest / "trainer.json").write_text(json.dumps(state))
    assert len(losses(run_train("text", "--resume", "--data", str(other)))) == 8


def test_a_second_start_in_a_held_directory_is_refused(run_train: Callable[..., Run]) -> None:
    run = run_train("held", "--max-steps", "4")
    before = run.config_file.read_text(), run.metrics_file.read_text()
    with run.claimed(), pytest.raises(InputError, match="another process is training in .*held"):
        run_train("held", "--resume")
    assert before == (run.config_file.read_text(), run.metrics_file.read_text())


def test_tensorboard_shows_each_step_once(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    original = Run.newest_checkpoint
    run_train("curves")
    monkeypatch.setattr(  # as if it had been killed before it saved the last steps
        Run, "newest_checkpoint", lambda run: checkpoint.list_checkpoints(run.checkpoints)[0]
    )
    run = run_train("curves", "--resume")
    monkeypatch.setattr(Run, "newest_checkpoint", original)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == list(range(1, 9))


def test_best_checkpoint_is_kept(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rate that rises a hundredfold to the end: the loss is lowest early on.
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: 0.03 * 100 ** (step / 7))
    run = run_train(
        "wild", "--eval-interval", "1", "--checkpoint-interval", "1", "--keep-checkpoints", "2"
    )
    val = {line["step"]: line["val_loss"] for line in run.read_metrics()}
    best = min(val, key=lambda step: val[step])
    kept = [
        checkpoint.read_state(path).step for path in checkpoint.list_checkpoints(run.checkpoints)
    ]
    assert kept == sorted({best, 7, 8})
    assert best < 7, "the test needs a rate at which the loss rises again"


def test_used_run_directory_is_refused_with_two_ways_out(run_train: Callable[..., Run]) -> None:
    before = losses(run_train("used"))
    with pytest.raises(InputError, match=r"--resume --out .*used, or give another --out"):
        run_train("used")
    assert losses(run_train("used", "--resume", "--max-steps", "9"))[:8] == before


def test_finished_run_says_what_would_go_on(
    run_train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    before = losses(run_train("done"))
    assert losses(run_train("done", "--resume")) == before
    assert (
        "at step 8 of 8: nothing is left to train; a larger --max-steps" in capsys.readouterr().out
    )


def test_resume_refuses_another_model(run_train: Callable[..., Run]) -> None:
    run_train("model")
    with pytest.raises(InputError, match="n_embd was 16 .* can't become 32"):
        run_train("model", "--resume", "--n-embd", "32", "--max-steps", "9")


def test_resume_before_the_first_checkpoint_starts_over(run_train: Callable[..., Run]) -> None:
    run = run_train("early", "--max-steps", "3", "--eval-interval", "3")
    whole = losses(run)
    for path in checkpoint.list_checkpoints(run.checkpoints):
        path.rename(run.checkpoints / f".partial-{path.name}")  # as if killed while saving
    assert losses(run_train("early", "--resume", "--max-steps", "3")) == whole
    assert not list(run.checkpoints.glob(".partial-*"))


def test_longer_horizon_keeps_the_rate_low_and_says_so(
    run_train: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run_train("longer")
    with caplog.at_level("INFO"):
        run = run_train("longer", "--resume", "--max-steps", "10")
    assert "stays at 0.0001 from step 8 on; with --lr-decay-steps 10 it would be" in caplog.text
    assert [line["lr"] for line in run.read_metrics()][8:] == [1e-4, 1e-4]


def test_a_schedule_that_never_decays_is_announced(
    run_train: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run_train("short", "--warmup-steps", "8")
    assert "warmup_steps=8 is not below the 8 steps of the decay" in caplog.text


def test_a_broken_update_is_never_saved(
    run_train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is from before the update: it is still finite where the gradient is not."""
    train_step = Trainer.train_step

    def broken_step(self: Trainer) -> Any:
        if self.step == 5:
            self.model.wte.weight.register_hook(lambda gradient: gradient * torch.inf)
        return train_step(self)

    monkeypatch.setattr(Trainer, "train_step", broken_step)
    with pytest.raises(
        InputError, match=r"the gradient's norm is (inf|nan) at step 6.*step-00000004"
    ):
        run_train("broken", "--checkpoint-interval", "2")
    kept = checkpoint.list_checkpoints(Run(tmp_path / "broken").checkpoints)
    assert [checkpoint.read_state(path).step for path in kept] == [2, 4]


def test_diverged_loss_stops_with_the_step_and_keeps_the_checkpoint(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = trainer.Trainer.train_step

    def broken(self: trainer.Trainer) -> Any:
        if self.step == 6:
            self.model.wte.weight.data[0] = torch.nan
        return original(self)

    monkeypatch.setattr(trainer.Trainer, "train_step", broken)
    with pytest.raises(InputError, match=r"loss is nan at step 7.*step-00000004"):
        run_train("nan")
    kept = checkpoint.list_checkpoints(Run(tmp_path / "nan").checkpoints)
    assert [path.name for path in kept] == ["step-00000004"]


def test_full_disk_leaves_the_old_checkpoint(
    run_train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_text = Path.write_text

    def full(path: Path, text: str, **options: Any) -> int:
        if path.name == "trainer.json" and '"step": 8' in text:
            raise OSError(28, "No space left on device")
        return write_text(path, text, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(InputError, match=r"step 8 could not be written.*No space.*--resume"):
            run_train("full")
    run = Run(tmp_path / "full")
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-00000004"]
    assert_equal_runs(run_train("full", "--resume"), run_train("whole"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "owt-30mm"], "did you mean 'owt-30m'"),
        (["--batch-tokens", "250"], "batch_tokens=250 .* 224 or 256"),
        (["--batch-tokens", "250", "--micro-batch", "auto"], "batch_tokens=250 .* 224 or 256"),
        (["--micro-batch", "3"], "micro_batch=3 does not .* do: 2 or 4; .* 192 or 288"),
        (["--n-head", "3"], "n_embd=16 is not divisible by n_head=3"),
        (["--block-size", "65536", "--batch-tokens", "65536", "--micro-batch", "1"], "65536"),
        (["--device", "cuda:77"], "device 'cuda:77' can't be used here"),
        (["--device", "meta"], "there is no device 'meta'; try auto, cpu, cuda or cuda:1"),
        (["--impl", "attention=fast"], "'fast' is none of auto"),
        (["--data", "/nowhere"], "/nowhere is not a dataset directory"),
        (["--n-embd", "0", "--dtype", "auto"], "n_embd must be at least 1, got 0"),
        (["--n-embd", "-32", "--dtype", "auto"], "n_embd must be at least 1, got -32"),
        (["--n-embd", "-32", "--dry-run"], "n_embd must be at least 1, got -32"),
        (["--n-embd", "1000000", "--dtype", "auto"], "GiB"),
        (["--batch-tokens", str(2**40), "--micro-batch", "auto"], "more than the .* train split"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    run_train: Callable[..., Run], tmp_path: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run_train("bad", *flags)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--learning-rat", "1"], "--learning-rate"), (["--max-steps", "0"], "must be above 0")],
)
def test_bad_flag_leaves_with_status_two(
    run_train: Callable[..., Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda: run_train("bad", *flags) and None)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_underscores_and_dashes_mean_the_same(run_train: Callable[..., Run]) -> None:
    assert run_train("under", "--max_steps", "2").config().max_steps == 2


def test_preset_below_toml_below_flags(run_train: Callable[..., Run], tmp_path: Path) -> None:
    toml = tmp_path / "my.toml"
    toml.write_text("beta1 = 0.8\nbeta2 = 0.5\nmax_steps = 99\n")
    config = run_train(
        "layers", "--config", str(toml), "--beta2", "0.7", "--max-steps", "2"
    ).config()
    assert (config.beta1, config.beta2, config.max_steps) == (0.8, 0.7, 2)  # file, flag, flag
    assert config.learning_rate == 1e-3  # preset
