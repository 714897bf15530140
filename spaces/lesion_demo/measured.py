"""What the model's own report measured of a band, on lesions that nothing was fitted on; no number stands here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from classifier import Classifier


@dataclass(frozen=True)
class Measured:
    """How the answers of one band did, this band alone; all shares are in [0, 1] and by lesion.

    Attributes:
        split: on which it was measured.
        wrong: share of wrong answers.
        missed: of the lesions at risk that came into the band, the share that was called benign; None where unknown.
        missed_of_all: the same lesions as a share of all lesions at risk; None where unknown.
    """

    split: str
    wrong: float
    missed: float | None = None
    missed_of_all: float | None = None


def measured(classifier: Classifier, band: str) -> Measured | None:
    """What the report says of a band; None where it says nothing, or is about other bands than the model's."""
    evaluation = _part(classifier.report, "trust_evaluation")
    bands = _part(evaluation, "bands")
    limit = _number(_part(_part(classifier.trust, "bands"), band).get("threshold"))
    of_report = _number(_part(_part(bands, "promises"), band).get("threshold"))
    if limit is None or of_report is None or not math.isclose(limit, of_report, abs_tol=1e-5):
        return None
    wrong = _number(_part(_part(_part(bands, "bands"), band), "error").get("value"))
    if wrong is None:
        return None
    missed = _part(bands, "missed_in_low") if band == "low" else {}
    return Measured(
        str(evaluation.get("split") or "test"),
        wrong,
        _number(_part(missed, "of_malignant_in_low").get("value")),
        _number(_part(missed, "of_malignant").get("value")),
    )


def _part(whole: Any, name: str) -> dict[str, Any]:
    part = whole.get(name) if hasattr(whole, "get") else None
    return part if isinstance(part, dict) else {}


def _number(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if plain else None
