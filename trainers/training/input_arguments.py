"""The options of how training images are read."""

from __future__ import annotations

from dataclasses import dataclass, field

PIPELINES = ("batched", "pillow")


@dataclass
class InputArguments:
    """How training images are read; the images of evaluation are always read by the image processor."""

    input_pipeline: str = field(
        default="batched",
        metadata={
            "help": "batched (images decoded once into a cache, augmented in batches) or pillow (each image decoded "
            "and augmented in each epoch, as the released models were trained)."
        },
    )
    image_cache: str = field(
        default="",
        metadata={
            "help": "Folder of the decoded images, 3 bytes a pixel, shared by all runs; empty = in the cache folder of "
            "datasets (HF_DATASETS_CACHE); none = no cache. It may be deleted whenever no run uses it."
        },
    )
