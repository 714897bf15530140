"""The default inference, against scipy's paired t test and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm, ttest_rel
from statsmodels.stats.multitest import multipletests

from trainers.longitudinal.patient_means import differences, holm, interval, patient_level
from trainers.longitudinal.study import Study


def test_it_is_the_paired_t_test_on_the_patients_means(simulated: Study) -> None:
    for index in (1, 2):
        means = simulated.cell_means()
        expected = ttest_rel(means[:, index], means[:, 0])
        found = patient_level(simulated, index, 0.9)
        low, high = expected.confidence_interval(0.9)
        assert found.estimate == pytest.approx((means[:, index] - means[:, 0]).mean())
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
        assert found.p == pytest.approx(expected.pvalue)
        assert found.freedom == 9


def test_by_hand(study: Callable[..., Study]) -> None:
    rows = [(who, 1, "Baseline", 10.0) for who in "abcd"]
    rows += [(who, 2, "A", 10 + x) for who, x in zip("abc", (-1.0, -2.0, -3.0), strict=True)] + [("d", 2, "B", 1.0)]
    found = study(rows)
    assert differences(found, 1)[:3].tolist() == [-1, -2, -3]
    assert math.isnan(differences(found, 1)[3])
    effect = patient_level(found, 1, 0.95)
    # sd 1 over three patients; t of 2 degrees of freedom is 4.3027.
    assert effect.standard_error == pytest.approx(1 / math.sqrt(3))
    assert effect.low == pytest.approx(-2 - 4.3027 / math.sqrt(3), abs=1e-4)
    # One patient has days under B: no estimate is possible.
    withheld = patient_level(found, 2, 0.95)
    assert withheld.estimate is withheld.low is withheld.high is withheld.p is None
    assert withheld.withheld == "one patient has days under it and the baseline, two are needed"


def test_every_patient_counts_once_however_long_the_phases(study: Callable[..., Study]) -> None:
    rows = [("a", day, "Baseline" if day < 50 else "A", 20.0 if day < 50 else 10.0) for day in range(100)]
    rows += [("b", 0, "Baseline", 20.0), ("b", 1, "A", 40.0)]
    assert patient_level(study(rows), 1, 0.95).estimate == pytest.approx(5)


def test_patients_who_all_differ_alike_leave_the_spread_unknown(study: Callable[..., Study]) -> None:
    rows = [
        (who, day, "Baseline" if day < 3 else "A", x + day)
        for who, x in (("a", 1.1), ("b", 7.3))
        for day in (1, 2, 3, 4)
    ]
    found = patient_level(study(rows), 1, 0.95)
    assert found.estimate is None
    assert "all patients differ by the same number" in found.withheld


def test_a_normal_interval_and_its_p() -> None:
    found = interval(-2.0, 1.0, None, 0.95)
    assert (found.low, found.high) == (pytest.approx(-3.95996, abs=1e-5), pytest.approx(-0.04004, abs=1e-5))
    assert found.p == pytest.approx(2 * norm.cdf(-2))


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.04, 0.001, 0.5, 0.03, 0.04]
    expected = multipletests(p, method="holm")[1]
    assert holm(p) == pytest.approx(expected)
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]
    assert holm([]) == []
    assert np.all(np.array(holm([0.9, 0.8])) == 1)
