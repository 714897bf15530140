"""The pipeline of lesion classifiers: images or records in, the whole answer in words out.

``pipeline(model=FOLDER_OR_REPO, trust_remote_code=True)`` gives this one: a repo's config names it as its own task. The
stock task ``image-classification`` keeps working on images, with its usual label and score.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Pipeline

from .checks_lesion import IMAGE, RecordError
from .groups_lesion import GROUP, group_of_record
from .image_processing_pixels import single_image

PIPELINE_TASK = "lesion-classification"


class LesionClassificationPipeline(Pipeline):
    """The answer of the model's :meth:`predict` for each input.

    An input is an image (PIL image, array, path or address), or a record ``{"image": ..., "age": ..., "sex": ...,
    "localization": ...}`` with any of the last three left out. An image alone is a record with all else unknown.
    One input gives one answer. N images give N answers in their order: a list, tuple, column of a dataset or array
    (N, H, W, C) gives a list, also where such things stand within one another; a generator or a dataset of torch gives
    an iterator. A record of N images is N records, whose other values are N each or one for all. ``batch_size``
    is the number of images in one pass of the model; ``trust``, ``inference``, ``prior``, ``decision`` and ``group``
    are as in ``predict``. Where trust was fitted by group, the group of a record is its value of ``group``, or of the
    key that the groups were read from, such as ``age``.

    Raises:
        ImageCountError: an item of a dataset of torch holds several images.
        TrustNotFittedError: trust is not fitted; ``trust=False`` answers without.
        RecordError: a record is not what it should be, or lacks the image that the model reads.
        UnreadableImageError: a file is cut short, damaged or no image.
    """

    _load_processor: Any = False
    _load_image_processor: Any = True
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    model: Any
    image_processor: Any

    def _sanitize_parameters(
        self,
        trust: bool | None = None,
        inference: str | None = None,
        prior: Any = None,
        decision: str | None = None,
        group: Any = None,
        **pipeline_parameters: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The parameters of each step: those of :meth:`predict` of the model."""
        if pipeline_parameters:
            raise TypeError(
                f"{', '.join(pipeline_parameters)} was given; this pipeline takes trust, inference, prior, decision, "
                "group, batch_size."
            )
        options = {"trust": trust, "inference": inference, "prior": prior, "decision": decision, GROUP: group}
        return {}, {name: value for name, value in options.items() if value is not None}, {}

    def __call__(self, inputs: Any, *args: Any, **parameters: Any) -> Any:
        """The answer of one input, or the answers of several; the class describes both."""
        inputs, as_list = several_inputs(inputs)
        answers = super().__call__(inputs, *args, **parameters)
        return list(answers) if as_list else answers

    def preprocess(self, input_: Any, **_: Any) -> Any:
        """One image or record -> the model's inputs, a batch of one."""
        groups, index = self.model.config.trust.get("groups"), -1
        if groups:
            input_, index = group_of_record(input_, groups)
        if not isinstance(input_, Mapping):
            input_ = single_image(input_, "an input")
        inputs = self.image_processor(input_, return_tensors="pt")
        if groups:
            inputs[GROUP] = torch.tensor([index])
        return inputs

    def _forward(self, input_tensors: Any, **options: Any) -> Any:
        """A batch -> an answer a row; a dictionary, so that transformers can split a batch."""
        prepared_as = self.image_processor.pixel_settings()
        return {"answers": self.model.predict(**{**input_tensors, **options}, prepared_as=prepared_as)}

    def postprocess(self, model_outputs: Any, **_: Any) -> dict[str, Any]:
        """The answer of one input."""
        answers = model_outputs["answers"]
        if not isinstance(answers, list):  # of a batch that transformers took apart
            return answers
        (answer,) = answers
        return answer


def several_inputs(inputs: Any) -> tuple[Any, bool]:
    """The inputs in a form that transformers iterates over, and whether the answers are returned as a list.

    transformers takes lists, generators and datasets of torch apart, and anything else for a single input.
    """
    if isinstance(inputs, Dataset) and not (isinstance(inputs, Sized) and len(inputs) == 0):
        return inputs, False
    parts = parts_of(inputs)
    if parts is None:
        return inputs, False
    if isinstance(inputs, (list, Mapping)):
        flat = list(flattened(parts))
        return (flat, False) if flat else (iter_over(flat), True)
    # One at a time: a column of a dataset decodes an image when it is read.
    return iter_over(flattened(parts)), isinstance(inputs, Sized)


def parts_of(inputs: Any) -> Iterable[Any] | None:
    """What an input of several images consists of, such as the rows of an array (N, H, W, C); None for a single input.

    Raises:
        RecordError: a record of N images has another number of some other value.
    """
    if isinstance(inputs, Mapping):
        image: Any = inputs.get(IMAGE)
        images = parts_of(image)
        if images is None or (getattr(image, "ndim", 0) == 4 and len(image) == 1):
            return None  # one image
        images = list(flattened(images))
        # Lists, arrays and columns of tables alike.
        many = {key: list(value) for key, value in inputs.items() if key != IMAGE and is_several(value)}
        for key, value in many.items():
            if len(value) != len(images):
                raise RecordError(f"a record has {len(images)} images and {len(value)} values of {key}; give as many.")
        return [
            {**inputs, IMAGE: image, **{key: value[number] for key, value in many.items()}}
            for number, image in enumerate(images)
        ]
    if isinstance(inputs, (str, bytes, os.PathLike)) or not isinstance(inputs, Iterable) or hasattr(inputs, "read"):
        return None
    if hasattr(inputs, "columns") and hasattr(inputs, "to_dict"):  # a table of pandas: a record a row
        return inputs.to_dict("records")
    dimensions = getattr(inputs, "ndim", None)
    if dimensions is None or dimensions > 3:
        return inputs
    names = dimensions > 0 and getattr(getattr(inputs, "dtype", None), "kind", "-") in "OTU"
    return inputs if names else None


def is_several(value: Any) -> bool:
    """Whether a value of a record is a list of values, an array or a column of a table."""
    return isinstance(value, Sized) and isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def flattened(parts: Iterable[Any]) -> Iterator[Any]:
    """Single inputs out of inputs of any depth, in their order."""
    for part in parts:
        inner = parts_of(part)
        if inner is None:
            yield part
        else:
            yield from flattened(inner)


def iter_over(inputs: Iterable[Any]) -> Any:
    """The inputs as a generator, which transformers reads one at a time."""
    return (item for item in inputs)
