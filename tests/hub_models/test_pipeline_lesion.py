"""The suite's own pipeline task: what it takes, what it gives, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lesion_shipping_tester import picture
from lesion_trust_tester import fitted
from transformers import pipeline

from hub_models import (
    PIPELINE_TASK,
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionClassificationPipeline,
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    RecordError,
    UnreadableImageError,
)

LABELS = {0: "mel", 1: "nv", 2: "bkl"}
SMALL = {"id2label": LABELS, "image_size": 32, "backbone": "mobilenetv2_035", "backbone_kwargs": {}}


def make(model: Any) -> LesionClassificationPipeline:
    processor = LesionImageProcessor(
        size=32,
        model_input_names=list(model.input_names),
        metadata_fields=getattr(model.config, "metadata_fields", None),
    )
    return pipeline(PIPELINE_TASK, model=fitted(model.eval()), image_processor=processor, device=-1)


@pytest.fixture(scope="module")
def image_only() -> LesionClassificationPipeline:
    torch.manual_seed(0)
    return make(MobileNetForLesionClassification(MobileNetLesionConfig(**SMALL)))


@pytest.fixture(scope="module")
def metadata_only() -> LesionClassificationPipeline:
    torch.manual_seed(0)
    return make(MetadataForLesionClassification(MetadataLesionConfig(id2label=LABELS)))


@pytest.fixture(scope="module")
def fused() -> LesionClassificationPipeline:
    torch.manual_seed(0)
    return make(FusionForLesionClassification(FusionLesionConfig(**SMALL)))


def probabilities(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [pytest.approx(row["probabilities"], abs=1e-6) for row in rows]


RECORDS = [
    {"image": picture(0), "age": 45, "sex": "female", "localization": "back"},
    {"image": picture(0), "age": 80, "sex": None, "localization": "face"},
    {"image": picture(1)},
]


def test_the_registered_class_is_the_suites(fused: LesionClassificationPipeline) -> None:
    assert type(fused) is LesionClassificationPipeline


def test_answers_are_those_of_predict(
    image_only: LesionClassificationPipeline,
    metadata_only: LesionClassificationPipeline,
    fused: LesionClassificationPipeline,
) -> None:
    for pipe in (image_only, metadata_only, fused):
        expected = pipe.model.predict(**pipe.image_processor(RECORDS, return_tensors="pt"))
        answers = pipe(RECORDS)
        assert [answer["message"] for answer in answers] == [row["message"] for row in expected]
        assert [set(answer) for answer in answers] == [set(row) for row in expected]
        assert [answer["probabilities"] for answer in answers] == probabilities(expected)
        assert [answer["probabilities"] for answer in pipe(RECORDS, batch_size=2)] == probabilities(expected)
        assert [pipe(RECORDS[0])["probabilities"]] == probabilities(expected[:1])
        json.dumps(answers)


def test_who_looks_at_what(
    image_only: LesionClassificationPipeline,
    metadata_only: LesionClassificationPipeline,
    fused: LesionClassificationPipeline,
) -> None:
    """Records 0 and 1 have the same picture and other patients."""
    same = {pipe: [row["probabilities"] for row in pipe(RECORDS[:2])] for pipe in (image_only, metadata_only, fused)}
    assert same[image_only][0] == pytest.approx(same[image_only][1])
    assert same[metadata_only][0] != pytest.approx(same[metadata_only][1])
    assert same[fused][0] != pytest.approx(same[fused][1])


def test_pictures_paths_and_streams_are_taken(fused: LesionClassificationPipeline, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)

    def stream() -> Iterator[dict[str, Any]]:
        yield from ({"image": path} for path in paths)

    expected = probabilities([fused(picture(seed)) for seed in range(2)])
    given: list[Any] = [[str(path) for path in paths], [{"image": str(path)} for path in paths], list(paths), stream()]
    for inputs in given:
        assert [row["probabilities"] for row in fused(inputs)] == expected


def test_a_metadata_only_model_needs_no_picture(metadata_only: LesionClassificationPipeline) -> None:
    without = metadata_only({"age": 45, "sex": "female", "localization": "back"})
    assert without["probabilities"] == pytest.approx(metadata_only(RECORDS[0])["probabilities"])


def test_mistakes_are_named(
    image_only: LesionClassificationPipeline, fused: LesionClassificationPipeline, tmp_path: Path
) -> None:
    for pipe in (image_only, fused):
        with pytest.raises(RecordError, match="age is 900"):
            pipe({**RECORDS[0], "age": 900})
        with pytest.raises(RecordError, match="has no image"):
            pipe({"age": 45})
        with pytest.raises(RecordError, match="'dx_type' must not be given"):
            pipe([RECORDS[0], {**RECORDS[0], "dx_type": "histo"}])
        with pytest.raises(UnreadableImageError, match="nowhere"):
            pipe({"image": str(tmp_path / "nowhere.png")})
    with pytest.raises(TypeError, match="top_k"):
        fused(RECORDS[0], top_k=3)


def test_a_saved_folder_names_its_pipeline(image_only: LesionClassificationPipeline, tmp_path: Path) -> None:
    image_only.save_pretrained(tmp_path, weights_dtype="float16")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["custom_pipelines"] == {
        PIPELINE_TASK: {
            "impl": "pipeline_lesion.LesionClassificationPipeline",
            "pt": ["AutoModelForImageClassification"],
            "type": "multimodal",
        }
    }
    assert config["dtype"] == "float32"
    assert (tmp_path / "pipeline_lesion.py").is_file()
    assert (tmp_path / "preprocessor_config.json").is_file()


def test_the_stock_task_still_gives_labels_and_scores(fused: LesionClassificationPipeline) -> None:
    stock = pipeline("image-classification", model=fused.model, image_processor=fused.image_processor, device=-1)
    scores = {row["label"]: row["score"] for row in stock(picture(0))}
    assert scores == pytest.approx(fused(picture(0))["probabilities"], abs=1e-5)
