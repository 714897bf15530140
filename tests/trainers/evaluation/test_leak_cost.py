"""The cost of a leak: counted by hand, and found again where it is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trainers.evaluation.leak_cost import Side, leak_cost, markdown
from trainers.metrics.predictions import Predictions


def rows_of(images: list[int], right: np.ndarray, per_lesion: int = 2) -> Predictions:
    """Images whose class is the parity of their lesion, answered right or wrong."""
    lesion = np.array(images) // per_lesion
    label = lesion % 2
    named = np.where(right, label, 1 - label)
    ids = np.array([f"I{image}" for image in images], dtype=object)
    groups = np.array([f"L{number}" for number in lesion], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=groups,
        group_id=groups,
        label=label.astype(np.int64),
        logits=4.0 * np.eye(2)[named][:, None],
        labels=["nv", "mel"],
        label_names={},
        label_groups={"nv": "benign", "mel": "malignant"},
        split="test",
    )


def test_the_parts_by_hand() -> None:
    """Published: 3 of 4 leaked and 2 of 4 clean images right; grouped: 1 of 4 of its own, 2 and 1 of the shared."""
    published = Side(rows_of([0, 2, 4, 6, 8, 10, 12, 14], np.array([1, 1, 1, 0, 1, 0, 1, 0], dtype=bool)), [], 1.0)
    test = rows_of([0, 2, 8, 20], np.array([1, 0, 0, 0], dtype=bool))
    calibration = rows_of([4, 10, 22], np.array([1, 1, 1], dtype=bool))
    found = leak_cost(published, Side(test, [calibration], 1.0), {"L0", "L1", "L2", "L3", "L9"}, replicates=200)
    assert found["leaked_share"] == 0.5
    sides = {name: (side["n"], side["accuracy"]["value"]) for name, side in found["sides"].items()}
    assert list(sides.values()) == [(8, 0.625), (4, 0.75), (4, 0.5), (4, 0.25)]
    assert list(sides) == ["published", "published, leaked", "published, clean", "grouped"]
    gaps = {name: gap["accuracy"]["value"] for name, gap in found["differences"].items()}
    assert gaps == {"total": 0.375, "of leaked images": 0.125, "of the rest": 0.25}
    same = found["same_images"]  # images 0, 2, 4 are leaked, 8 and 10 clean
    assert (same["leaked"]["n"], same["clean"]["n"]) == (3, 2)
    assert same["leaked"]["gain"]["accuracy"]["value"] == pytest.approx(1 - 2 / 3, abs=1e-6)
    assert same["clean"]["gain"]["accuracy"]["value"] == 0.0
    assert same["leak"]["accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    page = "\n".join(markdown(found, "Theirs"))
    assert "50.0 % of the 8 test images" in page
    assert "| published less grouped | +0.375" in page


def test_no_clean_image_is_no_difference() -> None:
    side = Side(rows_of([0, 2, 4, 6], np.ones(4, dtype=bool)), [], 1.0)
    found = leak_cost(side, side, {f"L{n}" for n in range(9)}, replicates=50)
    assert found["differences"]["of the rest"]["accuracy"]["value"] is None
    assert found["same_images"]["leak"]["accuracy"]["value"] is None
    with pytest.raises(ValueError, match="differ"):
        leak_cost(side, Side(rows_of([0], np.ones(1, dtype=bool)).on_malignancy(), [], 1.0), set())


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_the_intervals_hold_the_true_cost(leak: float) -> None:
    """Right with 0.7, with 0.7 + leak where the lesion is known; the answers to a lesion are alike."""
    rng = np.random.default_rng(5)
    inside = 0
    for seed in range(20):
        images = list(range(400))
        known = rng.random(200) < 0.5
        chance = np.repeat(0.7 + leak * known, 2)
        answers = [np.repeat(rng.random(200), 2) for _ in range(2)]
        published = Side(rows_of(images, answers[0] < chance), [], 1.0)
        grouped = Side(rows_of(images, answers[1] < 0.7), [], 1.0)
        trained = {f"L{n}" for n in np.flatnonzero(known)}
        found = leak_cost(published, grouped, trained, replicates=100, seed=seed)["same_images"]["leak"]["accuracy"]
        inside += found["low"] <= leak <= found["high"]
    assert inside >= 16  # of 20 at 95 %: fewer with a chance below 0.003


def test_values_are_those_of_the_metrics(make_predictions: Callable[..., Predictions]) -> None:
    rows = make_predictions(60)
    side = Side(rows, [], 2.0)
    found = leak_cost(side, side, set(), replicates=50)["sides"]["published"]
    right = rows.logits.mean(1).argmax(1) == rows.label
    assert found["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
