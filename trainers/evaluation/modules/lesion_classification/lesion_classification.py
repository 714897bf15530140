"""A local ``evaluate`` module: how well predicted classes match, from the suite's plain functions."""

import datasets
import evaluate

from trainers.metrics import discrimination

_DESCRIPTION = (
    "Accuracy, balanced accuracy, macro and weighted F1 of predicted classes; means over classes with images."
)
_CITATION = "Codella et al., arXiv:1902.03368 (balanced accuracy as the metric of ISIC 2018)"
_INPUTS = """
Args:
    predictions: predicted class indices.
    references: true class indices.
    n_classes: number of classes; by default one more than the highest index seen.
Returns:
    accuracy, balanced_accuracy, macro_f1, weighted_f1: floats in [0, 1], higher is better.
"""


class LesionClassification(evaluate.Metric):
    """Wraps ``trainers.metrics.discrimination``."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, n_classes=None):
        if n_classes is None:
            n_classes = int(max(*predictions, *references)) + 1
        confusion = discrimination.confusion_matrix(references, predictions, n_classes)
        return {
            "accuracy": float(discrimination.accuracy(confusion)),
            "balanced_accuracy": float(discrimination.balanced_accuracy(confusion)),
            "macro_f1": float(discrimination.macro_f1(confusion)),
            "weighted_f1": float(discrimination.weighted_f1(confusion)),
        }
