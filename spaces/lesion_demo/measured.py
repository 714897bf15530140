"""What the model's own report measured, on lesions that nothing was fitted on; no number stands here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classifier import MALIGNANT_GROUPS, Classifier

MOST_PERCENT = 10  # of a model that is wrong more often than this, smaller probabilities still rank the classes


@dataclass(frozen=True)
class Measured:
    """How the answers of one band did, this band alone; all shares are in [0, 1] and by lesion.

    Attributes:
        split: on which it was measured.
        wrong: share of wrong answers.
        missed: of the lesions at risk that came into the band, the share that was called benign; None where unknown.
        together: share of wrong answers of this band and all surer ones; None where unknown.
    """

    split: str
    wrong: float
    missed: float | None = None
    together: float | None = None


def measured(classifier: Classifier, band: str) -> Measured | None:
    """What the report measured of a band; None where it did not, or of other bands than the model's."""
    evaluation = _part(classifier.report, "trust_evaluation")
    bands = _part(evaluation, "bands")
    limit = _number(_part(_part(classifier.trust, "bands"), band).get("threshold"))
    promised = _part(_part(bands, "promises"), band)
    of_report = _number(promised.get("threshold"))
    if limit is None or of_report is None or not math.isclose(limit, of_report, abs_tol=1e-5):
        return None
    wrong = _share(_part(_part(_part(bands, "bands"), band), "error"))
    if wrong is None:
        return None
    missed = _share(_part(_part(bands, f"missed_in_{band}"), f"of_malignant_in_{band}"))
    return Measured(str(evaluation.get("split") or "test"), wrong, missed, _share(_part(promised, "measured")))


def least_percent(classifier: Classifier) -> int:
    """Whole percent below which no probability is shown: the share of the surest answers that were wrong, rounded up.

    1 where that was not measured.
    """
    found = measured(classifier, "low")
    return 1 if found is None else min(MOST_PERCENT, max(1, math.ceil(round(100 * found.wrong, 6))))


@dataclass(frozen=True)
class Recognised:
    """How images of both kinds were called on one split, each image answered, none declined.

    Attributes:
        split: which one.
        images: of it.
        lesions: of it; None where unknown.
        at_risk: images whose true class is malignant or premalignant.
        found: of these, the ones that were called malignant or premalignant.
        others: all other images.
        cleared: of these, the ones that were called benign.
    """

    split: str
    images: int
    lesions: int | None
    at_risk: int
    found: int
    others: int
    cleared: int

    @property
    def sensitivity(self) -> float:
        """Share of the images at risk that were found."""
        return self.found / self.at_risk

    @property
    def specificity(self) -> float:
        """Share of the other images that were called benign."""
        return self.cleared / self.others


def recognised(classifier: Classifier) -> Recognised | None:
    """Sensitivity and specificity by the report's confusion matrix; None where it has none of these classes."""
    evaluation = _part(classifier.report, "evaluation")
    split = next((name for name in ("test", *evaluation) if _part(evaluation, name)), None)
    if split is None:
        return None
    shown = _part(evaluation, split)
    matrix: Any = _named_by(classifier, split) or shown.get("confusion_matrix")
    listed = _part(classifier.report, "model").get("labels")
    names = [label.get("name") for label in listed if isinstance(label, dict)] if isinstance(listed, list) else []
    risky = [classifier.groups.get(str(name)) in MALIGNANT_GROUPS for name in names]
    if sorted(map(str, names)) != sorted(classifier.labels) or not _is_matrix(matrix, len(names)):
        return None
    if all(risky) or not any(risky):
        return None

    def count(true: bool, called: bool) -> int:
        return sum(
            int(matrix[row][column])
            for row in range(len(names))
            for column in range(len(names))
            if risky[row] is true and risky[column] is called
        )

    found, missed, alarms, cleared = count(True, True), count(True, False), count(False, True), count(False, False)
    if not found + missed or not alarms + cleared:
        return None
    lesions = _number(shown.get("n_groups"))
    total = found + missed + alarms + cleared
    known = None if lesions is None else int(lesions)
    return Recognised(str(split), total, known, found + missed, found, alarms + cleared, cleared)


def _named_by(classifier: Classifier, split: str) -> Any:
    """The confusion matrix of the model's own decision rule, where that is another than the most probable class."""
    evaluation = _part(classifier.report, "trust_evaluation")
    rule, rows = _part(classifier.trust, "decision").get("rule"), _part(evaluation, "decision").get("rules")
    if evaluation.get("split") != split or not isinstance(rows, list):
        return None
    return next(
        (row.get("confusion_matrix") for row in rows if isinstance(row, dict) and row.get("rule") == rule), None
    )


def heat_is_worse_than_centre(classifier: Classifier, method: str) -> bool:
    """Whether the report measured this heat map as less accurate than a fixed map of the centre of the image."""
    explanations = _part(classifier.report, "explanations")
    inside = _part(_part(explanations, "overall"), "inside")
    if explanations.get("method") != method:
        return False
    ends = [_number(_part(_part(inside, name), "minus_blob").get("high")) for name in ("energy", "pointing")]
    return any(end is not None and end < 0 for end in ends)


def sources(classifier: Classifier) -> list[str]:
    """Names of the datasets that the model was evaluated on, as its report has them."""
    return _texts(_part(_part(classifier.report, "provenance"), "dataset").get("sources"))


def attribution(classifier: Classifier) -> list[str]:
    """Who made these datasets."""
    return _texts(_part(_part(classifier.report, "provenance"), "dataset").get("attribution"))


def subgroups(classifier: Classifier, split: str, name: str) -> list[tuple[str, int]]:
    """Value and number of images of one subgroup column of a split, such as ``age``; empty where unknown."""
    rows = _part(_part(_part(classifier.report, "evaluation"), split), "subgroups").get(name)
    found = []
    for row in rows if isinstance(rows, list) else []:
        amount = _number(row.get("n")) if isinstance(row, dict) else None
        if amount is not None:
            found.append((str(row.get("value")), int(amount)))
    return found


def share_answered(classifier: Classifier) -> float | None:
    """Share of the lesions of the test split that the model answered; None where unknown."""
    evaluation = _part(classifier.report, "trust_evaluation")
    return _share(_part(_part(_part(evaluation, "verdicts"), str(evaluation.get("split"))), "answered"))


def _is_matrix(value: Any, size: int) -> bool:
    rows = value if isinstance(value, list) else []
    square = len(rows) == size > 0 and all(isinstance(row, list) and len(row) == size for row in rows)
    return square and all(_number(number) is not None for row in rows for number in row)


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value] if isinstance(value, Sequence) and not isinstance(value, str) else []


def _part(whole: Any, name: str) -> dict[str, Any]:
    part = whole.get(name) if hasattr(whole, "get") else None
    return part if isinstance(part, dict) else {}


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else None


def _share(of: dict[str, Any]) -> float | None:
    """The value of a measured share; None where it is none, or outside [0, 1]."""
    value = _number(of.get("value"))
    return value if value is not None and 0 <= value <= 1 else None
