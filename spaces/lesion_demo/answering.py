"""From pixels to the model's answer: one dictionary, the same keys as everywhere in Lesion Suite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from classifier import MALIGNANT_GROUPS, Classifier
from image_files import ImageUnusableError
from PIL import Image

# The keys that only a model of the suite fills.
NOT_KNOWN = (
    *("aleatoric", "epistemic", "decision", "malignancy", "band"),
    *("prediction_set", "ood_score", "is_ood", "abstain"),
)
NO_NUMBERS = "{} gives no numbers for this image, so that it names no class: its weights may be damaged."
# Kept of the answer at the calibrated prevalence, when another one is assumed.
AT_CALIBRATION = ("predicted", "probabilities", "p_malignant", "band", "prediction_set", "abstain", "reason")
NO_PROMISE = "Nothing is known of how far this model can be trusted."


class OptionError(ValueError):
    """An option that has no such value; the message names the value and what to do."""


@dataclass(frozen=True)
class Options:
    """What a visitor sets beside the image.

    Attributes:
        share: of malignant and premalignant lesions where the model is used, in (0, 1); None = as calibrated.
        record: age, sex, localization and so on, as far as known.
    """

    share: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """An answer and the inputs that it was made from.

    Attributes:
        answer: the dictionary of ``classify``.
        inputs: what the processor made of the image.
        heat: the heat map (H, W) of the class named at the calibrated prevalence; None where the same forward pass
            gave none.
    """

    answer: dict[str, Any]
    inputs: dict[str, torch.Tensor]
    heat: torch.Tensor | None = None


def classify(image: Image.Image, classifier: Classifier, options: Options | None = None) -> dict[str, Any]:
    """The answer of :func:`predict`."""
    return predict(image, classifier, options).answer


def predict(image: Image.Image, classifier: Classifier, options: Options | None = None) -> Prediction:
    """The answer of a model for one image.

    Returns:
        The answer of Lesion Suite's models, with the keys that their cards explain, and ``model`` (its title). Of any
        other model what there is (``predicted``, ``probabilities``, ``p_malignant``, ``predictive_entropy``); the rest
        None. A model that declines at the calibrated prevalence declines at any. With another prevalence
        also ``assumed_share``, and ``at_calibration``: class, set and verdict without that assumption.

    Raises:
        ImageUnusableError: an image that the processor refuses, or for which the model gives no numbers.
        OptionError: an unknown age, site or share.
    """
    options = options or Options()
    inputs = prepare([image], classifier, options.record)
    explained = {"explain": classifier.heat_method} if classifier.explains_in_passing else {}
    answer = _answers(classifier, inputs, **explained)[0]
    heat = answer.pop("heat_map", None)
    if classifier.is_lesion_model and options.share is not None and not answer.get("abstain"):
        kept = {name: answer.get(name) for name in AT_CALIBRATION}
        answer = _answers(classifier, inputs, prior=_prior(classifier, options.share))[0]
        answer |= {"assumed_share": options.share, "at_calibration": kept}
    return Prediction({**answer, "model": classifier.title}, inputs, heat)


def classify_many(images: list[Image.Image], classifier: Classifier) -> list[dict[str, Any]]:
    """Classify several images in one pass, each as :func:`classify` without options.

    Raises:
        ImageUnusableError: one of them is refused.
    """
    inputs = prepare(images, classifier, {})
    return [{**answer, "model": classifier.title} for answer in _answers(classifier, inputs)]


def prepare(images: list[Image.Image], classifier: Classifier, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """RGB images, and what is known beside them, as the model's inputs on its device.

    Raises:
        ImageUnusableError, OptionError: the processor refuses an image, or the record.
    """
    known = {name: value for name, value in record.items() if name in classifier.fields and value not in (None, "")}
    given: Any = [{"image": image, **known} for image in images] if classifier.fields else images
    try:
        inputs = classifier.processor(images=given, return_tensors="pt")
    except ValueError as error:
        if known and type(error).__name__ == "RecordError":
            raise OptionError(str(error)) from error
        raise ImageUnusableError(f"The model cannot use this image: {error}") from error
    if any(len(value) != len(images) for value in inputs.values()):
        raise ImageUnusableError(
            f"The model's image processor does not make one input of each image: {len(images)} images gave "
            f"{', '.join(f'{len(value)} {name}' for name, value in inputs.items())}."
        )
    return {name: value.to(classifier.model.device) for name, value in inputs.items()}


def _answers(classifier: Classifier, inputs: dict[str, torch.Tensor], **options: Any) -> list[dict[str, Any]]:
    """The answers of any model. Where its output is NaN or infinite there is none: an argmax would still name a class.

    Raises:
        ImageUnusableError: an answer that is no numbers.
    """
    try:
        answers = (
            _predict(classifier, inputs, **options) if classifier.is_lesion_model else _from_logits(classifier, inputs)
        )
    except ValueError as error:
        if type(error).__name__ != "NotFiniteError":  # of the code that lies beside the weights
            raise
        raise ImageUnusableError(NO_NUMBERS.format(classifier.title)) from error
    if not all(math.isfinite(share) for answer in answers for share in answer["probabilities"].values()):
        raise ImageUnusableError(NO_NUMBERS.format(classifier.title))
    return answers


def _predict(classifier: Classifier, inputs: dict[str, torch.Tensor], **options: Any) -> list[dict[str, Any]]:
    """The answers of a model of the suite: with its trust where it was fitted, without where it was not."""
    if not hasattr(classifier.model, "check_trust_is_fitted"):
        return classifier.model.predict(**inputs)  # from before there was trust
    if not classifier.trust_is_fitted:
        return classifier.model.predict(**inputs, trust=False, **options)
    return classifier.model.predict(**inputs, prepared_as=classifier.processor.pixel_settings(), **options)


def _prior(classifier: Classifier, share: float) -> dict[str, float]:
    """The class frequencies at a share.

    Raises:
        OptionError: it is no share, or the model has no calibrated one.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.001 <= share <= 0.999:
        raise OptionError(f"The prevalence is {share!r}; give a share from 0.001 to 0.999.")
    if classifier.calibrated_share is None:
        raise OptionError(
            f"{classifier.title} cannot be used at another prevalence: how frequent its classes were is not known."
        )
    return classifier.prior_at(float(share))


@torch.inference_mode()
def _from_logits(classifier: Classifier, inputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """The same answers from any image classifier of transformers, by a plain softmax."""
    probs = classifier.model(**inputs).logits.double().softmax(-1).cpu()
    answers = []
    for row in probs:
        probabilities = dict(zip(classifier.labels, row.tolist(), strict=True))
        at_risk = [p for label, p in probabilities.items() if classifier.groups.get(label) in MALIGNANT_GROUPS]
        answers.append(
            {
                "predicted": classifier.labels[int(row.argmax())],
                "probabilities": probabilities,
                "p_malignant": sum(at_risk) if classifier.groups else None,
                "predictive_entropy": float(torch.special.entr(row).sum()),
                **dict.fromkeys(NOT_KNOWN),
                "reason": "not_our_model",
                "message": NO_PROMISE,
            }
        )
    return answers


def entropy_share(nats: float, classes: int) -> float:
    """An entropy in nats as a share of its maximum, log C: 0 = certain, 1 = all classes alike."""
    return min(1.0, nats / math.log(classes)) if classes > 1 else 0.0
