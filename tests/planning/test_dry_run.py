"""What train --dry-run prints: memory, the flags with which it fits, the least time."""

import sys
from pathlib import Path

import pytest

from pygpt import train
from pygpt.config import StartOptions
from pygpt.utils.errors import InputError

BOTH = "--checkpoint-activations --offload-optimizer"


def dry_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *flags: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--dry-run", *flags])
    train.main()
    assert not list(tmp_path.iterdir())


def test_dry_run_for_a_card_writes_and_needs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(monkeypatch, tmp_path, "--preset", "fineweb-40m", "--card", "rtx 4070")
    text = capsys.readouterr().out
    assert "vocabulary 50,304 (GPT-2's, assumed" in text
    assert "58.3 TFLOP/s bf16, 12 GiB, 504 GB/s (data sheet)" in text
    assert "the bound is highest with no flag" in text


def test_dry_run_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = ["--block-size", "32", "--batch-tokens", "512", "--micro-batch", "8"]
    dry_run(monkeypatch, tmp_path, "--preset", "stdlib-cpu", "--device", "cpu", *batch)
    text = capsys.readouterr().out
    assert "vocabulary 320:" in text
    assert row(text, "sequences at once") == ["8", "8"]
    assert row(text, "times a step") == ["2", "2"]


@pytest.mark.parametrize(
    ("preset", "fits", "advice"),
    [
        ("gpt2-large", ["no", "no", "yes", "yes"], "with --offload-optimizer."),
        ("gpt2-xl", ["no", "no", "no", "yes"], f"with {BOTH}."),
    ],
)
def test_dry_run_names_the_flags_with_which_it_fits(
    preset: str,
    fits: list[str],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dry_run(monkeypatch, tmp_path, "--preset", preset, "--card", "RTX 4070")
    text = capsys.readouterr().out
    assert row(text, "fits") == fits
    assert f"the bound is highest {advice}" in text
    assert max(len(line) for line in text.splitlines() if line[0] in "│┃") <= 80


def test_dry_run_says_that_nothing_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(
        monkeypatch, tmp_path, "--preset", "gpt2-xl", "--card", "RTX 4060", "--dtype", "float32"
    )
    text = capsys.readouterr().out
    assert row(text, "fits") == ["no", "no"]
    assert "Nothing here fits" in text


def row(text: str, name: str) -> list[str]:
    """The cells of the table's row `name`."""
    line = next(line for line in text.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.strip("│").split("│")[1:]]


def test_a_card_without_a_dry_run_is_refused() -> None:
    with pytest.raises(InputError, match="only --dry-run"):
        StartOptions(card="RTX 4070")
