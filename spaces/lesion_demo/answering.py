"""From an uploaded file to the model's answer: one dictionary, the same keys as everywhere in Lesion Suite."""

from __future__ import annotations

import math
import os
import struct
import zlib
from typing import Any

import torch
from model_loading import Classifier
from PIL import Image

# What Pillow raises for files that are no image, or only the beginning of one.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# What only a model of the suite says.
NOT_KNOWN = ("aleatoric", "epistemic", "band", "prediction_set", "ood_score", "is_ood", "abstain")


class ImageUnusableError(ValueError):
    """An upload that the model cannot look at; the message is fit for the page."""


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open and fully decode an uploaded file; its pixels stay as they are.

    Raises:
        ImageUnusableError: it is empty, damaged or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except _BROKEN as error:
        raise ImageUnusableError(
            "This file cannot be read as an image. It may be damaged or only partly uploaded. "
            "Choose a JPEG or PNG photo and try again."
        ) from error


def classify(path: str | os.PathLike[str], classifier: Classifier) -> dict[str, Any]:
    """Classify one image file.

    Returns:
        The answer of Lesion Suite's models, with the keys that their cards explain, and ``model`` (its title). Of any
        other model what there is (``predicted``, ``probabilities``, ``p_malignant``, ``predictive_entropy``); the rest
        None.

    Raises:
        ImageUnusableError: the file is no image, or one that the processor refuses.
    """
    image, model = read_image(path), classifier.model
    knows_itself = hasattr(model, "predict")  # a model of the suite; its processor takes every kind of image
    try:
        inputs = classifier.processor(images=image if knows_itself else image.convert("RGB"), return_tensors="pt")
    except ValueError as error:
        raise ImageUnusableError(f"The model cannot look at this image: {error}") from error
    answer = model.predict(**inputs, **_asked(classifier))[0] if knows_itself else _from_logits(classifier, inputs)
    return {**answer, "model": classifier.source.title}


def _asked(classifier: Classifier) -> dict[str, Any]:
    """How a model of the suite is to be asked: with its trust where it was fitted."""
    check = getattr(classifier.model, "check_trust_is_fitted", None)
    if check is None:
        return {}  # from before there was trust
    try:
        check()
    except RuntimeError:
        return {"trust": False}
    return {"prepared_as": classifier.processor.pixel_settings()}


@torch.inference_mode()
def _from_logits(classifier: Classifier, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The same answer from any image classifier of transformers, by a plain softmax."""
    inputs = {name: value.to(classifier.model.device) for name, value in inputs.items()}
    probs = classifier.model(**inputs).logits[0].double().softmax(-1).cpu()
    probabilities = dict(zip(classifier.labels, probs.tolist(), strict=True))
    at_risk = [p for label, p in probabilities.items() if classifier.groups.get(label) in ("malignant", "premalignant")]
    return {
        "predicted": classifier.labels[int(probs.argmax())],
        "probabilities": probabilities,
        "p_malignant": sum(at_risk) if classifier.groups else None,
        "predictive_entropy": float(torch.special.entr(probs).sum()),
        **dict.fromkeys(NOT_KNOWN),
        "reason": "not_our_model",
        "message": "Nothing is known of how far this model can be trusted.",
    }


def entropy_share(answer: dict[str, Any]) -> float:
    """Predictive entropy as a share of its maximum, log C nats: 0 = certain, 1 = all classes alike."""
    return min(1.0, answer["predictive_entropy"] / math.log(len(answer["probabilities"])))
