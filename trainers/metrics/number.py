"""A number with its interval, or with the reason why one of them is missing: in ``report.json`` and in text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.metrics.intervals import percentile_interval

DIGITS = 6
ALMOST_SAME = 1e-9


@dataclass(frozen=True)
class Number:
    """A value with its interval.

    Attributes:
        value: None where it is not defined.
        low: lower end of the interval, None where there is none.
        high: upper end.
        method: how the interval was found; "" where none was sought.
        why: why the value or the interval is missing.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""
    why: str = ""

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Number:
        """The number that :meth:`json` wrote; other keys are ignored."""
        return cls(**{name: found[name] for name in cls.__match_args__ if name in found})

    def json(self) -> dict[str, Any]:
        """``{"value", "low", "high", "method"}``, and ``why`` where a part is missing; no interval without a value."""
        if self.value is None:
            return {"value": None, "why": self.why}
        found = {"value": self.value, "low": self.low, "high": self.high, "method": self.method}
        return {**found, "why": self.why} if self.why else found

    def text(self, digits: int = 3, *, signed: bool = False, percent: bool = False) -> str:
        """``0.812 (0.790 to 0.834)``, ``+0.012 (-0.003 to +0.027)`` or ``12 % (8 to 16)``; ``n/a`` without a value."""
        if self.value is None:
            return "n/a"
        form, factor = f"{'+' if signed else ''}.{digits}f", 100 if percent else 1
        text = f"{factor * self.value:{form}}{' %' if percent else ''}"
        if self.low is None or self.high is None:
            return f"{text} (no interval)" if self.method else text
        return f"{text} ({factor * self.low:{form}} to {factor * self.high:{form}})"


def measured(value: float, low: float, high: float, method: str) -> dict[str, Any]:
    """``{"value", "low", "high", "method"}``, plain floats."""
    return Number(plain(value), plain(low), plain(high), method).json()


def undefined(why: str) -> dict[str, Any]:
    """``{"value": None, "why": "not defined: ..."}``."""
    return Number(None, why=f"not defined: {why}").json()


def without_interval(value: float, why: str) -> dict[str, Any]:
    """``{"value", "low": None, "high": None, "method", "why"}``: a number whose uncertainty the sample cannot show."""
    return Number(plain(value), method="no interval", why=why).json()


def bootstrapped(
    value: float,
    replicates: np.ndarray | None,
    *,
    centred: bool = False,
    floor: float | None = 0.0,
    ceiling: float | None = 1.0,
    paired: bool = False,
) -> dict[str, Any]:
    """A point estimate with the percentile interval of its resamples.

    No interval is claimed where resampling cannot give one: no class has two lesions, fewer than half of the resamples
    define the metric, or all resamples agree (three of three right does not prove a share of 1).

    Args:
        value: of the sample itself.
        replicates: (R,) of the resamples, or None when the sample cannot be resampled.
        centred: shift the replicates so that their mean is the value. Resampling adds to a calibration error the noise
            that it counts as error, which would push the plain interval above its own value.
        floor: the metric's smallest possible value, None when it has none.
        ceiling: the metric's largest possible value, None when it has none.
        paired: the replicates are of a difference between two sides of the same resamples.
    """
    if replicates is None:
        return without_interval(value, "no class has two lesions")
    defined = replicates[~np.isnan(replicates)]
    if len(defined) * 2 < len(replicates):
        return without_interval(value, f"defined in {len(defined)} of {len(replicates)} resamples only")
    if np.ptp(defined) < ALMOST_SAME:
        return without_interval(value, "the same in every resample")
    method = f"{'paired ' if paired else ''}bootstrap by lesion, {len(replicates)} resamples, 95 % percentile"
    if len(defined) < len(replicates):
        method += f" of the {len(defined)} in which it is defined"
    if centred:
        defined = defined - defined.mean() + value
        method += ", centred"
    low, high = percentile_interval(defined)
    low, high = low if floor is None else max(low, floor), high if ceiling is None else min(high, ceiling)
    return measured(value, low, high, method)


def plain(value: float) -> float:
    """A finite float rounded to 6 decimals, fit for JSON.

    Raises:
        ValueError: NaN or infinite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written into a report: give the reason why it is not defined instead")
    return round(value, DIGITS) + 0.0
