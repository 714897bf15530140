"""From records to ``pixel_values`` and ``metadata``: for models that read what is known of the patient."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from .checks_lesion import IMAGE, RecordError
from .image_processing_pixels import PixelImageProcessor, as_records, count_images
from .metadata_lesion import MetadataFieldsError, encode_record, resolve_fields


class RecordImageProcessor(PixelImageProcessor):
    """Image processor of classifiers that read metadata beside an image, or in its place.

    Returns, as ``model_input_names`` says, ``pixel_values`` and ``metadata`` (N, M) float32, which is all unknown for a
    plain image (see ``encode_record``).

    Raises:
        RecordError: a record is not what it should be, or lacks the image that the model needs.
        MetadataFieldsError: ``metadata_fields`` is no vocabulary, or ``model_input_names`` does not go with it.
    """

    def _check_inputs(self) -> None:
        check_inputs(self.model_input_names, self.metadata_fields)
        if self.metadata_fields is not None:
            self.metadata_fields = resolve_fields(self.metadata_fields)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self, images: Any, *args: Any, **kwargs: Any
    ) -> BatchFeature:
        """Images or records, with every setting filled in -> what ``model_input_names`` says; transformers calls it."""
        records = as_records(images)
        rows = None if records is None else self.encode(records)
        features = BatchFeature()
        if "pixel_values" in self.model_input_names:
            found = images if records is None else [{IMAGE: record.get(IMAGE)} for record in records]
            features = super()._preprocess_image_like_inputs(found, *args, **kwargs)
        if "metadata" in self.model_input_names:
            if rows is None:
                n = len(features["pixel_values"]) if "pixel_values" in features else count_images(images)
                rows = self.encode([{}] * n)
            as_torch = str(getattr(kwargs.get("return_tensors"), "value", kwargs.get("return_tensors"))) == "pt"
            features["metadata"] = torch.from_numpy(rows) if as_torch else rows
        return features

    def encode(self, records: list[Mapping[str, Any]]) -> np.ndarray:
        """Check records and encode them: (N, M) float32, M = 0 for a model that reads no metadata.

        Raises:
            RecordError: names the record's number in the list, the value and what to do.
        """
        rows = []
        for number, record in enumerate(records):
            try:
                rows.append(encode_record(record, self.metadata_fields or {}))
            except RecordError as error:
                raise RecordError(f"record {number}: {error}" if len(records) > 1 else str(error)) from error
        return np.asarray(rows, dtype=np.float32)


def check_inputs(model_input_names: list[str], metadata_fields: Any) -> None:
    """Check that metadata is returned exactly when there are fields for it.

    Raises:
        MetadataFieldsError: it is not, or a name is unknown.
    """
    unknown = set(model_input_names) - {"pixel_values", "metadata"}
    if unknown or not model_input_names or ("metadata" in model_input_names) != (metadata_fields is not None):
        raise MetadataFieldsError(
            f"model_input_names is {list(model_input_names)} and metadata_fields {metadata_fields!r}; give "
            "pixel_values, metadata or both, and metadata_fields exactly when metadata is among them."
        )
