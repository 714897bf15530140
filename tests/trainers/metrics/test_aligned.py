"""Several models' predictions on the same images: order, classes and lesions brought together, or refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers.metrics.aligned import align, merged_groups
from trainers.metrics.predictions import Predictions


@pytest.fixture
def three() -> Predictions:
    ids = np.array(["i1", "i2", "i3"], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=np.array(["x", "x", "y"], dtype=object),
        group_id=np.array(["x", "x", "y"], dtype=object),
        label=np.array([0, 1, 2]),
        logits=np.arange(9.0).reshape(3, 1, 3),
        labels=["nv", "mel", "df"],
        label_names={},
        label_groups={"mel": "malignant"},
        split="test",
    )


def test_rows_and_classes_come_in_the_first_ones_order(three):
    order = [2, 0, 1]  # df, nv, mel
    other = replace(
        three.select(np.array([2, 0, 1])),
        labels=["df", "nv", "mel"],
        label=np.array([0, 1, 2]),
        logits=three.logits[[2, 0, 1]][:, :, order] + 100,
    )
    first, second = align([("a", three), ("b", other)])
    assert second.image_id.tolist() == ["i1", "i2", "i3"]
    assert second.labels == first.labels == ["nv", "mel", "df"]
    assert second.label.tolist() == [0, 1, 2]
    assert (second.logits == three.logits + 100).all()
    assert second.group_id.tolist() == ["x", "x", "y"]


def test_other_images_are_refused_with_their_numbers_or_left_out(three):
    other = replace(three.select(np.array([1, 2])), image_id=np.array(["i2", "i9"], dtype=object))
    with pytest.raises(UserError, match="1 shared, 2 only in a, 1 only in b: add --shared"):
        align([("a", three), ("b", other)])
    first, second = align([("a", three), ("b", other)], shared=True)
    assert first.image_id.tolist() == second.image_id.tolist() == ["i2"]
    assert first.logits.tolist() == second.logits.tolist() == [[[3.0, 4.0, 5.0]]]


@pytest.mark.parametrize("shared", [False, True])
def test_no_common_image_is_refused(three, shared):
    other = replace(three, image_id=np.array(["j1", "j2", "j3"], dtype=object))
    with pytest.raises(UserError, match="no image in common"):
        align([("a", three), ("b", other)], shared=shared)


def test_other_classes_other_truths_and_doubles_are_refused(three):
    with pytest.raises(UserError, match="b has the classes nv, mel, vasc, a has nv, mel, df"):
        align([("a", three), ("b", replace(three, labels=["nv", "mel", "vasc"]))])
    with pytest.raises(UserError, match=r"'i2' is 'mel' in a and 'df' in b \(1 such"):
        align([("a", three), ("b", replace(three, label=np.array([0, 2, 2])))])
    with pytest.raises(UserError, match="b holds image 'i1' twice"):
        align([("a", three), ("b", replace(three, image_id=np.array(["i1", "i1", "i3"], dtype=object)))])
    with pytest.raises(UserError, match="a holds no image"):
        align([("a", three.select(np.zeros(3, dtype=bool)))])


def test_groups_that_differ_are_merged():
    one, other = np.array(["a", "a", "b", "c", "d"]), np.array(["1", "2", "2", "3", "4"])
    merged = merged_groups([one, other]).tolist()
    # a holds 0 and 1, "2" holds 1 and 2.
    assert merged[0] == merged[1] == merged[2]
    assert len({merged[0], merged[3], merged[4]}) == 3
    assert merged_groups([one, one.copy()]).tolist() == one.tolist()


def test_the_one_without_a_common_image_is_named(three):
    other = replace(three, image_id=np.array(["j1", "j2", "j3"], dtype=object))
    with pytest.raises(UserError, match=r"^b and a have no image in common"):
        align([("a", three), ("b", other)])
    with pytest.raises(UserError, match=r"^b holds no image"):
        align([("a", three), ("b", other.select(np.array([], dtype=int)))], shared=True)
    left, right = three.select(np.array([0])), three.select(np.array([1]))
    with pytest.raises(UserError, match=r"^a, b, c have no image in common"):
        align([("a", three), ("b", left), ("c", right)], shared=True)
