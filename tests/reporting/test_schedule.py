import json
from pathlib import Path

import numpy as np
import pytest

from pygpt.config import TrainConfig
from pygpt.reporting.readers import read_log
from pygpt.reporting.schedule import MOST_STEPS, configured, schedule_of
from pygpt.training.schedule import learning_rate
from pygpt.utils.errors import InputError


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "cosine"},
        {"schedule": "linear", "min_lr": 0.0},
        {"schedule": "wsd", "decay_fraction": 0.3},
        {"schedule": "wsd", "decay_from": 25},
        {"schedule": "cosine", "lr_decay_steps": 30},
    ],
)
def test_rates_ahead_of_the_log_are_those_that_training_will_use(
    options: dict[str, object], tmp_path: Path
) -> None:
    config = TrainConfig(**{"max_steps": 40, "warmup_steps": 5, **options})  # type: ignore[arg-type]
    (tmp_path / "config.toml").write_text(config.as_toml(), encoding="utf-8")
    line = {"step": 1, "train_loss": 9.0, "lr": 1e-4}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    rates = configured(read_log(tmp_path).facts, 40)
    assert rates is not None
    np.testing.assert_allclose(rates[5:], [learning_rate(step, config) for step in range(5, 41)])


def test_a_damaged_step_is_refused_before_memory_is_asked_for_it(tmp_path: Path) -> None:
    lines = ({"step": step, "train_loss": 9.0, "lr": 1e-4} for step in (1, MOST_STEPS + 1))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"metrics.jsonl has step {MOST_STEPS + 1:,}"):
        schedule_of(read_log(tmp_path / "metrics.jsonl"))
