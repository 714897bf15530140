"""Trust fitted again on local lesions: what is kept, what is promised, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers import recalibrate as command
from trainers.evaluation.decisions import decisions
from trainers.metrics.predictions import Predictions
from trainers.trust.halves import divide
from trainers.trust.local import REFITS, fit_on_top, narrowest, needed, refit, table_lines, with_gate_scores
from trainers.trust.options import TrustOptions
from trainers.trust.temperature import calibrated, fit_calibration

LABELS = ["nv", "mel", "bcc"]
GROUPS = {"nv": "benign", "mel": "malignant", "bcc": "malignant"}
OLD: dict[str, Any] = {
    "temperature": {"value": 1.3, "bias": [0.4, -0.3, -0.1], "seed": 0, "split": "calibration"},
    "ood": {"detector": "mahalanobis", "threshold": 2.0, "acceptance": 0.95, "settings": {}, "buffers": {}, "n": 500},
    "fitted_for": {"inference": "plain", "preprocessing": {"do_resize": True}},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
]


def clinic(lesions: int, seed: int, *, confidence: float = 3.0) -> Predictions:
    """One or two images a lesion, answers that are too sure, gate scores far above the threshold."""
    rng = np.random.default_rng(seed)
    of_lesion = rng.choice(3, lesions, p=[0.6, 0.25, 0.15])
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 3, lesions))
    label, n = of_lesion[lesion], len(lesion)
    noise = rng.normal(size=(lesions, 3))[lesion] + 0.3 * rng.normal(size=(n, 3))
    ids = np.array([f"L{index}" for index in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"I{index}" for index in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=confidence * (1.2 * np.eye(3)[label] + noise)[:, None],
        labels=LABELS,
        label_names={name: name for name in LABELS},
        label_groups=GROUPS,
        split="calibration",
        ood_score=9 + rng.normal(size=n),
    )


def test_a_calibration_on_top_is_both_in_one() -> None:
    rows = clinic(150, 1)
    for kind in ("scalar", "bias_corrected"):
        both = fit_on_top(rows, OLD["temperature"], kind, 0)
        before = calibrated(rows.logits, OLD["temperature"])
        step = fit_calibration(before, rows.label, kind, groups=rows.group_id)
        assert both.log_probs(rows.logits) == pytest.approx(step.log_probs(before), abs=1e-9)
        assert both.nll_after < both.nll_before
    kept = fit_on_top(rows, OLD["temperature"], "keep", 0)
    assert (kept.value, kept.kept) == (1.3, True)
    assert kept.bias == pytest.approx(OLD["temperature"]["bias"], abs=1e-9)
    scaled = fit_on_top(rows, {"value": 1.0, "scale": [1.0, 2.0, 0.5], "bias": [0.1, 0.0, -0.1]}, "scalar", 0)
    assert scaled.scale == pytest.approx(np.array([1.0, 2.0, 0.5]) / scaled.value)
    # Answers that are much too sure are worth a temperature; the cross-validated choice finds it.
    assert fit_on_top(clinic(200, 2, confidence=9.0), OLD["temperature"], "auto", 0).value > 2
    assert command.REFITS == REFITS


def test_promises_on_local_lesions_hold_where_the_earlier_did_not() -> None:
    found = []
    for seed in range(12):
        fitted = refit(clinic(120, seed), OLD, TrustOptions(class_conditional=False), date="2026-11-30")
        other = clinic(200, 1000 + seed)
        made = decisions(other, fitted.config)
        found.append([made.accepted.mean(), made.sets[np.arange(len(other)), other.label][made.accepted].mean()])
        assert not (other.ood_score <= OLD["ood"]["threshold"]).any()
    accepted, covered = np.mean(found, axis=0)
    assert accepted == pytest.approx(0.95, abs=0.025)
    assert covered == pytest.approx(0.9, abs=0.025)
    gate = fitted.config["ood"]
    assert (gate["detector"], gate["kept"]["threshold"], gate["sources"]) == ("mahalanobis", 2.0, {})
    assert fitted.config["fitted_for"]["preprocessing"] == {"do_resize": True}


def test_what_is_kept_and_what_is_dropped_is_listed() -> None:
    few = {row["promise"]: row for row in refit(clinic(60, 3), OLD, TrustOptions(), date="").promises}
    assert few["the prediction set holds the true class"]["kept"]
    assert [row["kept"] for name, row in few.items() if name.startswith("wrong in")] == [False, False]
    assert "22 are needed" in few["malignant lesions are flagged"]["reason"]
    assert few["malignant lesions are flagged"]["needed"] == pytest.approx(2 * 22 / 0.95 / 0.4, rel=0.3)
    many = refit(clinic(1200, 4, confidence=1.0), OLD, TrustOptions(moderate_risk=0.2), date="").promises
    assert [row["kept"] for row in many if row["promise"] == "malignant lesions are flagged"] == [True]
    wide = [row for row in many if "moderate" in row["promise"]]
    assert wide[0]["kept"]


def test_what_n_can_promise_by_hand() -> None:
    row = narrowest(200, 0.5, TrustOptions())
    assert (row["malignant"], row["coverage"]) == (47, pytest.approx(95 / 96, abs=1e-6))
    assert row["wrong"] == pytest.approx(1 - 0.1 ** (1 / 95), abs=1e-6)
    assert row["flagged"] == pytest.approx(0.1 ** (1 / 47), abs=1e-6)
    assert (narrowest(100, 0.5, TrustOptions())["wrong"], narrowest(100, 0.0, TrustOptions())["flagged"]) == (
        None,
        None,
    )
    least = needed(TrustOptions(), 0.25)
    assert least == {"sets": 20, "low": 380, "moderate": 186, "flagged": 186}  # 9, 45, 22 and 22 in the second half
    assert needed(TrustOptions(low_missed=1, moderate_missed=1), 0.0)["low"] == 128  # 60 in each half
    assert needed(TrustOptions(), 0.0)["flagged"] is None
    assert table_lines([row], 0.9)[-1] == "| 200 | up to 99.0 % | from 2.4 % | from 4.8 % | up to 95.2 % |"


def test_too_few_lesions_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"12 lesions support no promise .*give about 20 or more"):
        refit(clinic(12, 5), OLD, TrustOptions(), date="")
    with pytest.raises(UserError, match="no promise can be made"):
        refit(clinic(1, 5), OLD, TrustOptions(), date="")


def test_the_gate_that_reads_the_temperature_is_scored_again() -> None:
    rows = clinic(80, 6)
    trust = {**OLD, "ood": {**OLD["ood"], "detector": "max_softmax", "threshold": 0.5}}
    fitted = refit(rows, trust, TrustOptions(), date="", temperature="scalar")
    expected = 1 - rows.probs(fitted.config["temperature"]["value"]).max(axis=1)
    assert with_gate_scores(rows, fitted.config).ood_score == pytest.approx(expected)
    assert 0 < fitted.config["ood"]["threshold"] < 0.67
    assert with_gate_scores(rows, OLD) is rows


def test_a_share_of_the_groups_is_divided_off_whole() -> None:
    rows = clinic(200, 7)
    inside = divide(rows.label, rows.group_id, 0.3, 1)
    assert not set(rows.group_id[inside]) & set(rows.group_id[~inside])
    assert len(set(rows.group_id[inside])) == 60
    shares = [np.mean(rows.label[part] == 0) for part in (inside, ~inside)]
    assert shares[0] == pytest.approx(shares[1], abs=0.06)
    order = np.random.default_rng(0).permutation(len(rows))
    again = divide(rows.label[order], rows.group_id[order], 0.3, 1)
    assert set(rows.group_id[order][again]) == set(rows.group_id[inside])
    assert not divide(rows.label, rows.group_id, 0.0, 1).any()
