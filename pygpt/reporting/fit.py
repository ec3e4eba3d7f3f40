"""Two laws of a loss curve, fitted by separable least squares.

A power law of the steps, for a constant rate::

    L(s) = L0 + A · s^-α

and a law that knows the learning rate η (Tissue et al. 2024, arXiv 2408.11029, equation 1)::

    L(s) = L0 + A · S1(s)^-α − C · S2(s)
    S1(s) = Σ η_i,   S2(s) = Σ_i Σ_{k ≤ i} (η_{k-1} − η_k) · λ^(i−k)   for i ≤ s

S1 is the area below the schedule and S2 the area of its annealing, with momentum λ. For a given α
both are linear in the rest, which is solved exactly; α is searched on a grid and refined. Residuals
are weighted after Huber, so that an outlier does not bend the curve.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from pygpt.reporting.runlog import Floats
from pygpt.reporting.statistics import spread, student95

MOMENTUM = 0.999
"""λ of the paper."""
_ALPHAS = np.geomspace(0.05, 3, 80)
_HUBER = 0.003
"""Residual in nats above which a point's weight falls: the trial's value, twice the seed noise."""

Basis = Callable[[Floats, float], Floats]
"""Steps and α → the columns (n, 2 or 3), whose coefficients are not negative."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law through some points."""

    method: str
    """"power law" or "LR-aware law"."""
    alpha: float
    coefficients: Floats
    """L0, A and, of the LR-aware law, C."""
    residual: float
    """Robust standard deviation, nats."""
    points: int
    first: float
    last: float
    _plausible: tuple[tuple[float, Floats], ...]
    """α and coefficients that the points do not exclude at 95 %."""
    _basis: Basis

    def at(self, step: float, basis: Basis | None = None) -> float:
        """The loss at a step; `basis` is that of another schedule."""
        return self._value(step, self.alpha, self.coefficients, basis or self._basis)

    def interval(self, step: float, basis: Basis | None = None) -> tuple[float, float]:
        """Lowest and highest loss at a step over the parameters that the points allow."""
        basis = basis or self._basis
        values = [self._value(step, alpha, c, basis) for alpha, c in self._plausible]
        return min(values), max(values)

    @staticmethod
    def _value(step: float, alpha: float, coefficients: Floats, basis: Basis) -> float:
        return float((basis(np.array([step]), alpha) @ coefficients)[0])


def power_basis(step: Floats, alpha: float) -> Floats:
    """Columns of the power law."""
    return np.stack([np.ones_like(step), (step / 1e3) ** -alpha], axis=1)


def lr_basis(rate: Floats, momentum: float = MOMENTUM) -> Basis:
    """Columns of the LR-aware law, for the learning rate of each step from 0 on."""
    area, annealing = _areas(rate, momentum)

    def columns(step: Floats, alpha: float) -> Floats:
        at = np.minimum(step.astype(np.int64), len(rate) - 1)
        return np.stack([np.ones(len(at)), area[at] ** -alpha, -annealing[at]], axis=1)

    return columns


def fit(step: Floats, loss: Floats, basis: Basis, method: str) -> Fit:
    """The law through the points; needs more points than parameters.

    Args:
        step: (n,), above 0.
        loss: (n,), nats.
        basis: the law's columns.
        method: its name.
    """
    sums = [_solve(basis(step, alpha), loss) for alpha in _ALPHAS]
    best = int(np.argmin([cost for _, cost in sums]))
    alpha = _refine(lambda a: _solve(basis(step, a), loss)[1], best)
    coefficients, cost = _solve(basis(step, alpha), loss)
    residual = loss - basis(step, alpha) @ coefficients
    freedom = max(1, _effective(residual) - len(coefficients) - 1)
    limit = cost * (1 + student95(freedom) ** 2 / freedom) + 1e-12
    plausible = [(float(a), c) for a, (c, each) in zip(_ALPHAS, sums, strict=True) if each <= limit]
    return Fit(
        method=method,
        alpha=alpha,
        coefficients=coefficients,
        residual=spread(residual),
        points=len(step),
        first=float(step[0]),
        last=float(step[-1]),
        _plausible=((alpha, coefficients), *plausible),
        _basis=basis,
    )


def _areas(rate: Floats, momentum: float) -> tuple[Floats, Floats]:
    """S1 and S2 at every step. The warm-up anneals nothing."""
    drops = np.concatenate([[0.0], rate[:-1] - rate[1:]])
    drops[: int(np.argmax(rate)) + 1] = 0
    annealing, held = np.empty_like(rate), 0.0
    for i, drop in enumerate(drops.tolist()):
        held = momentum * held + drop
        annealing[i] = held
    return np.cumsum(rate), np.cumsum(annealing)


def _solve(columns: Floats, loss: Floats) -> tuple[Floats, float]:
    """Coefficients, none negative, and Huber's cost."""
    weights = np.ones(len(loss))
    for _ in range(8):
        coefficients = _not_negative(columns * weights[:, None], loss * weights)
        residual = np.abs(loss - columns @ coefficients)
        weights = np.sqrt(np.minimum(1, _HUBER / np.maximum(residual, 1e-12)))
    cost = np.where(residual < _HUBER, residual**2, _HUBER * (2 * residual - _HUBER))
    return coefficients, float(cost.sum())


def _not_negative(columns: Floats, loss: Floats) -> Floats:
    """Least squares; a column whose coefficient would be negative is left out."""
    keep = np.ones(columns.shape[1], dtype=bool)
    while True:
        found = np.linalg.lstsq(columns[:, keep], loss, rcond=None)[0]
        if (found >= 0).all():
            coefficients = np.zeros(columns.shape[1])
            coefficients[keep] = found
            return coefficients
        keep[np.flatnonzero(keep)[int(np.argmin(found))]] = False


def _refine(cost: Callable[[float], float], best: int) -> float:
    """Golden-section search between the neighbours of the grid's best."""
    low = math.log(_ALPHAS[max(0, best - 1)])
    high = math.log(_ALPHAS[min(len(_ALPHAS) - 1, best + 1)])
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(24):
        a, b = high - golden * (high - low), low + golden * (high - low)
        if cost(math.exp(a)) < cost(math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def _effective(residual: Floats) -> int:
    """Independent points among those whose residuals follow one another."""
    centred = residual - residual.mean()
    square = float(centred @ centred)
    correlation = float(centred[1:] @ centred[:-1]) / square if square else 0.0
    correlation = min(0.95, max(0.0, correlation))
    return round(len(residual) * (1 - correlation) / (1 + correlation))
