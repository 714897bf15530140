"""The suite's own pipeline task: what it takes, what it gives, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from lesion_shipping_tester import sample_image
from lesion_trust_tester import fitted
from torch.utils.data import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hub_models import (
    PIPELINE_TASK,
    FusionForLesionClassification,
    FusionLesionConfig,
    ImageCountError,
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
    {"image": sample_image(0), "age": 45, "sex": "female", "localization": "back"},
    {"image": sample_image(0), "age": 80, "sex": None, "localization": "face"},
    {"image": sample_image(1)},
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
    """Records 0 and 1 have the same image and other patients."""
    same = {pipe: [row["probabilities"] for row in pipe(RECORDS[:2])] for pipe in (image_only, metadata_only, fused)}
    assert same[image_only][0] == pytest.approx(same[image_only][1])
    assert same[metadata_only][0] != pytest.approx(same[metadata_only][1])
    assert same[fused][0] != pytest.approx(same[fused][1])


def test_images_paths_and_streams_are_taken(fused: LesionClassificationPipeline, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(2)]
    for seed, path in enumerate(paths):
        sample_image(seed).save(path)

    def stream() -> Iterator[dict[str, Any]]:
        yield from ({"image": path} for path in paths)

    expected = probabilities([fused(sample_image(seed)) for seed in range(2)])
    given: list[Any] = [[str(path) for path in paths], [{"image": str(path)} for path in paths], list(paths), stream()]
    for inputs in given:
        assert [row["probabilities"] for row in fused(inputs)] == expected


def several(folder: Path) -> dict[str, Any]:
    """Each way to give the images 0, 1 and 2 at once, by name."""
    images = [sample_image(seed) for seed in range(3)]
    arrays = np.stack([np.asarray(image) for image in images])
    paths = [folder / f"{seed}.png" for seed in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    rows = datasets.Dataset.from_dict({"image": [str(path) for path in paths]}).cast_column("image", datasets.Image())
    return {
        "list": images,
        "tuple": tuple(images),
        "array (N, H, W, C)": arrays,
        "array (N, C, H, W)": arrays.transpose(0, 3, 1, 2),
        "tensor": torch.from_numpy(arrays),
        "list of arrays": list(arrays),
        "list of arrays (1, H, W, C)": list(arrays[:, None]),
        "array of paths": np.array([str(path) for path in paths]),
        "tuple of paths": tuple(paths),
        "array (1, N) of paths": np.array([[str(path) for path in paths]], dtype=object),
        "column of a table": pandas.Series(images),
        "table": pandas.DataFrame({"image": [str(path) for path in paths], "age": [None] * 3}),
        "record of columns": {"image": pandas.Series(images), "age": np.full(3, np.nan)},
        "tuple of records": tuple({"image": image} for image in images),
        "values of a dictionary": dict(enumerate(images)).values(),
        "generator": (image for image in images),
        "iterator": iter(images),
        "column": rows["image"],
        "dataset": rows,
        "KeyDataset": KeyDataset(rows, "image"),
        "streamed column": rows.to_iterable_dataset()["image"],
    }


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_n_images_give_n_answers(
    image_only: LesionClassificationPipeline, fused: LesionClassificationPipeline, tmp_path: Path, batch_size: int
) -> None:
    for pipe in (image_only, fused):
        expected = probabilities([pipe(sample_image(seed)) for seed in range(3)])
        for name, inputs in several(tmp_path).items():
            answers = pipe(inputs, batch_size=batch_size)
            assert not isinstance(answers, dict), name
            assert [row["probabilities"] for row in answers] == expected, name


def test_one_image_gives_one_answer(image_only: LesionClassificationPipeline, tmp_path: Path) -> None:
    sample_image(0).save(tmp_path / "0.png")
    array = np.array(sample_image(0))
    for one in (array, torch.from_numpy(array), tmp_path / "0.png", {"image": array[None]}):
        assert [image_only(one)["probabilities"]] == probabilities([image_only(sample_image(0))])
    assert [row["probabilities"] for row in image_only(array[None])] == probabilities([image_only(sample_image(0))])


def test_no_image_gives_no_answer(image_only: LesionClassificationPipeline) -> None:
    for inputs in ([], (), np.zeros((0, 32, 32, 3), np.uint8), iter([])):
        assert list(image_only(inputs)) == []


def test_images_within_one_another_give_as_many_answers(
    image_only: LesionClassificationPipeline, fused: LesionClassificationPipeline
) -> None:
    one, two = sample_image(0), sample_image(1)
    both = np.stack([np.asarray(one), np.asarray(two)])
    nested: list[Any] = [
        [[one, two]],
        [[one], [two]],
        [(one, two)],
        ([one], two),
        [both],
        both[None],
        {"image": [one, two]},
        {"image": (one, two)},
        {"image": both},
        [{"image": [one, two]}],
        [{"image": one}, [two]],
        {"image": [one, two], "age": [None, None]},
    ]
    for pipe in (image_only, fused):
        expected = probabilities([pipe(one), pipe(two)])
        for inputs in nested:
            assert [row["probabilities"] for row in pipe(inputs, batch_size=2)] == expected
        for pair in ([one, two], both):
            assert [row["probabilities"] for row in pipe([pair, pair])] == expected * 2
    assert len(image_only({"image": iter([one, two])})) == 2
    ages = {"image": [one, one], "age": [45, 80]}
    apart = [fused({"image": one, "age": age}) for age in (45, 80)]
    assert [row["probabilities"] for row in fused(ages)] == probabilities(apart)
    with pytest.raises(RecordError, match="2 images and 3 values of age"):
        fused({"image": [one, two], "age": [1, 2, 3]})


def test_several_images_in_one_item_of_a_dataset_or_a_record_of_the_processor_are_refused(
    image_only: LesionClassificationPipeline, fused: LesionClassificationPipeline
) -> None:
    one, two = sample_image(0), sample_image(1)
    both = np.stack([np.asarray(one), np.asarray(two)])

    class Pairs(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            return [one, two]

    for pipe in (image_only, fused):
        with pytest.raises(ImageCountError, match="one image is needed"):
            list(pipe(Pairs()))
        for several_images in ([one, two], (one, two), both, both[None], iter([one, two])):
            with pytest.raises(ImageCountError, match="record 0"):
                pipe.image_processor([{"image": several_images}], return_tensors="pt")


def test_the_content_of_a_file_is_refused_as_such(image_only: LesionClassificationPipeline, tmp_path: Path) -> None:
    sample_image(0).save(tmp_path / "0.png")
    with pytest.raises(ImageCountError, match="content of a file"):
        image_only((tmp_path / "0.png").read_bytes())
    with (tmp_path / "0.png").open("rb") as file, pytest.raises(ImageCountError, match="content of a file"):
        image_only(file)


def test_a_metadata_only_model_needs_no_image(metadata_only: LesionClassificationPipeline) -> None:
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
    scores = {row["label"]: row["score"] for row in stock(sample_image(0))}
    assert scores == pytest.approx(fused(sample_image(0))["probabilities"], abs=1e-5)
