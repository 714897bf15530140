"""Order and time, drift, residuals: by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datasets_scripts.simulate_acne import Design, simulate
from trainers.longitudinal.diagnostics import (
    baseline_drift,
    far_off,
    far_off_warnings,
    gaps,
    later_shares,
    order_of,
    order_warnings,
    residuals_of,
)
from trainers.longitudinal.mixed import fit_mixed
from trainers.longitudinal.study import Study


def test_the_share_of_later_days_by_hand(study: Callable[..., Study]) -> None:
    rows = [("a", day, name, float(day)) for day, name in ((1, "Baseline"), (2, "A"), (3, "Baseline"), (4, "A"))]
    rows += [("b", 1, "A", 1.0), ("b", 2, "Baseline", 1.0), ("c", 1, "Baseline", 2.0)]
    # Of a's four pairs, three have the treated day later: (2, 1), (4, 1), (4, 3). Of b's one, none.
    shares = later_shares(study(rows), 1)
    assert shares[:2].tolist() == [0.75, 0.0]
    assert np.isnan(shares[2])
    assert order_of(study(rows)) == [{"treatment": "A", "later_share": 0.375, "confounded": "no"}]


@pytest.mark.parametrize(
    ("given", "confounded", "message"),
    [
        ("BA BA BA BA", "fully", "A: always given later than Baseline"),
        ("AB AB AB AB", "fully", "A: always given earlier than Baseline"),
        ("BA BA BA AB", "mostly", "A: mostly given later than Baseline"),
        ("BA BA AB AB", "no", ""),
    ],
)
def test_an_order_that_confounds_is_reported(
    study: Callable[..., Study], given: str, confounded: str, message: str
) -> None:
    names = {"B": "Baseline", "A": "A"}
    rows = [
        (f"p{number}", 10 * phase + day, names[letter], float(number + day))
        for number, letters in enumerate(given.split())
        for phase, letter in enumerate(letters)
        for day in range(5)
    ]
    order = order_of(study(rows))
    assert order[0]["confounded"] == confounded
    warned = order_warnings(order, "Baseline")
    assert len(warned) == (confounded != "no")
    assert "".join(warned).startswith(message)


def test_the_simulated_orders_are_distinguished(study: Callable[..., Study]) -> None:
    fixed = order_of(study(simulate(Design(), 0).rows))
    assert [entry["confounded"] for entry in fixed] == ["fully", "fully"]
    assert order_warnings(fixed, "Baseline")[0].startswith("Antibiotics, Cream: always given later")
    drawn = order_of(study(simulate(Design(order="random", patients=40), 0).rows))
    assert [entry["confounded"] for entry in drawn] == ["no", "no"]


def test_drift_at_baseline_is_found_and_has_its_slope(study: Callable[..., Study]) -> None:
    slopes = {"a": -0.1, "b": -0.2, "c": -0.3}
    rows = [
        (who, day, "Baseline" if day < 8 else "A", 50 + slope * day)
        for who, slope in slopes.items()
        for day in range(16)
    ]
    found = baseline_drift(study([*rows, ("d", 1, "Baseline", 3.0), ("d", 2, "A", 3.0)]), 0.95)
    # -1.4 points a week on average, sd 0.7; t of 2 degrees of freedom is 4.3027.
    assert found["points_a_week"] == pytest.approx(-1.4)
    assert found["high"] == pytest.approx(-1.4 + 4.3027 * 0.7 / np.sqrt(3), abs=1e-3)
    assert (found["patients"], found["drifts"]) == (3, False)
    steeper = baseline_drift(study([(who, day, name, 3 * day + x) for who, day, name, x in rows]), 0.95)
    assert steeper["drifts"]
    assert steeper["points_a_week"] == pytest.approx(21 - 1.4)


def test_drift_needs_two_patients_with_days(study: Callable[..., Study]) -> None:
    rows = [(who, day, "Baseline" if day < 4 else "A", float(day)) for who in "ab" for day in range(8)]
    found = baseline_drift(study(rows), 0.95)
    assert (found["points_a_week"], found["patients"], found["drifts"]) == (None, 0, False)


def test_drift_is_reported_where_it_was_simulated(study: Callable[..., Study]) -> None:
    found = baseline_drift(study(simulate(Design(trend=-0.4), 3).rows), 0.95)
    assert found["drifts"]
    assert found["low"] < 7 * -0.4 < found["high"]


def test_residuals_and_gaps(balanced: Study, study: Callable[..., Study], balanced_rows: Callable[..., Any]) -> None:
    fit = fit_mixed(balanced, random_effects=True)
    found = residuals_of(balanced, fit)
    assert found["sd"] == pytest.approx(3, rel=0.1)
    assert set(found["sd_by_treatment"]) == {"Baseline", "A", "B"}
    assert abs(found["skewness"]) < 0.5
    assert abs(found["excess_kurtosis"]) < 1
    assert found["largest_in_sd"] == pytest.approx(np.abs(fit.residuals).max() / fit.residuals.std())
    rows = [row for row in balanced_rows() if row[1] % 4 != 1]  # 9 of 36 days away, none of them first or last
    there = gaps(study([*rows, ("p0", 99, "A", None)]))
    assert there["share_of_days_missing"] == pytest.approx(0.25)
    assert there["days_by_treatment"] == {"Baseline": 72, "A": 72, "B": 72}
    assert there["patients_by_treatment"] == {"Baseline": 8, "A": 8, "B": 8}
    assert there["rows_without_severity"] == 1


def test_a_slip_of_the_pen_is_named_however_large(
    study: Callable[..., Study], balanced_rows: Callable[..., Any]
) -> None:
    rows = balanced_rows()
    assert far_off(study(rows)) == []
    assert far_off_warnings([]) == []
    rows[5] = (*rows[5][:3], 100000.0)
    rows[100] = (*rows[100][:3], rows[100][3] + 40)
    found = far_off(study(rows))
    assert [(row["patient"], row["day"], row["treatment"]) for row in found] == [
        ("p0", 5, "Baseline"),
        (rows[100][0], rows[100][1], rows[100][2]),
    ]
    assert found[0]["severity"] == 100000
    assert found[1]["in_sd"] == pytest.approx(40 / 3, rel=0.3)
    (warning,) = far_off_warnings(found)
    assert "'p0' on day 5 (100000), " in warning
    (many,) = far_off_warnings(found * 4)
    assert many.count(" on day ") == 5
    assert " and 3 more; " in many
    # Where most days do not differ at all the yardstick is another one.
    names = ("Baseline", "A")
    flat = [(who, day, names[day // 20], 40.0 + 900 * (day == 7)) for who in "ab" for day in range(40)]
    assert [row["day"] for row in far_off(study(flat))] == [7, 7]
    few = [(who, day, names[day // 20], float(day % 9 == 4) + (day == 13)) for who in "ab" for day in range(40)]
    assert far_off(study(few)) == []


def test_simulated_days_are_not_far_off(study: Callable[..., Study]) -> None:
    assert not any(far_off(study(simulate(Design(autocorrelation=0.8, missing=0.3), seed).rows)) for seed in range(20))
