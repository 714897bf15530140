"""A local ``evaluate`` module: calibration errors of probabilities, from the suite's plain functions."""

import datasets
import evaluate
import numpy as np

from trainers.metrics import calibration

_DESCRIPTION = "Negative log-likelihood, Brier score (0 to 2), ECE (15 equal-width bins) and debiased ECE."
_CITATION = "Guo et al., ICML 2017 (ECE); Kumar et al., NeurIPS 2019 (debiased ECE); Brier, Mon. Weather Rev. 1950"
_INPUTS = """
Args:
    predictions: (N, C) probabilities, rows sum to 1.
    references: true class indices.
Returns:
    nll (nats), brier, ece, ece_debiased: floats, 0 is best.
"""


class LesionCalibration(evaluate.Metric):
    """Wraps ``trainers.metrics.calibration``."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        probs = np.asarray(predictions, dtype=np.float64)
        labels = np.asarray(references)
        right = probs.argmax(axis=1) == labels
        bins = calibration.reliability_bins(probs.max(axis=1).clip(max=1.0), right)
        # A probability can round to 0; its log is cut off where doubles end.
        logs = np.log(probs.clip(min=np.finfo(np.float64).tiny))
        return {
            "nll": float(calibration.nll(logs, labels)),
            "brier": float(calibration.brier(probs, labels)),
            "ece": float(calibration.ece(bins)),
            "ece_debiased": float(calibration.ece_debiased(bins)),
        }
