"""How a number is written into ``report.json``: with its interval, or with the reason why one of them is missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trainers.metrics.intervals import percentile_interval

DIGITS = 6
ALMOST_SAME = 1e-9


def measured(value: float, low: float, high: float, method: str) -> dict[str, Any]:
    """``{"value", "low", "high", "method"}``, plain floats."""
    return {"value": plain(value), "low": plain(low), "high": plain(high), "method": method}


def undefined(why: str) -> dict[str, Any]:
    """``{"value": None, "why": "not defined: ..."}``."""
    return {"value": None, "why": f"not defined: {why}"}


def without_interval(value: float, why: str) -> dict[str, Any]:
    """``{"value", "low": None, "high": None, "method", "why"}``: a number whose uncertainty the sample cannot show."""
    return {"value": plain(value), "low": None, "high": None, "method": "no interval", "why": why}


def bootstrapped(
    value: float, replicates: np.ndarray | None, *, centred: bool = False, ceiling: float | None = 1.0
) -> dict[str, Any]:
    """A point estimate with the percentile interval of its resamples.

    No interval is claimed where resampling cannot give one: no class has two lesions, fewer than half of the resamples
    define the metric, or all resamples agree (three of three right does not prove a share of 1).

    Args:
        value: of the sample itself.
        replicates: (R,) of the resamples, or None when the sample cannot be resampled.
        centred: shift the replicates so that their mean is the value. Resampling adds to a calibration error the noise
            that it counts as error, which would push the plain interval above its own value.
        ceiling: the metric's largest possible value, None when it has none; the smallest is 0.
    """
    if replicates is None:
        return without_interval(value, "no class has two lesions")
    defined = replicates[~np.isnan(replicates)]
    if len(defined) * 2 < len(replicates):
        return without_interval(value, f"defined in {len(defined)} of {len(replicates)} resamples only")
    if np.ptp(defined) < ALMOST_SAME:
        return without_interval(value, "the same in every resample")
    method = f"bootstrap by lesion, {len(replicates)} resamples, 95 % percentile"
    if len(defined) < len(replicates):
        method += f" of the {len(defined)} in which it is defined"
    if centred:
        defined = defined - defined.mean() + value
        method += ", centred"
    low, high = percentile_interval(defined)
    return measured(value, max(low, 0.0), high if ceiling is None else min(high, ceiling), method)


def plain(value: float) -> float:
    """A finite float rounded to 6 decimals, fit for JSON.

    Raises:
        ValueError: NaN or infinite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written into a report: say why the number is not defined instead")
    return round(value, DIGITS) + 0.0
