"""The section on shortcuts, on invented predictions whose values are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainers.evaluation.shortcuts import by_chance, rows_of, shortcut_section
from trainers.metrics.predictions import Predictions

TRUST: dict[str, Any] = {"temperature": {"kind": "scalar", "value": 2.0}}


def shown(rows: Predictions, kind: str, logits: np.ndarray | None = None) -> Predictions:
    """The same images under one condition, whose lesion was found by its mask."""
    named = {"shortcut": np.full(len(rows), kind, dtype=object), "framed_by": np.full(len(rows), "mask", dtype=object)}
    return replace(rows, logits=rows.logits if logits is None else logits, columns=rows.columns | named)


def both(*parts: Predictions) -> Predictions:
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return replace(parts[0], **joined, columns=columns)


def test_what_is_lost_and_kept(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(200, strength=3.0)
    blind = np.zeros_like(clean.logits)  # always the first class, and one score of malignancy for all
    found = clean.select(np.arange(len(clean)) >= 10)
    changed = both(shown(found, "lesion_hidden", blind[10:]), shown(clean, "ruler"))
    section = shortcut_section(clean, changed, TRUST, ["lesion_hidden", "ruler", "ink"], len(clean), replicates=200)
    gone, same, absent = section["conditions"]
    assert (gone["n"], gone["left_out"], section["framed_by"]["mask"]) == (len(found), 10, len(clean))
    assert gone["accuracy"]["value"] == pytest.approx((found.label == 0).mean(), abs=1e-6)
    right = found.logits.mean(axis=1).argmax(axis=1) == found.label
    assert gone["lost"]["accuracy"]["value"] == pytest.approx(right.mean() - (found.label == 0).mean(), abs=2e-6)
    assert gone["auroc_malignant"]["value"] == 0.5
    assert (gone["kept"]["value"], gone["kept"]["above_chance"]) == (0.0, False)
    assert gone["lost"]["auroc_malignant"]["low"] > 0.2
    assert (same["kept"]["value"], same["kept"]["above_chance"]) == (1.0, True)
    assert same["lost"]["auroc_malignant"]["value"] == 0.0
    assert same["accuracy"] == section["clean"]["accuracy"]
    assert absent == {"kind": "ink", "n": 0, "n_groups": 0, "left_out": len(clean)}


def test_chance_is_that_of_the_most_frequent_class(make_predictions: Callable[..., Predictions]) -> None:
    rows = make_predictions(60)
    label = np.zeros(len(rows), dtype=np.int64)
    label[: len(rows) // 4] = 3
    chance = by_chance(replace(rows, label=label))
    share = 1 - (len(rows) // 4) / len(rows)
    assert chance == {"accuracy": pytest.approx(share, abs=1e-6), "balanced_accuracy": 0.5, "auroc_malignant": 0.5}


def test_metadata_are_of_another_model(make_predictions: Callable[..., Predictions]) -> None:
    """Their probabilities have temperature 1, and no gate has scored them."""
    clean = make_predictions(80)
    section = shortcut_section(clean, shown(clean, "metadata_alone"), TRUST, ["metadata_alone"], len(clean))
    (row,) = section["conditions"]
    assert "accepted" not in row
    assert row["accuracy"] == section["clean"]["accuracy"]
    assert row["ece_debiased"]["value"] != section["clean"]["ece_debiased"]["value"]


def test_other_images_are_refused(make_predictions: Callable[..., Predictions]) -> None:
    clean = make_predictions(20)
    with pytest.raises(ValueError, match="'ruler' holds other images"):
        rows_of(clean, clean.select(np.array([3, 1])), "ruler")


def test_the_share_kept_is_near_the_truth(make_predictions: Callable[..., Predictions]) -> None:
    """Scores of malignancy are normal; without the lesion half of the distance remains: AUROC 0.921 and 0.760."""
    rng = np.random.default_rng(0)
    base = make_predictions(3000, labels=["nv", "mel"])
    rows = base.select(np.unique(base.lesion_id, return_index=True)[1])
    noise = rng.normal(size=len(rows))
    logits = [np.stack([np.zeros(len(rows)), 2 * shift * rows.label + noise], 1)[:, None] for shift in (1.0, 0.5)]
    clean = replace(rows, logits=logits[0])
    section = shortcut_section(clean, shown(clean, "box_hidden", logits[1]), TRUST, ["box_hidden"], len(clean))
    found = section["conditions"][0]["kept"]
    truth = (0.76025 - 0.5) / (0.92135 - 0.5)
    assert found["low"] < truth < found["high"]
    assert found["above_chance"]
