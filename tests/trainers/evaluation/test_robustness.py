"""Robustness on invented predictions whose losses are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.evaluation.figures.robustness import draw_robustness
from trainers.evaluation.robustness import by_condition, robustness_section, view_section
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
    painted: None, make_predictions: Callable[..., Predictions], tmp_path: Path
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


def seen(rows: Predictions, wrong: int, name: str, lesion: str = "whole") -> Predictions:
    """The same images in a view in which the first ``wrong`` right answers are wrong."""
    same = turned(rows, wrong, name)
    columns = {"view": same.columns["corruption"], "framed_by": "mask", "lesion_seen": lesion}
    made = {column: np.full(len(rows), value, dtype=object) for column, value in columns.items() if column != "view"}
    return replace(same, columns={**rows.columns, **made, "view": columns["view"]})


def recall_lost(rows: Predictions, wrong: int) -> float:
    """The balanced accuracy that ``seen`` takes."""
    right = np.flatnonzero(rows.logits.mean(axis=1).argmax(axis=1) == rows.label)[:wrong]
    classes = np.unique(rows.label)
    return float(np.mean([(rows.label[right] == c).sum() / (rows.label == c).sum() for c in classes]))


def test_the_spread_of_views_is_highest_minus_lowest_on_the_same_images(
    make_predictions: Callable[..., Predictions],
) -> None:
    clean = make_predictions()
    lost = {"1:1": 0, "3:4": 30, "4:3": 10, "16:9": 20}
    viewed = together(*(seen(clean, wrong, f"aspect {name}") for name, wrong in lost.items()))
    found = view_section(clean, viewed, PLAIN_TRUST, ["aspect"], len(clean), replicates=200)
    assert [row["setting"] for row in found["settings"]] == list(lost)
    assert [row["lost"]["value"] for row in found["settings"]] == pytest.approx(
        [recall_lost(clean, wrong) for wrong in lost.values()], abs=1e-6
    )
    spread, whole = found["spreads"]
    assert (spread["lesions"], whole["lesions"]) == ("all", "whole")
    assert spread["value"] == whole["value"] == pytest.approx(recall_lost(clean, 30), abs=1e-6)
    assert spread["low"] < spread["value"] < spread["high"]
    assert 0 < spread["by_chance"] < spread["value"]
    assert spread["goal"] == 0.02
    assert found["framed_by"] == {"mask": len(clean), "box": 0, "centre": 0}


def test_only_images_with_a_whole_lesion_count_for_the_second_spread(
    make_predictions: Callable[..., Predictions],
) -> None:
    clean = make_predictions()
    square, wide = (seen(clean, wrong, f"aspect {name}") for name, wrong in (("1:1", 0), ("16:9", 30)))
    first = np.arange(len(clean)) < len(clean) // 2
    wide.columns["lesion_seen"][first] = "cut"
    viewed = together(square, wide, seen(clean, 0, "aspect 3:4"), seen(clean, 0, "aspect 4:3"))
    found = view_section(clean, viewed, PLAIN_TRUST, ["aspect"], len(clean), replicates=20)
    assert [row["cut"] for row in found["settings"]] == [0, 0, 0, first.sum()]
    spread, whole = found["spreads"]
    assert (spread["n"], whole["n"]) == (len(clean), (~first).sum())
    assert spread["value"] > 0
    assert whole["value"] == 0, "the 30 wrong answers are among the first half"


def test_a_scale_leaves_out_what_cannot_be_shown(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(120)
    lesions = clean.group_id[np.sort(np.unique(clean.group_id, return_index=True)[1])]
    few, half = (np.isin(clean.group_id, lesions[:n]) for n in (10, 60))
    viewed = together(
        seen(clean.select(few), 0, "scale 50"), seen(clean.select(half), 0, "scale 75"), seen(clean, 9, "scale 100")
    )
    found = view_section(clean, viewed, PLAIN_TRUST, ["scale"], len(clean) + 5, replicates=20)
    assert [row["n_groups"] for row in found["settings"]] == [0, 10, 60, 120]
    assert [row["left_out"] for row in found["settings"]] == [
        len(clean) + 5, len(clean) + 5 - few.sum(), len(clean) + 5 - half.sum(), 5
    ]  # fmt: skip
    assert "lost" not in found["settings"][0]
    (spread,) = found["spreads"]
    assert spread["settings"] == ["75", "100"], "ten lesions are too few"
    assert (spread["n"], spread["n_groups"]) == (half.sum(), 60)
    assert spread["value"] == pytest.approx(recall_lost(clean.select(half), 9), abs=1e-6)
    assert "goal" not in spread


def test_turns_stand_beside_the_images_as_they_are(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(40)
    viewed = together(*(seen(clean, wrong, f"turn {by}") for by, wrong in ((90, 5), (180, 0), (270, 0))))
    found = view_section(clean, viewed, PLAIN_TRUST, ["turn"], len(clean), replicates=20)
    assert [(row["setting"], row["lost"]["value"] > 0) for row in found["settings"]] == [
        ("0", False), ("90", True), ("180", False), ("270", False)
    ]  # fmt: skip
    other = replace(viewed, image_id=viewed.image_id[::-1])
    with pytest.raises(ValueError, match="'turn 90' holds other images"):
        view_section(clean, other, PLAIN_TRUST, ["turn"], len(clean), replicates=20)
