"""Coverage and bands of a split by hand, and the interval expected by chance against simulation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from trainers.evaluation.coverage import bands_section, coverage_section, expected_coverage, missed_in_low
from trainers.metrics.intervals import exact_upper
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights

NAMES = ["nv", "df", "mel"]
KINDS = {"nv": "benign", "df": "benign", "mel": "malignant"}
OWN = {"nv": "nv", "df": "df", "mel": "mel"}


def answered(labels: list[int], groups: list[str], names: list[str] = NAMES, **columns: Any) -> Predictions:
    n, ids = len(labels), np.array(groups, dtype=object)
    return Predictions(
        image_id=np.array([f"I{i}" for i in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=np.array(labels, dtype=np.int64),
        logits=np.zeros((n, 1, len(names))),
        labels=list(names),
        label_names={name: name for name in names},
        label_groups={name: KINDS[name] for name in names},
        split="test",
        columns={name: np.array(values) for name, values in columns.items()},
    )


def fitted(groups: dict[str, str], n: dict[str, int], class_conditional: bool = True) -> dict[str, Any]:
    return {"method": "lac", "alpha": 0.1, "class_conditional": class_conditional, "groups": groups, "n": n}


def sets_of(*rows: str) -> np.ndarray:
    """``"nm"`` holds nv and mel."""
    return np.array([[letter in row for letter in "ndm"] for row in rows])


def test_a_lesion_weighs_one_whatever_its_images():
    assert group_weights(np.array(["a", "b", "a", "a", "c"])) == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3, 1])


def test_the_expected_coverage_by_hand():
    # Nine lesions: k = 9, Beta(9, 1). One test lesion is covered with chance 0.9; of two such classes 0, 1 or 2 are
    # with 0.01, 0.18, 0.81, so 2.5 % lie at one half and 97.5 % at all.
    assert expected_coverage([(9, 1)], 0.1) == pytest.approx((0.9, 0.0, 1.0))
    assert expected_coverage([(9, 1), (9, 1)], 0.1) == pytest.approx((0.9, 0.5, 1.0))
    # 19 lesions: k = 18 of 20. Too few lesions cover everything.
    assert expected_coverage([(19, 10)], 0.1)[0] == pytest.approx(0.9)
    assert expected_coverage([(3, 5)], 0.1) == pytest.approx((1.0, 1.0, 1.0))
    assert expected_coverage([(3, 1), (9, 1)], 0.1) == pytest.approx((0.95, 0.5, 1.0))


@pytest.mark.parametrize("parts", [[(50, 40)], [(400, 300), (40, 60), (12, 9)]])
def test_the_expected_coverage_equals_simulation(parts):
    rng = np.random.default_rng(0)
    covered = np.zeros(40_000)
    for n, m in parts:
        k = int(np.ceil((n + 1) * 0.9 - 1e-9))
        covered += rng.binomial(m, beta(k, n + 1 - k).rvs(40_000, random_state=rng))
    shares = covered / sum(m for _, m in parts)
    mean, low, high = expected_coverage(parts, 0.1)
    assert mean == pytest.approx(shares.mean(), abs=0.002)
    assert [low, high] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.02)
    assert np.mean((shares >= low) & (shares <= high)) > 0.945


def test_coverage_by_hand():
    """Lesion a is covered in one of two images, b and d are, c is not: 2.5 of 4."""
    rows = answered([0, 0, 0, 2, 2], ["a", "a", "b", "c", "d"], sex=["male", "male", "male", "female", "male"])
    sets = sets_of("n", "d", "nd", "n", "ndm")
    found = coverage_section(rows, sets, fitted(OWN, {"nv": 40, "df": 12, "mel": 9}))
    assert json.loads(json.dumps(found)) == found
    overall = found["overall"]
    assert (overall["n"], overall["n_groups"], overall["coverage"]["value"]) == (5, 4, 0.625)
    assert overall["coverage"]["method"] == "exact 95 % by lesion"
    # Two lesions on 40 (k = 37 of 41) and two on 9 (k = 9 of 10).
    assert overall["expected"]["value"] == pytest.approx((2 * 37 / 41 + 2 * 0.9) / 4, abs=1e-6)
    assert overall["expected"]["method"] == "beta-binomial, 95 %, calibrated on 40 + 9 lesions"
    assert overall["inside"] is True
    assert overall["mean_set_size"]["value"] == pytest.approx((1 + 2 + 1 + 3) / 4)
    nv, df, mel = found["per_class"]
    assert (nv["coverage"]["value"], nv["expected"]["value"]) == (0.75, pytest.approx(37 / 41, abs=1e-6))
    assert (df["n"], df["coverage"]["why"], df["inside"]) == (0, "not defined: no images", None)
    assert (mel["name"], mel["group"], mel["coverage"]["value"]) == ("mel", "mel", 0.5)
    assert found["set_sizes"] == {"mean": 1.75, "distribution": [0.0, 0.5, 0.25, 0.25], "empty": 0.0, "single": 0.5}
    assert found["promised"] == 0.9
    assert found["without_own_promise"] == []
    by_sex = {row["value"]: row for row in found["subgroups"]["sex"]}
    assert (by_sex["female"]["coverage"]["value"], by_sex["male"]["coverage"]["value"]) == (0.0, pytest.approx(2.5 / 3))
    assert by_sex["unknown"]["n"] == 0


def test_empty_sets_are_counted():
    found = coverage_section(answered([0, 2], ["a", "b"]), sets_of("", "m"), fitted(OWN, {"nv": 20, "df": 9, "mel": 9}))
    assert (found["set_sizes"]["empty"], found["set_sizes"]["single"]) == (0.5, 0.5)


def test_a_coverage_outside_the_interval_is_stated():
    rows = answered([0] * 40, [f"L{i}" for i in range(40)])
    sets = np.zeros((40, 3), dtype=bool)
    sets[:20, 0] = True
    found = coverage_section(rows, sets, fitted(OWN, {"nv": 200, "df": 9, "mel": 9}))
    assert found["overall"]["coverage"]["value"] == 0.5
    assert found["overall"]["expected"]["low"] > 0.7
    assert (found["overall"]["inside"], found["per_class"][0]["inside"]) == (False, False)


def test_pooled_classes_are_evaluated_together():
    pool = "small classes: df, mel"
    config = fitted({"nv": "nv", "df": pool, "mel": pool}, {"nv": 40, pool: 11})
    found = coverage_section(answered([0, 1, 2, 2], list("abcd")), sets_of("n", "d", "m", "n"), config)
    assert found["without_own_promise"] == ["df", "mel"]
    assert (
        found["per_class"][2]["expected"]["why"] == f"not defined: promised on average over {pool}, not for the class"
    )
    assert found["per_class"][2]["inside"] is None
    [together] = found["pools"]
    assert (together["name"], together["n"]) == (pool, 3)
    assert together["coverage"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    # k = ceil(12 * 0.9) = 11.
    assert together["expected"]["value"] == pytest.approx(11 / 12, abs=1e-6)
    assert found["overall"]["inside"] is True


def test_a_class_without_any_promise_has_no_expected_coverage():
    config = fitted({"nv": "nv", "df": "all classes", "mel": "mel"}, {"nv": 40, "all classes": 60, "mel": 15})
    found = coverage_section(answered([0, 1, 2], list("abc")), sets_of("n", "d", "m"), config)
    assert found["pools"] == []
    assert "promises nothing about it" in found["per_class"][1]["expected"]["why"]
    assert found["overall"]["expected"]["why"] == "not defined: these may hold classes without any promise: df"
    assert found["per_class"][0]["expected"]["value"] == pytest.approx(37 / 41, abs=1e-6)


def test_one_threshold_for_all_is_evaluated_on_everyone_alone():
    config = fitted(dict.fromkeys(NAMES, "all classes"), {"all classes": 60}, class_conditional=False)
    found = coverage_section(answered([0, 1, 2], list("abc"), sex=["male"] * 3), sets_of("n", "d", "m"), config)
    assert found["overall"]["expected"]["value"] == pytest.approx(55 / 61, abs=1e-6)
    assert found["per_class"][0]["expected"]["value"] is None
    by_sex = {row["value"]: row for row in found["subgroups"]["sex"]}
    assert by_sex["male"]["expected"]["why"] == "not defined: the promise is an average over all classes"
    assert found["without_own_promise"] == NAMES


BANDS = {
    "low": {"threshold": 0.1, "risk": 0.25, "confidence": 0.9, "n": 70, "errors": 0},
    "moderate": {"threshold": 0.4, "risk": 0.4, "confidence": 0.9, "n": 90, "errors": 9},
}


def test_bands_by_hand():
    """Five lesions; a has two images, one right in low, one wrong in moderate; c is a melanoma called nv in low."""
    rows = answered([0, 0, 0, 2, 2, 0], ["a", "a", "b", "c", "d", "e"])
    predicted = np.array([0, 2, 0, 0, 2, 0])
    bands = np.array(["low", "moderate", "low", "low", "high", "moderate"])
    found = bands_section(rows, bands, predicted, BANDS)
    assert json.loads(json.dumps(found)) == found
    low, moderate, high = (found["bands"][name] for name in ("low", "moderate", "high"))
    assert (low["n"], low["n_groups"], low["share"]["value"]) == (3, 3, 0.5)
    # Weights 0.5 + 1 + 1, of which one lesion is wrong.
    assert (low["error"]["value"], low["error"]["lesions"], low["accuracy"]["value"]) == (0.4, 2.5, 0.6)
    assert (moderate["error"]["value"], high["error"]["value"]) == (pytest.approx(1 / 3, abs=1e-6), 0.0)
    promise = found["promises"]["low"]
    assert promise["wording"] == (
        "at most 25 % expected, with 90 % confidence, on lesions like those it was calibrated on"
    )
    assert (promise["measured"]["value"], promise["kept"], promise["contradicted"]) == (0.4, False, False)
    # Low and moderate together: 1.5 of 4.
    together = found["promises"]["moderate"]
    assert (together["measured"]["value"], together["kept"]) == (0.375, True)
    missed = found["missed_in_low"]
    assert (missed["missed"], missed["of_malignant"]["n"], missed["of_malignant"]["value"]) == (1, 2, 0.5)
    assert (missed["of_malignant_in_low"]["value"], missed["of_benign_answers_in_low"]["value"]) == (1.0, 0.4)
    missed = found["missed_in_moderate"]
    assert (missed["missed"], missed["of_malignant_in_moderate"]["n"]) == (0, 0)
    # The image of e alone, as the other image in moderate is called by the third class.
    assert missed["of_benign_answers_in_moderate"]["value"] == 0.0


def test_the_interval_of_a_band_is_that_of_scipy():
    labels = [0] * 40
    rows = answered(labels, [f"L{i}" for i in range(40)])
    predicted = np.array([2] * 15 + [0] * 25)
    found = bands_section(rows, np.array(["low"] * 40), predicted, BANDS)["promises"]["low"]
    expected = binomtest(15, 40).proportion_ci(0.95, method="exact")
    assert (found["measured"]["low"], found["measured"]["high"]) == pytest.approx(tuple(expected), abs=1e-6)
    # 0.375 measured, its interval from 0.227: above the promised 0.25, but not proven to be.
    assert (found["kept"], found["contradicted"]) == (False, False)
    strict = {name: {**band, "risk": 0.05} for name, band in BANDS.items()}
    assert bands_section(rows, np.array(["low"] * 40), predicted, strict)["promises"]["low"]["contradicted"] is True


def test_missed_lesions_are_counted_among_all_malignant_ones():
    """Lesions a to e are malignant, two images of a; named benign: one of a's, b, c; in low: a's, b."""
    rows = answered([2, 2, 2, 2, 2, 2, 0], ["a", "a", "b", "c", "d", "e", "f"])
    predicted = np.array([0, 2, 0, 0, 2, 2, 0])
    bands = np.array(["low", "low", "low", "moderate", "low", "high", "low"])
    second = {"missed_risk": 0.25, "n_malignant": 30, "limited_by": "missed"}
    fitted_bands = {name: {**band, **second} for name, band in BANDS.items()}
    promises = bands_section(rows, bands, predicted, fitted_bands)["promises"]
    low, moderate = (promises[name]["missed"] for name in ("low", "moderate"))
    assert (low["measured"]["value"], low["measured"]["lesions"], low["risk"]) == (0.3, 5, 0.25)
    assert (moderate["measured"]["value"], low["kept"], low["contradicted"]) == (0.5, False, False)
    expected = tuple(beta.ppf(q, k, 6.0 - k + more) for q, k, more in ((0.025, 1.5, 0), (0.975, 2.5, 0)))
    assert (low["measured"]["low"], low["measured"]["high"]) == pytest.approx(expected, abs=1e-6)
    fitted_bands["low"] |= {"threshold": None, "reason": "too few"}
    found = bands_section(rows, bands, predicted, fitted_bands)["promises"]["low"]["missed"]
    assert (found["measured"]["why"], found["kept"]) == ("not defined: the band is empty", None)
    assert "missed" not in bands_section(rows, bands, predicted, BANDS)["promises"]["low"]


def test_an_empty_band_says_why():
    nothing = {**BANDS, "low": {**BANDS["low"], "threshold": None, "reason": "3 of 61 lesions are wrong"}}
    found = bands_section(answered([0, 2], ["a", "b"]), np.array(["high", "high"]), np.array([0, 2]), nothing)
    promise = found["promises"]["low"]
    assert promise["wording"] == "nothing is promised: 3 of 61 lesions are wrong"
    assert (promise["kept"], promise["contradicted"], promise["measured"]["value"]) == (None, None, None)
    assert found["bands"]["low"]["error"] == {"value": None, "why": "not defined: no image"}
    assert found["promises"]["moderate"]["kept"] is None
    assert found["missed_in_low"]["of_malignant_in_low"] == {"n": 0, "value": None, "upper": 1.0}


def test_without_malignant_classes_none_can_be_missed():
    rows = answered([0, 1], ["a", "b"], names=["nv", "df"])
    found = bands_section(rows, np.array(["low", "low"]), np.arange(2), BANDS)["missed_in_low"]
    assert found == {"value": None, "why": "not defined: no class of this vocabulary is malignant or premalignant"}


def test_bad_input_is_named():
    rows = answered([0, 2], ["a", "b"])
    config = fitted(OWN, {"nv": 40, "df": 12, "mel": 9})
    with pytest.raises(ValueError, match=r"sets have shape \(2, 2\); expected \(2, 3\)"):
        coverage_section(rows, np.ones((2, 2)), config)
    with pytest.raises(ValueError, match=r"expected \(0, 3\), N above 0"):
        coverage_section(answered([], []), np.ones((0, 3)), config)
    with pytest.raises(ValueError, match=r"\(1,\) bands"):
        bands_section(rows, np.array(["low"]), np.arange(2), BANDS)
    with pytest.raises(ValueError, match="at least one image"):
        bands_section(answered([], []), np.array([]), np.array([]), BANDS)
    with pytest.raises(ValueError, match="hold no test lesion"):
        expected_coverage([], 0.1)
    with pytest.raises(ValueError, match="alpha 2"):
        expected_coverage([(9, 1)], 2)
    with pytest.raises(ValueError, match="at least one image"):
        missed_in_low([], [], [])
    with pytest.raises(ValueError, match="shapes"):
        missed_in_low([True], [True, False], [True])


def test_missed_in_low_by_hand():
    malignant = np.array([True] * 5 + [False] * 5)
    benign = np.array([True, True, True, False, False, True, True, True, True, False])
    low = np.array([True, False, True, True, False, True, True, True, False, True])
    found = missed_in_low(malignant, benign, low)
    assert found["missed"] == 2
    assert found["of_malignant"] == {"n": 5, "value": 0.4, "upper": pytest.approx(exact_upper(2, 5))}
    assert found["of_malignant_in_low"] == {"n": 3, "value": pytest.approx(2 / 3), "upper": exact_upper(2, 3)}
    assert found["of_benign_answers_in_low"] == {"n": 5, "value": 0.4, "upper": exact_upper(2, 5)}


def test_missed_in_low_weighs_images_of_a_lesion():
    # Three images of one lesion, one of them missed, and one lesion of a single image.
    found = missed_in_low([True] * 4, [True, False, False, False], [True] * 4, weights=[1 / 3, 1 / 3, 1 / 3, 1])
    assert found["of_malignant"]["n"] == pytest.approx(2)
    assert found["of_malignant"]["value"] == pytest.approx(1 / 6)


def test_without_malignant_lesions_nothing_is_known_about_them():
    found = missed_in_low([False], [True], [True])
    assert found["of_malignant"] == {"n": 0, "value": None, "upper": 1.0}
