"""What more steps would give: projections with intervals, and how well they did on the run itself.

Which law is used follows from the learning rate. While it is constant, a power law. Once part of a
long decay is seen, the LR-aware law. Otherwise none: before the decay is seen, nothing in the log
says how much it will give.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pygpt.reporting.fit import Basis, Fit, fit, lr_basis, power_basis
from pygpt.reporting.language import Message, msg
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.reporting.schedule import Schedule, schedule_of
from pygpt.reporting.statistics import binned

SEED_NOISE = 0.0013
"""Standard deviation of the final loss over seeds (modded-nanogpt, track 3)."""

LAWS = {"power law": msg("power law"), "LR-aware law": msg("LR-aware law")}
"""Names of the laws."""

LEAST_POINTS = 5
MISFIT = 0.02
"""Nats between the law and the last point, above which it is not used."""

DECAY_SEEN = 0.2
LONG_DECAY = 0.5
"""Share of the run that the decay must span for the LR-aware law. With a decay over the last 21 %,
of which half was seen, it was 0.12 off on a public run (docs/report.md)."""


@dataclasses.dataclass(frozen=True)
class Projection:
    """The loss expected at a step, and its interval, which is cut at 0 nats."""

    steps: int
    loss: float
    low: float
    high: float
    method: str


@dataclasses.dataclass(frozen=True)
class Backtest:
    """A projection from the first part of the run, beside what came."""

    method: str
    fitted_to: int
    predicts: int
    predicted: float
    low: float
    high: float
    actual: float

    @property
    def error(self) -> float:
        """Predicted less actual, nats."""
        return self.predicted - self.actual


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Projections of a run, or why there are none."""

    projections: tuple[Projection, ...] = ()
    backtests: tuple[Backtest, ...] = ()
    refused: Message | None = None
    caveat: Message | None = None
    law: Fit | None = None


def outlook(log: RunLog, steps: tuple[int, ...] = ()) -> Outlook:
    """Project a run to `steps`, or by default to its planned end, then to 2 and 3⅓ times that."""
    step, loss = points(log)
    schedule = schedule_of(log)
    planned = log.facts.max_steps or 0
    ended = planned <= log.last_step + 1
    targets = steps or ((2 * log.last_step, log.last_step * 10 // 3) if ended else (planned,))
    refused = _refusal(step, schedule, planned, log)
    if refused:
        return Outlook(refused=refused)
    law = _fit(step, loss, schedule, log.last_step)
    off = abs(law.at(float(step[-1])) - float(loss[-1]))
    if off > max(MISFIT, 5 * law.residual):
        return Outlook(
            refused=msg(
                "No projection: the law through the points gives {law:.3f} for the last one, which "
                "is {loss:.3f}. The learning rate probably fell, which the log does not say; "
                "--config or --preset would.",
                law=law.at(float(step[-1])),
                loss=float(loss[-1]),
            )
        )
    backtests = _backtests(step, loss, schedule, log)
    projections = tuple(
        _project(law, target, schedule, log, backtests)
        for target in sorted(targets)
        if target > log.last_step
    )
    below = next((each for each in projections if each.loss <= 0), None)
    if below:
        return Outlook(
            backtests=backtests,
            refused=msg(
                "No projection: the law gives {loss:.2f} nats for step {step}, and no loss is "
                "below 0. The run is too short for it.",
                loss=below.loss,
                step=below.steps,
            ),
        )
    return Outlook(projections, backtests, None, _caveat(law, schedule, ended), law)


def points(log: RunLog) -> tuple[Floats, Floats]:
    """The points that laws are fitted to: validation, or means of the training loss.

    The warm-up and what follows it at once are left out.
    """
    step, loss = log.main.known("loss")
    if len(step) > 200:
        step, loss = binned(step, loss, 200)
    end = float(step[-1])
    warmup = log.facts.warmup_steps
    if warmup is None and log.train.has("lr"):
        steps, lr = log.train.known("lr")
        warmup = int(steps[int(np.argmax(lr >= 0.999 * lr.max()))])
    begin = max(2 * (warmup or 0), 0.075 * end)
    keep = (step >= min(begin, 0.3 * end)) & (step > 0)
    return step[keep], loss[keep]


def _refusal(step: Floats, schedule: Schedule | None, planned: int, log: RunLog) -> Message | None:
    """Why nothing is projected; None where a law may be used."""
    if len(step) < LEAST_POINTS:
        return msg(
            "No projection: {n} points after the warm-up, and a law needs {least}.",
            n=len(step),
            least=LEAST_POINTS,
        )
    if log.not_finite:
        return msg("No projection: the loss is NaN or infinite from step {step} on.",
                   step=log.not_finite[0])  # fmt: skip
    if schedule is None or not schedule.decays or log.last_step >= planned - 1:
        return None
    if log.last_step < planned / 2 or schedule.decayed(log.last_step) < DECAY_SEEN:
        return msg(
            "No projection to the end yet: step {step} of {planned}, and the learning rate has "
            "done {share:.0%} of its decay. What the decay gives can't be read from the part "
            "before it; from half of the schedule on it can.",
            step=log.last_step,
            planned=planned,
            share=schedule.decayed(log.last_step),
        )
    if not _long_decay(schedule):
        return msg(
            "No projection to the end: the learning rate decays over the last part of the run "
            "only. On a public run of this kind the law was 0.12 off with half of the decay seen."
        )
    return None


def _long_decay(schedule: Schedule) -> bool:
    """Whether the decay spans most of the run, as a cosine's does."""
    peak = schedule.rate.max()
    begins = int(np.flatnonzero(schedule.rate >= 0.98 * peak)[-1])
    return begins < (1 - LONG_DECAY) * len(schedule.rate)


def _fit(step: Floats, loss: Floats, schedule: Schedule | None, until: float) -> Fit:
    """The law for points up to `until`."""
    aware = (
        schedule is not None
        and schedule.decays
        and _long_decay(schedule)
        and schedule.decayed(int(until)) >= DECAY_SEEN
        and len(step) >= 8
    )
    if aware and schedule:
        return fit(step, loss, lr_basis(schedule.rate), "LR-aware law")
    return fit(step, loss, power_basis, "power law")


def _project(
    law: Fit,
    target: int,
    schedule: Schedule | None,
    log: RunLog,
    backtests: tuple[Backtest, ...],
) -> Projection:
    basis: Basis | None = None
    if law.method == "LR-aware law" and schedule and target > len(schedule.rate):
        basis = lr_basis(schedule.stretched(target).rate)
    value = law.at(target, basis)
    low, high = law.interval(target, basis)
    # The law itself may be wrong: as much as it was on this run, by the ratio of the distances.
    distance = np.log(target / log.last_step)
    errors = [
        abs(test.error) * distance / np.log(test.predicts / test.fitted_to)
        for test in backtests
        if test.method == law.method
    ]
    margin = max([2 * SEED_NOISE, law.residual, *errors])
    low, high = max(0.0, min(low, value - margin)), max(high, value + margin)
    return Projection(target, value, low, high, law.method)


def _backtests(
    step: Floats, loss: Floats, schedule: Schedule | None, log: RunLog
) -> tuple[Backtest, ...]:
    """Fit on the first half and on the first three quarters; predict the end."""
    tests = []
    for share in (0.5, 0.75):
        until = share * step[-1]
        keep = step <= until
        if keep.sum() < LEAST_POINTS - 1:
            continue
        law = _fit(step[keep], loss[keep], schedule, until)
        low, high = law.interval(float(step[-1]))
        value = law.at(float(step[-1]))
        tests.append(
            Backtest(
                law.method,
                int(step[keep][-1]),
                int(step[-1]),
                value,
                max(0.0, low),
                high,
                float(loss[-1]),
            )
        )
    return tuple(tests)


def _caveat(law: Fit, schedule: Schedule | None, ended: bool) -> Message | None:
    """What a projection takes for granted."""
    if law.method == "LR-aware law":
        return msg("Taken for granted: a schedule of the same shape over the longer run, "
                   "and the same data, model and batch.") if ended else None  # fmt: skip
    if schedule is None:
        return msg(
            "The learning rate is not in the log, so this is a power law through the points: it "
            "takes for granted that a longer run would have a schedule as well suited."
        )
    if schedule.decays:
        return msg(
            "Too few points for the law that knows the learning rate, so this is a power law "
            "through points that were taken while the rate fell."
        )
    return msg(
        "This is at the constant rate. A decay at the end gives more, which can't be read from "
        "the constant part: 0.15 on a public run."
    )
