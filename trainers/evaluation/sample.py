"""One set of predictions at one temperature, laid out for the metrics: the bridge from ``Predictions`` to arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.metrics import calibration as cal
from trainers.metrics import discrimination as dis
from trainers.metrics.predictions import Predictions
from trainers.trust.temperature import Calibration, calibrated, log_probs

SPECIFICITIES = ("0.80", "0.90", "0.95")
SENSITIVITIES = ("0.80", "0.90", "0.95")
# Probabilities of malignancy from which somebody might have a lesion cut out: 0.05 accepts 19 in vain for one.
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Sample:
    """Arrays that every metric of a report is a function of; N images, C classes.

    Attributes:
        labels: (N,) true class indices.
        log_probs: (N, C) natural logs of the members' mean probabilities.
        probs: (N, C).
        predicted: (N,) class of the highest probability.
        confidence: (N,) that probability.
        malignant: (N,) bool, true class malignant or premalignant.
        p_malignant: (N,) summed probability of those classes.
        groups: (N,) lesion group ids.
        has_malignant_classes: False when no class of the vocabulary is malignant or premalignant.
    """

    labels: np.ndarray
    log_probs: np.ndarray
    probs: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    malignant: np.ndarray
    p_malignant: np.ndarray
    groups: np.ndarray
    has_malignant_classes: bool

    @classmethod
    def at(cls, predictions: Predictions, temperature: Calibration) -> Sample:
        """Predictions at a temperature, or calibrated by a whole ``config.trust["temperature"]``."""
        logs = log_probs(calibrated(predictions.logits, temperature))
        probs = np.exp(logs)
        columns = predictions.malignant_columns()
        return cls(
            labels=predictions.label,
            log_probs=logs,
            probs=probs,
            predicted=probs.argmax(axis=1),
            # Rounding can lift a sure probability a hair above 1.
            confidence=probs.max(axis=1).clip(max=1.0),
            malignant=np.isin(predictions.label, columns),
            p_malignant=probs[:, columns].sum(axis=1),
            groups=np.asarray(predictions.group_id).astype(str),
            has_malignant_classes=len(columns) > 0,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_groups(self) -> int:
        """Number of lesion groups."""
        return len(np.unique(self.groups))

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool."""
        return self.predicted == self.labels

    def select(self, rows: np.ndarray) -> Sample:
        """The same for a boolean mask of rows."""
        arrays = ("labels", "log_probs", "probs", "predicted", "confidence", "malignant", "p_malignant", "groups")
        return Sample(**{n: getattr(self, n)[rows] for n in arrays}, has_malignant_classes=self.has_malignant_classes)

    def confusion(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(C, C), or (R, C, C) for (R, N) weights; rows true, columns predicted."""
        return dis.confusion_matrix(self.labels, self.predicted, self.probs.shape[1], weights)

    def discrimination(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric of telling classes apart, for (R, N) weights: (R,) each, per-class ones (R, C)."""
        confusion = self.margins(weights)
        by_class = [dis.auroc(self.labels == c, self.probs[:, c], weights) for c in range(self.probs.shape[1])]
        values = {
            **self.brief(weights, confusion),
            "macro_f1": dis.macro_f1(confusion),
            "weighted_f1": dis.weighted_f1(confusion),
            "class_precision": dis.precision(confusion),
            "class_f1": dis.f1(confusion),
            "auroc_macro": dis.mean_defined(np.stack(by_class, axis=-1)),
            "class_auroc": np.stack(by_class, axis=-1),
        }
        for name in SPECIFICITIES:
            values[f"sensitivity@{name}"] = dis.sensitivity_at_specificity(
                self.malignant, self.p_malignant, float(name), weights
            )
        for name in SENSITIVITIES:
            values[f"specificity@{name}"] = dis.specificity_at_sensitivity(
                self.malignant, self.p_malignant, float(name), weights
            )
        values["partial_auroc"] = dis.partial_auroc(self.malignant, self.p_malignant, weights=weights)
        return values

    def decision_curve(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Net benefit of the model, of treating all, and of the model over the better of all and none: (R, K) each."""
        model = dis.net_benefit(self.malignant, self.p_malignant, np.array(THRESHOLDS), weights)
        everyone = dis.net_benefit(self.malignant, np.ones(len(self)), np.array(THRESHOLDS), weights)
        return {"model": model, "treat_all": everyone, "gain": model - np.maximum(everyone, 0.0)}

    def brief(self, weights: np.ndarray, confusion: dis.Margins | None = None) -> dict[str, np.ndarray]:
        """The few metrics that subgroups show, for (R, N) weights: (R,) each."""
        confusion = self.margins(weights) if confusion is None else confusion
        return {
            "accuracy": dis.accuracy(confusion),
            "balanced_accuracy": dis.balanced_accuracy(confusion),
            "auroc_malignant": dis.auroc(self.malignant, self.p_malignant, weights),
        }

    def margins(self, weights: np.ndarray) -> dis.Margins:
        """Those of :meth:`confusion`, for (R, N) weights."""
        return dis.margins(self.labels, self.predicted, self.probs.shape[1], weights)

    def calibration(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every calibration error, for (R, N) weights: (R,) each."""
        bins = cal.reliability_bins(self.confidence, self.correct, weights)
        return {
            "nll": cal.nll(self.log_probs, self.labels, weights),
            "brier": cal.brier(self.probs, self.labels, weights),
            "ece": cal.ece(bins),
            "ece_debiased": cal.ece_debiased(bins),
            "ece_adaptive": cal.ece_adaptive(self.confidence, self.correct, weights),
            "ece_classwise": cal.ece_classwise(self.probs.clip(max=1.0), self.labels, weights),
        }

    def ece(self, weights: np.ndarray) -> np.ndarray:
        """The plain ECE alone, for (R, N) weights: (R,)."""
        return cal.ece(cal.reliability_bins(self.confidence, self.correct, weights))
