"""The two laws: exact on their own curves, and what they found on two public logs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pygpt.reporting.fit import fit, lr_basis, power_basis
from pygpt.reporting.projection import outlook
from pygpt.reporting.readers import read_log
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.reporting.schedule import schedule_of


def test_a_power_law_is_found_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    floor, scale, alpha = random.uniform((2, 0.5, 0.3), (3.5, 1.5, 0.9))
    step = np.arange(500.0, 10500, 500)
    loss = floor + scale * (step / 1e3) ** -alpha
    law = fit(step, loss, power_basis, "power law")
    expected = floor + scale * 50**-alpha
    # Noiseless: what is left is the search's accuracy in α.
    assert law.at(50_000) == pytest.approx(expected, abs=1e-3)
    assert law.alpha == pytest.approx(alpha, abs=1e-2)


def test_the_lr_aware_law_is_found_again(seed: int) -> None:
    random = np.random.default_rng(seed)
    rate = np.concatenate([np.full(3000, 1e-3), np.linspace(1e-3, 0, 3000)])
    basis = lr_basis(rate)
    alpha = random.uniform(0.4, 0.8)
    coefficients = random.uniform((2.5, 0.5, 0.1), (3.2, 0.9, 0.4))
    step = np.arange(300.0, 6000, 100)
    loss = basis(step, alpha) @ coefficients
    law = fit(step[step < 4500], loss[step < 4500], basis, "LR-aware law")
    assert law.at(5999) == pytest.approx(
        float((basis(np.array([5999.0]), alpha) @ coefficients)[0]), abs=2e-3
    )


def test_an_outlier_does_not_bend_the_curve() -> None:
    step = np.arange(500.0, 10500, 500)
    loss = 3 + (step / 1e3) ** -0.5
    clean = fit(step, loss, power_basis, "power law").at(20_000)
    loss[10] += 1
    # Huber's influence is bounded by 0.003 nats for each of the 20 points.
    assert fit(step, loss, power_basis, "power law").at(20_000) == pytest.approx(clean, abs=0.01)


@pytest.fixture
def curves() -> Path:
    if "PYGPT_TEST_DATA" not in os.environ:
        pytest.skip("waits for PYGPT_TEST_DATA, a folder of real logs")
    return Path(os.environ["PYGPT_TEST_DATA"]) / "curves"


def until(log: RunLog, low: float, high: float) -> tuple[Floats, Floats]:
    keep = (log.val.step >= low) & (log.val.step <= high)
    return log.val.step[keep], log.val["loss"][keep]


def test_llmcs_run_is_predicted_from_its_half(curves: Path) -> None:
    log = read_log(curves / "gpt2-124m-llmc-fineweb10b.log")
    schedule = schedule_of(log)
    assert schedule
    law = fit(*until(log, 1500, log.last_step / 2), lr_basis(schedule.rate), "LR-aware law")
    assert law.at(log.last_step) == pytest.approx(3.280, abs=0.002)  # true: 3.2722
    low, high = law.interval(log.last_step)
    assert low < 3.2722 < high


def test_a_power_law_of_the_constant_phase_misses_the_decay(curves: Path) -> None:
    log = read_log(curves / "gpt2-124m-rope-adamw-fineweb10b.log")
    law = fit(*until(log, 1000, 7536), power_basis, "power law")
    assert law.at(log.last_step) - log.final_loss == pytest.approx(0.143, abs=0.01)


def test_a_law_that_does_not_follow_the_end_is_refused(curves: Path) -> None:
    # The decay is not in this log, and the power law's last point is above the run's.
    view = outlook(read_log(curves / "gpt2-124m-rope-adamw-fineweb10b.log"))
    assert not view.projections
    assert view.refused
    assert view.refused.values["law"] > view.refused.values["loss"] + 0.02


def test_nothing_is_projected_below_half_of_the_schedule(curves: Path, tmp_path: Path) -> None:
    lines = (curves / "gpt2-124m-llmc-fineweb10b.log").read_text(encoding="ascii").splitlines()
    path = tmp_path / "main.log"
    path.write_text("\n".join(lines[:7000]), encoding="ascii")
    log = read_log(path)
    for name, value in {
        "max_steps": 19560, "learning_rate": 6e-4, "min_lr": 0.0, "warmup_steps": 700,
        "schedule": "cosine",
    }.items():  # fmt: skip
        log.facts.put(name, value, "test")
    view = outlook(log)
    assert not view.projections
    assert view.refused
    assert "half of the schedule" in view.refused.text
