"""Robust statistics of a noisy curve: smoothing, noise, outliers and slopes with intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pygpt.reporting.runlog import Floats

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation → standard deviation of a Gaussian."""


def spread(values: Floats) -> float:
    """Standard deviation, from the median absolute deviation: outliers don't count."""
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def running_median(values: Floats, window: int) -> Floats:
    """Median over a centred window of odd length, shorter at the ends; the same length."""
    window = min(window, len(values) // 2 * 2 - 1)
    if window < 3:
        return np.array(values)
    half = window // 2
    padded = np.concatenate([values[half:0:-1], values, values[-2 : -half - 2 : -1]])
    medians: Floats = np.median(sliding_window_view(padded, window), axis=-1)
    return medians


def noise(values: Floats) -> float:
    """Standard deviation of one value around its curve, from the differences of neighbours."""
    return spread(np.diff(values)) / math.sqrt(2) if len(values) > 2 else 0.0


def binned(step: Floats, values: Floats, bins: int) -> tuple[Floats, Floats]:
    """Means over `bins` equal parts of the range of steps; empty parts are left out."""
    edges = np.linspace(step[0], step[-1], bins + 1)
    which = np.clip(np.searchsorted(edges, step, side="right") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    keep = count > 0
    means = [np.bincount(which, weights=of, minlength=bins)[keep] for of in (step, values)]
    return means[0] / count[keep], means[1] / count[keep]


def slope(x: Floats, y: Floats) -> tuple[float, float]:
    """Least-squares slope of y over x, and the half-width of its 95 % interval.

    The interval takes residuals as independent; with fewer than three points it is infinite.
    """
    if len(x) < 3:
        return float((y[-1] - y[0]) / (x[-1] - x[0])), math.inf
    centred = x - x.mean()
    square = float(centred @ centred)
    estimate = float(centred @ (y - y.mean())) / square
    residual = y - y.mean() - estimate * centred
    sigma = math.sqrt(float(residual @ residual) / (len(x) - 2))
    return estimate, student95(len(x) - 2) * sigma / math.sqrt(square)


def student95(degrees: int) -> float:
    """97.5 % quantile of Student's t, by its expansion in 1/degrees (within 2 % from 3 on).

    Abramowitz and Stegun, 26.7.5, with the normal quantile 1.96.
    """
    if degrees < 3:
        return (12.706, 4.303)[max(degrees, 1) - 1]
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
