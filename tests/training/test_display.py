"""What training shows, by the width and the kind of the terminal."""

import io

import pytest
from rich.console import Console

from pygpt.config import TrainConfig
from pygpt.training.display import Display
from pygpt.training.trainer import StepReport

REPORT = StepReport(663, 1.23456, None, 663 * 768, 12345.6, 2e-3, 0.5, 0.123)


def shown(width: int, term: str) -> str:
    """What a terminal gets to see of one step."""
    config = TrainConfig(max_steps=3000, log_interval=1)
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, highlight=False, _environ={"TERM": term}
    )
    with Display(console, config, 0) as display:
        display.on_step(REPORT)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_count_is_never_cut(width: int) -> None:
    assert "step  663/3000" in shown(width, "xterm")


def test_at_eighty_columns_nothing_is_cut() -> None:
    text = shown(80, "xterm")
    assert "loss 1.2346  lr 2.00e-03  12,346 tokens/s  MFU 12.3%" in text


def test_a_dumb_terminal_gets_lines() -> None:
    assert "step 663/3000  loss 1.2346" in shown(80, "dumb")
