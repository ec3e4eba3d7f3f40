"""The learning rate as a function of the step, and a decay that starts now."""

import itertools
import math
from typing import Any

import pytest

from pygpt.config import StartOptions, TrainConfig
from pygpt.training.schedule import decay_from_now, learning_rate
from pygpt.utils.errors import InputError

BASE = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_steps": 10, "max_steps": 110}


def rates(**fields: object) -> list[float]:
    config = TrainConfig(**(BASE | fields))  # type: ignore[arg-type]
    return [learning_rate(step, config) for step in range(config.max_steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_warm_up_and_end_are_the_same(schedule: str) -> None:
    found = rates(schedule=schedule)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == pytest.approx(1.0)
    assert found[110] == 0.1
    assert all(a >= b for a, b in itertools.pairwise(found[9:]))


def test_halfway() -> None:
    assert rates()[60] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert rates(schedule="linear")[85] == pytest.approx(0.1 + 0.9 * 0.25)


def test_wsd_is_stable_then_linear() -> None:
    found = rates(schedule="wsd", decay_fraction=0.5)
    assert found[10:56] == [1.0] * 46
    assert found[55 + 11] == pytest.approx(1 - 0.9 * 11 / 55)
    assert rates(schedule="wsd", decay_from=100)[100:102] == pytest.approx([1.0, 0.91])


def test_a_decay_shorter_than_a_step_or_after_the_end() -> None:
    assert rates(schedule="wsd", decay_fraction=0.001)[10:110] == [1.0] * 100
    assert rates(schedule="wsd", decay_from=110)[109] == 1.0
    assert rates(schedule="wsd", decay_from=500)[109] == 1.0


def test_decay_now_branches_off_the_stable_phase() -> None:
    stable = TrainConfig(**BASE, schedule="wsd")  # type: ignore[arg-type]
    config = decay_from_now(stable, 40, 20)
    assert config.max_steps == 60
    assert learning_rate(40, config) == 1.0
    assert learning_rate(50, config) == pytest.approx(0.55)
    assert learning_rate(60, config) == 0.1
    with pytest.raises(InputError, match="steps 10 to 88, and .* of step 95"):
        decay_from_now(stable, 95, 20)
    with pytest.raises(InputError, match="a cosine schedule"):
        decay_from_now(TrainConfig(**BASE), 40, 20)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay_fraction": 0.0}, "above 0 and at most 1, got 0"),
        ({"decay_from": 5}, "needs --schedule wsd"),
    ],
)
def test_values_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**(BASE | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay_now": 5}, "give --resume --out RUN"),
        ({"decay_now": 0, "resume": True}, "at least 1 step"),
    ],
)
def test_decay_now_belongs_to_a_resumed_run(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StartOptions(**fields)
