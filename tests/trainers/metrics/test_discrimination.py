"""Each metric against a value worked out by hand, then against scikit-learn with sample weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from trainers.metrics import discrimination as dis

# Rows true, columns predicted: 0 -> 2 right, 1 taken for 1; 1 -> 1 right, 1 taken for 2; 2 -> right; 3 has no image.
LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])
CONFUSION = np.array([[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


@pytest.fixture
def confusion():
    return dis.confusion_matrix(LABELS, PREDICTED, 4)


@pytest.fixture(scope="module")
def sample():
    """(labels, probs, weights): 200 images of 5 classes with ties among the scores and whole-number weights."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 200)
    probs = np.round(rng.dirichlet(np.ones(5), 200) + 0.3 * np.eye(5)[labels], 2)
    weights = rng.integers(0, 4, (3, 200))
    return labels, probs / probs.sum(axis=1, keepdims=True), weights


def test_confusion_by_hand(confusion):
    assert confusion.tolist() == CONFUSION.tolist()


def test_accuracy_by_hand(confusion):
    assert dis.accuracy(confusion) == pytest.approx(4 / 6)


def test_recall_by_hand(confusion):
    assert dis.recall(confusion) == pytest.approx([2 / 3, 1 / 2, 1, np.nan], nan_ok=True)


def test_precision_by_hand(confusion):
    assert dis.precision(confusion) == pytest.approx([1, 1 / 2, 1 / 2, np.nan], nan_ok=True)


def test_f1_by_hand(confusion):
    assert dis.f1(confusion) == pytest.approx([4 / 5, 1 / 2, 2 / 3, np.nan], nan_ok=True)


def test_means_by_hand_leave_out_the_class_without_images(confusion):
    assert dis.balanced_accuracy(confusion) == pytest.approx(13 / 18)
    assert dis.macro_f1(confusion) == pytest.approx(59 / 90)
    assert dis.weighted_f1(confusion) == pytest.approx(61 / 90)


def test_a_class_without_images_stays_undefined_when_it_is_predicted():
    confusion = dis.confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    assert np.isnan(dis.f1(confusion)[2])
    assert np.isnan(dis.recall(confusion)[2])
    assert dis.macro_f1(confusion) == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_that_is_never_predicted_has_f1_zero():
    confusion = dis.confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)
    assert dis.f1(confusion) == pytest.approx([2 / 3, 0])
    assert np.isnan(dis.precision(confusion)[1])


def test_auroc_by_hand():
    # Pairs of a positive (.8, .4) and a negative (.6, .4): won, won, lost, tied.
    assert dis.auroc(np.array([1, 0, 1, 0]), np.array([0.8, 0.6, 0.4, 0.4])) == pytest.approx(2.5 / 4)


def test_auroc_of_weights_by_hand():
    # The positive .4 counts three times: wins 1 * 2 of the .8, and per copy of the .4 half a win.
    weights = np.array([1, 1, 3, 1])
    assert dis.auroc(np.array([1, 0, 1, 0]), np.array([0.8, 0.6, 0.4, 0.4]), weights) == pytest.approx(3.5 / 8)


def test_auroc_of_one_kind_is_not_defined():
    assert np.isnan(dis.auroc(np.ones(3, dtype=bool), np.arange(3.0)))
    assert np.isnan(dis.auroc(np.zeros(0, dtype=bool), np.zeros(0)))


@pytest.mark.parametrize(("specificity", "expected"), [(0.0, 1.0), (0.6, 0.75), (0.8, 0.5), (1.0, 0.25)])
def test_sensitivity_by_hand(specificity, expected):
    # 0.8 of five negatives: the threshold must pass .4, the next score up is .45, and two of four positives lie there.
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.15, 0.35, 0.45, 0.6])
    positive = np.array([0] * 5 + [1] * 4)
    assert dis.sensitivity_at_specificity(positive, scores, specificity) == pytest.approx(expected)


def test_sensitivity_when_a_negative_has_the_highest_score():
    found = dis.sensitivity_at_specificity(np.array([1, 0]), np.array([0.2, 0.9]), 1.0)
    assert found == 0.0


def test_sensitivity_of_one_kind_is_not_defined():
    assert np.isnan(dis.sensitivity_at_specificity(np.ones(2, dtype=bool), np.arange(2.0), 0.9))
    assert np.isnan(dis.sensitivity_at_specificity(np.zeros(2, dtype=bool), np.arange(2.0), 0.9))


def test_confusion_metrics_equal_sklearn(sample):
    labels, probs, weights = sample
    predicted = probs.argmax(axis=1)
    confusion = dis.confusion_matrix(labels, predicted, 5, weights)
    for row, weight in enumerate(weights):
        same = {"sample_weight": weight}
        p, r, f, _ = sk.precision_recall_fscore_support(
            labels, predicted, labels=range(5), zero_division=np.nan, **same
        )
        assert confusion[row] == pytest.approx(sk.confusion_matrix(labels, predicted, **same))
        assert dis.accuracy(confusion)[row] == pytest.approx(sk.accuracy_score(labels, predicted, **same))
        assert dis.balanced_accuracy(confusion)[row] == pytest.approx(
            sk.balanced_accuracy_score(labels, predicted, **same)
        )
        assert dis.precision(confusion)[row] == pytest.approx(p, nan_ok=True)
        assert dis.recall(confusion)[row] == pytest.approx(r)
        assert dis.f1(confusion)[row] == pytest.approx(f)
        assert dis.macro_f1(confusion)[row] == pytest.approx(sk.f1_score(labels, predicted, average="macro", **same))
        assert dis.weighted_f1(confusion)[row] == pytest.approx(
            sk.f1_score(labels, predicted, average="weighted", **same)
        )


def test_auroc_equals_sklearn(sample):
    labels, probs, weights = sample
    assert dis.macro_auroc(labels, probs) == pytest.approx(sk.roc_auc_score(labels, probs, multi_class="ovr"))
    found = dis.auroc(labels == 2, probs[:, 2], weights)
    for row, weight in enumerate(weights):
        assert found[row] == pytest.approx(sk.roc_auc_score(labels == 2, probs[:, 2], sample_weight=weight))


def test_macro_auroc_leaves_out_a_class_without_images(sample):
    labels, probs, _ = sample
    rest = labels != 4
    by_hand = np.mean([sk.roc_auc_score(labels[rest] == c, probs[rest, c]) for c in range(4)])
    assert dis.macro_auroc(labels[rest], probs[rest]) == pytest.approx(by_hand)


@pytest.mark.parametrize("specificity", [0.8, 0.9, 0.95])
def test_sensitivity_equals_the_roc_curve_of_sklearn(sample, specificity):
    labels, probs, weights = sample
    found = dis.sensitivity_at_specificity(labels == 1, probs[:, 1], specificity, weights)
    for row, weight in enumerate(weights):
        fpr, tpr, _ = sk.roc_curve(labels == 1, probs[:, 1], sample_weight=weight, drop_intermediate=False)
        assert found[row] == pytest.approx(tpr[1 - fpr >= specificity - 1e-9].max())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"labels span 0\.\.3; expected 0\.\.2"):
        dis.confusion_matrix(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="one prediction a label"):
        dis.confusion_matrix(np.array([0, 1]), np.array([0]), 3)
    with pytest.raises(ValueError, match="one weight per image"):
        dis.confusion_matrix(np.array([0, 1]), np.array([0, 1]), 3, np.ones(3))
    with pytest.raises(ValueError, match="one score per label"):
        dis.auroc(np.array([0, 1]), np.array([0.5]))
    with pytest.raises(ValueError, match=r"specificity 1\.5"):
        dis.sensitivity_at_specificity(np.array([0, 1]), np.array([0.5, 1.0]), 1.5)


# Ascending scores: 0.1 negative; 0.2 positive; 0.3 and 0.4 negative; 0.5 to 0.8 positive.
POSITIVE = np.array([False, True, False, False, True, True, True, True])
SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def test_partial_auroc_by_hand():
    # A fifth of the positives is one of five, missed at a specificity of 1/3: the area is 0.2 * 1/3.
    assert dis.partial_auroc(POSITIVE, SCORES) == pytest.approx(0.2 / 3)
    # The second fifth is missed at a specificity of 1; of all five the area is the AUROC, 13 of 15 pairs.
    assert dis.partial_auroc(POSITIVE, SCORES, 0.6) == pytest.approx(0.2 / 3 + 0.2)
    assert dis.partial_auroc(POSITIVE, SCORES, 0.9) == pytest.approx(0.1 / 3)
    assert dis.partial_auroc(POSITIVE, SCORES, 0.0) == pytest.approx(13 / 15)
    assert dis.partial_auroc(POSITIVE, POSITIVE.astype(float)) == pytest.approx(0.2)
    # One score for all is a line from corner to corner.
    assert dis.partial_auroc(POSITIVE, np.zeros(8)) == pytest.approx(0.02)
    assert np.isnan(dis.partial_auroc(np.ones(3, dtype=bool), SCORES[:3]))
    assert np.isnan(dis.partial_auroc(np.zeros(0, dtype=bool), np.zeros(0)))
    with pytest.raises(ValueError, match="least_tpr 1"):
        dis.partial_auroc(POSITIVE, SCORES, 1.0)


def test_partial_auroc_is_that_of_the_challenge(sample):
    """scikit-learn's max_fpr on flipped labels and scores, taken back from its scale of 0.5 to 1 (McClish 1989)."""
    labels, probs, weights = sample
    found = dis.partial_auroc(labels == 1, probs[:, 1], 0.8, weights)
    for value, counts in zip(found, weights, strict=True):
        scaled = sk.roc_auc_score(labels != 1, 1 - probs[:, 1], sample_weight=counts, max_fpr=0.2)
        chance = 0.5 * 0.2**2
        assert value == pytest.approx(chance + (0.2 - chance) / 0.5 * (scaled - 0.5))


def test_specificity_at_sensitivity_by_hand():
    # All five positives need the threshold 0.2, above which one of three negatives is right; four of them 0.5.
    assert dis.specificity_at_sensitivity(POSITIVE, SCORES, 0.95) == pytest.approx(1 / 3)
    assert dis.specificity_at_sensitivity(POSITIVE, SCORES, 0.8) == pytest.approx(1.0)
    assert dis.specificity_at_sensitivity(POSITIVE, np.zeros(8), 0.8) == pytest.approx(0.0)
    twice = np.array([np.ones(8), [1, 9, 1, 1, 1, 1, 1, 1]])
    assert dis.specificity_at_sensitivity(POSITIVE, SCORES, 0.8, twice) == pytest.approx([1.0, 1 / 3])
    with pytest.raises(ValueError, match=r"sensitivity 1\.5"):
        dis.specificity_at_sensitivity(POSITIVE, SCORES, 1.5)


def test_net_benefit_by_hand():
    # At 0.3 four of five positives and two of three negatives are treated: 4/8 - 2/8 * 3/7. At 0.5 none in vain.
    found = dis.net_benefit(POSITIVE, SCORES, np.array([0.3, 0.5]))
    assert found == pytest.approx([4 / 8 - 2 / 8 * 3 / 7, 4 / 8])
    everyone = dis.net_benefit(POSITIVE, np.ones(8), np.array([0.2, 0.5]))
    assert everyone == pytest.approx([5 / 8 - 3 / 8 / 4, 5 / 8 - 3 / 8])
    assert dis.net_benefit(POSITIVE, np.zeros(8), np.array([0.2])) == pytest.approx([0.0])
    weights = np.array([np.ones(8), [0, 0, 0, 0, 1, 1, 1, 1]])
    assert dis.net_benefit(POSITIVE, SCORES, np.array([0.3]), weights)[:, 0] == pytest.approx([found[0], 1.0])
    with pytest.raises(ValueError, match="thresholds"):
        dis.net_benefit(POSITIVE, SCORES, np.array([1.0]))


def test_the_margins_give_what_the_whole_matrix_gives() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 60))
    weights = rng.integers(0, 3, (4, 60))
    whole = dis.confusion_matrix(labels, predicted, 6, weights)
    margins = dis.margins(labels, predicted, 6, weights)
    for metric in (dis.accuracy, dis.recall, dis.precision, dis.f1, dis.balanced_accuracy, dis.weighted_f1):
        np.testing.assert_array_equal(metric(margins), metric(whole))
