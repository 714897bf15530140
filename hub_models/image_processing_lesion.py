"""The image processor with every step and every input, as training uses it.

It saves itself as the one that has what its settings need and no more, so that no model ships code that it never runs.
"""

import os
from typing import Any

from .image_processing_pixels import NEED_OPENCV, PixelImageProcessor
from .image_processing_record import RecordImageProcessor
from .image_processing_steps import StepsImageProcessor


class LesionImageProcessor(RecordImageProcessor, StepsImageProcessor):
    """Image processor of all lesion classifiers; :class:`PixelImageProcessor` and its two subclasses describe it.

    Records are checked in full, also by a model that reads the image alone.
    """

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save the settings, and the code of the smallest class that has all of them."""
        steps = any(getattr(self, name) for name in NEED_OPENCV)
        records = self.metadata_fields is not None
        if steps and records:
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        smallest = StepsImageProcessor if steps else RecordImageProcessor if records else PixelImageProcessor
        known = {name: value for name, value in self.to_dict().items() if name != "image_processor_type"}
        return smallest(**known).save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
