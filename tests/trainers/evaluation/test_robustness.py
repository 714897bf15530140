"""Robustness on invented predictions whose losses are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.evaluation.figures.robustness import draw_robustness
from trainers.evaluation.robustness import by_condition, robustness_section
from trainers.metrics.predictions import Predictions, read_predictions, write_predictions

PLAIN_TRUST: dict[str, Any] = {"temperature": {"kind": "scalar", "value": 1.0}}


def whole_trust(labels: list[str]) -> dict[str, Any]:
    """Gate, sets and bands as they are stored, with round numbers."""
    band = {"confidence": 0.9, "n": 60}
    return {
        **PLAIN_TRUST,
        "ood": {"detector": "energy", "threshold": 1.0},
        "conformal": {
            "method": "lac",
            "alpha": 0.1,
            "qhat": [0.8] * len(labels),
            "class_conditional": True,
            "settings": {},
            "groups": {name: name for name in labels},
            "n": dict.fromkeys(labels, 20),
        },
        "bands": {"low": {"threshold": 0.3, "risk": 0.05, **band}, "moderate": {"threshold": 0.5, "risk": 0.1, **band}},
        "policy": {"max_set_size": 3},
    }


def turned(rows: Predictions, wrong: int, name: str) -> Predictions:
    """The same images under a corruption that turns the first ``wrong`` right answers into wrong ones."""
    logits = rows.logits.copy()
    right = np.flatnonzero(logits.mean(axis=1).argmax(axis=1) == rows.label)[:wrong]
    logits[right, :, rows.label[right]] = -50.0
    named = np.full(len(rows), name, dtype=object)
    return replace(rows, logits=logits, columns={**rows.columns, "corruption": named})


def together(*parts: Predictions) -> Predictions:
    """Conditions one after the other, as they are stored."""
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits")
    scores = None if parts[0].ood_score is None else np.concatenate([part.ood_score for part in parts])
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    return replace(parts[0], **joined, columns=columns, ood_score=scores)


def test_what_is_lost_is_counted(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions()
    n = len(clean)
    corrupted = together(
        turned(clean, 10, "jpeg 1"),
        turned(clean, 40, "jpeg 2"),
        turned(clean, 0, "hairs 1"),
        turned(clean, 20, "hairs 2"),
    )
    found = robustness_section(clean, corrupted, PLAIN_TRUST, replicates=200)
    assert (found["kinds"], found["severities"], found["n"]) == (["jpeg", "hairs"], [1, 2], n)
    accuracy = found["clean"]["accuracy"]["value"]
    lost = {(c["kind"], c["severity"]): c["drop"]["value"] for c in found["conditions"]}
    assert lost == pytest.approx(
        {("jpeg", 1): 10 / n, ("jpeg", 2): 40 / n, ("hairs", 1): 0, ("hairs", 2): 20 / n}, abs=1e-6
    )
    assert [c["accuracy"]["value"] for c in found["by_severity"]] == pytest.approx(
        [accuracy - 5 / n, accuracy - 30 / n], abs=1e-6
    )
    worst = found["conditions"][1]["drop"]
    assert 0 < worst["low"] < worst["value"] < worst["high"]
    # Paired: where nothing changed there is no doubt about it, whatever the accuracy's own interval.
    assert found["conditions"][2]["drop"]["high"] is None
    assert "answered" not in found["clean"]


def test_with_a_gate_the_promises_are_evaluated_by_lesion(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(60)
    trust = whole_trust(clean.labels)
    clean = replace(clean, ood_score=np.zeros(len(clean)))
    ood = replace(turned(clean, 0, "jpeg 3"), ood_score=np.full(len(clean), trust["ood"]["threshold"] + 1))
    found = robustness_section(clean, together(turned(clean, 5, "jpeg 1"), ood), trust, replicates=50)
    mild, gone = found["conditions"]
    assert found["clean"]["accepted"]["value"] == mild["accepted"]["value"] == 1
    assert gone["accepted"]["value"] == gone["answered"]["value"] == 0
    assert gone["error_low"]["value"] is None
    assert gone["coverage"]["value"] is None
    assert gone["error_answered"]["why"] == "not defined: the model answers none of these"
    # Together: shares of what is left are pooled, so that a condition without answers weighs nothing.
    (one, three) = found["by_severity"]
    assert (one["severity"], three["severity"]) == (1, 3)
    low = found["clean"]["low"]["value"]
    assert 0 < low <= 1
    assert mild["error_low"]["value"] is not None


def test_conditions_are_pooled_by_what_is_left_in_them(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(60)
    trust = whole_trust(clean.labels)
    clean = replace(clean, ood_score=np.zeros(len(clean)))
    first = clean.group_id[0]
    # Under the second corruption the gate lets one lesion through, and the model is wrong about it.
    scores = np.where(clean.group_id == first, 0.0, 2.0)
    logits = clean.logits.copy()
    logits[clean.group_id == first, :, clean.label[0]] = -50.0
    named = {**clean.columns, "corruption": np.full(len(clean), "jpeg 1", dtype=object)}
    few = replace(clean, logits=logits, ood_score=scores, columns=named)
    found = robustness_section(clean, together(turned(clean, 0, "hairs 1"), few), trust, replicates=20)
    all_kept, one_kept = (c["coverage"] for c in found["conditions"])
    assert (all_kept["among"], one_kept["among"]) == (60, 1)
    pooled = found["by_severity"][0]["coverage"]
    assert pooled["among"] == 61
    assert pooled["value"] == pytest.approx((60 * all_kept["value"] + one_kept["value"]) / 61, abs=1e-6)


def test_other_images_than_the_clean_ones_are_refused(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(20)
    with pytest.raises(ValueError, match="'jpeg 1' holds"):
        by_condition(clean, turned(clean, 1, "jpeg 1").select(np.arange(5)))
    with pytest.raises(ValueError, match="name no corruption"):
        by_condition(clean, clean)


def test_the_perturbation_of_an_image_is_stored_and_drawn(
    make_predictions: Callable[..., Predictions], tmp_path: Path
) -> None:
    clean = make_predictions(40)
    corrupted = together(*(turned(clean, 4 * s, f"{kind} {s}") for kind in ("jpeg", "hairs") for s in (1, 2, 3)))
    write_predictions(corrupted, tmp_path / "predictions_test_corrupted.parquet")
    back = read_predictions(tmp_path / "predictions_test_corrupted.parquet")
    assert back.columns["corruption"].tolist() == corrupted.columns["corruption"].tolist()
    report = {"robustness": robustness_section(clean, back, PLAIN_TRUST, replicates=50), "trust": PLAIN_TRUST}
    (drawn,) = draw_robustness(report, {"test": clean}, tmp_path)
    assert (tmp_path / drawn["file"]).stat().st_size > 10_000
    assert "most probable class is right" in drawn["caption"]
    assert "answered" not in drawn["caption"], "there is no trust to speak of"
    assert draw_robustness({"trust": {}}, {}, tmp_path) == []
