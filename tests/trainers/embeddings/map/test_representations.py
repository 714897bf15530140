"""Vectors of images: by hand, and as the models themselves give them; computed once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from datasets_scripts.command import UserError
from hub_models import (
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MobileNetForLesionClassification,
)
from trainers.embeddings import representations
from trainers.embeddings.cases import Cases, load_cases
from trainers.embeddings.representations import (
    RepresentationError,
    checked,
    encode,
    load_autoencoder,
    load_classifier,
    pixel_vector,
    unit,
)
from trainers.model_folder.data import load_splits


@pytest.fixture(scope="module")
def cases(phantom_dataset: Path) -> Cases:
    return load_cases(load_splits(str(phantom_dataset), "grouped"), "validation")


def test_pixels_are_area_averages() -> None:
    image = Image.new("RGB", (64, 32), (255, 0, 51))
    image.paste((0, 0, 51), (0, 0, 32, 32))
    # Two by two pixels, colours last: black-blue on the left, red-blue on the right.
    np.testing.assert_allclose(pixel_vector(image, 2), [0, 0, 0.2, 1, 0, 0.2] * 2, atol=1e-6)


def test_unit_vectors_and_zeros() -> None:
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


def test_a_vector_that_is_not_finite_names_its_image() -> None:
    with pytest.raises(RepresentationError, match=r"net gives image b a vector that is not finite \(1 such images\)"):
        checked(np.array([[1.0], [np.nan]]), ["a", "b"], "net")


def test_features_are_the_models_own_and_computed_once(
    classifier: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_classifier(str(classifier))
    assert encoder.name == "tiny-derm-x"
    found = encode(encoder, cases, progress=False)
    model = MobileNetForLesionClassification.from_pretrained(classifier).eval()
    processor = LesionImageProcessor.from_pretrained(classifier)
    with torch.inference_mode():
        expected = model(**processor(list(cases.images("look")), return_tensors="pt")).features.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(representations, "predict_split", None)
    np.testing.assert_array_equal(encode(load_classifier(str(classifier)), cases, progress=False), found)
    # Other rows, or other weights, are another matter.
    with pytest.raises(TypeError):
        encode(encoder, cases.select(np.array([0, 1])), progress=False)


def test_other_weights_are_not_taken_for_these(classifier: Path, cases: Cases, tmp_path: Path) -> None:
    first = encode(load_classifier(str(classifier)), cases, progress=False)
    other = shutil.copytree(classifier, tmp_path / "other")
    model = MobileNetForLesionClassification.from_pretrained(other)
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(1.5)
    model.save_pretrained(other)
    assert not np.allclose(first, encode(load_classifier(str(other)), cases, progress=False))


def test_codes_are_the_autoencoders_own(autoencoder: Path, cases: Cases) -> None:
    encoder = load_autoencoder(str(autoencoder))
    found = encode(encoder, cases, batch_size=5, progress=False)
    assert found.shape == (len(cases), 6)
    model, processor = AutoModel.from_pretrained(autoencoder).eval(), AutoImageProcessor.from_pretrained(autoencoder)
    with torch.inference_mode():
        expected = model.encode(processor(list(cases.images("look")), return_tensors="pt")["pixel_values"]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_model_that_reads_no_image_is_refused(tmp_path: Path) -> None:
    model = MetadataForLesionClassification(MetadataLesionConfig(id2label={0: "mel", 1: "nv"}))
    model.save_pretrained(tmp_path)
    LesionImageProcessor(metadata_fields=model.config.metadata_fields, model_input_names=["metadata"]).save_pretrained(
        tmp_path
    )
    (tmp_path / "report.json").write_text(json.dumps({"schema_version": 1, "model": {"name": "records"}}))
    with pytest.raises(RepresentationError, match=r"looks at no image .* give an image classifier"):
        load_classifier(str(tmp_path))


def test_what_is_no_autoencoder_is_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(RepresentationError, match=r"--autoencoder .*: give the folder of a trained autoencoder"):
        load_autoencoder(str(classifier))
    with pytest.raises(RepresentationError, match=r"--autoencoder .* is neither a folder that exists nor"):
        load_autoencoder(str(tmp_path / "nowhere"))
    with pytest.raises(RepresentationError, match=r"--autoencoder"):
        load_autoencoder(str(tmp_path))


def test_what_is_no_classifier_is_refused(autoencoder: Path, tmp_path: Path) -> None:
    for source in (autoencoder, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"give .*(finished folder|trained or imported)"):
            load_classifier(str(source))
