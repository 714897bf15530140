"""The pipeline of lesion classifiers: pictures or records in, the whole answer in words out.

``pipeline(model=FOLDER_OR_REPO, trust_remote_code=True)`` gives this one: a repo's config names it as its own task. The
stock task ``image-classification`` keeps working on pictures, with its usual label and score.
"""

from __future__ import annotations

import os
from typing import Any

from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save

PIPELINE_TASK = "lesion-classification"


class LesionClassificationPipeline(Pipeline):
    """What :meth:`predict` of the model says of each input.

    An input is a picture (PIL image, array, path or address), or a record ``{"image": ..., "age": ..., "sex": ...,
    "localization": ...}`` with any of the last three left out; a list of them gives a list of answers, and
    ``batch_size`` says how many go through the model at once. A picture alone is a record with all else unknown.
    ``trust``, ``inference`` and ``prior`` are those of the model's ``predict``.

    Raises:
        TrustNotFittedError: nobody measured how far the model can be trusted; ``trust=False`` asks without.
        RecordError: a record is not what it should be, or lacks the image that the model looks at.
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
        **pipeline_parameters: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The parameters of each step: those of :meth:`predict` of the model."""
        if pipeline_parameters:
            raise TypeError(
                f"{', '.join(pipeline_parameters)} was given; this pipeline takes trust, inference, prior, batch_size."
            )
        asked = {"trust": trust, "inference": inference, "prior": prior}
        return {}, {name: value for name, value in asked.items() if value is not None}, {}

    def preprocess(self, input_: Any, **_: Any) -> Any:
        """One picture or record -> the model's inputs, a batch of one."""
        return self.image_processor(input_, return_tensors="pt")

    def _forward(self, input_tensors: Any, **asked: Any) -> Any:
        """A batch -> an answer a row; a dictionary, so that transformers can take a batch apart again."""
        prepared_as = self.image_processor.pixel_settings()
        return {"answers": self.model.predict(**input_tensors, **asked, prepared_as=prepared_as)}

    def postprocess(self, model_outputs: Any, **_: Any) -> dict[str, Any]:
        """The answer of one input."""
        answers = model_outputs["answers"]
        return answers[0] if isinstance(answers, list) else answers

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save model, processor and the code of all three; keyword arguments go to the model's own."""
        super().save_pretrained(save_directory, **kwargs)
        # transformers copies this file only where the task was registered, not when a repo that was loaded is saved.
        custom_object_save(self, save_directory)
