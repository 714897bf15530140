"""The search itself on drawn images: nobody finds the own lesion, or the same image under another name."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from datasets_scripts.command import UserError
from hub_models import LesionImageProcessor, MobileNetForLesionClassification
from trainers.embeddings.cases import Cases
from trainers.embeddings.index import CaseIndex, Found
from trainers.embeddings.query import Query, answer_query, find_query
from trainers.embeddings.representations import load_classifier
from trainers.embeddings.search import Own, Similar, described, in_words, own_groups, search
from trainers.embeddings.similar import Settings, prepare
from trainers.model_folder.data import load_splits


def thumbnails(cases: Cases) -> np.ndarray:
    """Vectors that know an image well: 8 x 8 colours."""
    return np.stack([np.asarray(p.resize((8, 8)), dtype=np.float32).reshape(-1) for p in cases.images("look")])


@pytest.fixture(scope="module")
def index(train_cases: Cases) -> CaseIndex:
    return CaseIndex(thumbnails(train_cases), train_cases.group_id)


def vector(query: Query) -> np.ndarray:
    return np.asarray(query.image.resize((8, 8)), dtype=np.float32).reshape(-1)


def test_an_image_of_the_dataset_does_not_find_its_lesion(
    index: CaseIndex, train_cases: Cases, phantom_dataset: Path
) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    names, counts = np.unique(train_cases.group_id.astype(str), return_counts=True)
    group = names[counts >= 2][0]
    own_rows = np.flatnonzero(train_cases.group_id == group)
    image = str(train_cases.image_id[own_rows[0]])
    query = find_query(image, splits)
    assert (query.split, query.group_id) == ("train", group)
    assert query.label == train_cases.labels[train_cases.label[own_rows[0]]]
    own = own_groups(query, splits)
    found = search(index, train_cases, own, vector(query), 10)
    assert found.left_out == len(own_rows)
    rows = [case.row for case in found.found]
    assert not set(rows) & set(own_rows.tolist())
    assert len({train_cases.group_id[row] for row in rows}) == 10
    assert [case.cosine for case in found.found] == sorted((case.cosine for case in found.found), reverse=True)


@pytest.mark.parametrize("change", ["none", "darker", "jpeg"])
def test_a_file_that_shows_an_image_of_the_dataset_does_not_find_its_lesion(
    change: str, index: CaseIndex, train_cases: Cases, phantom_dataset: Path, tmp_path: Path
) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    row = 4
    photo = Image.open(io.BytesIO(train_cases.stored(row))).convert("RGB")
    photo = ImageEnhance.Brightness(photo).enhance(0.8) if change == "darker" else photo
    file = tmp_path / ("mine.jpg" if change == "jpeg" else "mine.png")
    photo.save(file, **({"quality": 90} if change == "jpeg" else {}))
    query = find_query(str(file), splits)
    assert (query.name, query.split, query.label, query.group_id) == (file.name, None, None, None)
    own = own_groups(query, splits)
    assert str(train_cases.image_id[row]) in own.images
    assert own.groups == {train_cases.group_id[row]}
    found = search(index, train_cases, own, vector(query), 5)
    assert train_cases.group_id[row] not in {train_cases.group_id[case.row] for case in found.found}
    # Were it not left out, it would be the first.
    first = search(index, train_cases, Own([], frozenset()), vector(query), 1).found[0]
    assert first.row == row
    assert first.cosine > 0.999


def test_one_image_under_two_lesion_ids_is_shown_once(train_cases: Cases) -> None:
    """A dataset that never looked for duplicates: row 1 is row 0 again, under another lesion id."""
    rows = train_cases.select(np.array([0, 0, 7, 9, 20, 31]))
    cases = replace(rows, group_id=np.array([f"g{i}" for i in range(6)], dtype=object))
    vectors = thumbnails(cases)
    index = CaseIndex(vectors, cases.group_id)
    found = search(index, cases, Own([], frozenset()), vectors[0], 3)
    assert found.found[0].row in (0, 1)
    assert len({0, 1} & {case.row for case in found.found}) == 1
    assert len({case.row for case in found.found}) == 3


def test_a_file_wins_over_an_id_and_what_is_neither_is_refused(phantom_dataset: Path, tmp_path: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    with pytest.raises(
        UserError, match=r"--image 'ISIC_1' is neither a file nor the image_id of one of the 160 images"
    ):
        find_query("ISIC_1", splits)
    with pytest.raises(UserError, match="is neither a file"):
        find_query(str(tmp_path), splits)
    broken = tmp_path / "broken.jpg"
    for content in (b"", b"\xff\xd8\xff no image"):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=r"--image 'broken.jpg' cannot be read \(.*\): give a whole image file"):
            find_query(str(broken), splits)


def test_an_id_of_several_images_is_refused(phantom_dataset: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    train = splits.splits["train"]
    twice = datasets.concatenate_datasets([train, train.select([0])])
    with pytest.raises(UserError, match="is the image_id of 2 images"):
        find_query(str(train[0]["image_id"]), replace(splits, splits={**splits.splits, "train": twice}))


def test_a_model_whose_classes_stand_in_another_order_is_taken(
    classifier: Path, train_cases: Cases, phantom_dataset: Path, tmp_path: Path
) -> None:
    turned = Path(shutil.copytree(classifier, tmp_path / "turned"))
    config = json.loads((turned / "config.json").read_text())
    labels = train_cases.labels[::-1]
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    (turned / "config.json").write_text(json.dumps(config))
    cases = prepare(str(turned), Settings(str(phantom_dataset))).cases
    assert cases.labels == labels
    names = [train_cases.labels[label] for label in train_cases.label]
    assert [labels[label] for label in cases.label] == names


def test_features_are_those_of_the_model(classifier: Path, phantom_dataset: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    name = str(splits.column("test", "image_id")[0])
    query = find_query(name, splits)
    answered = answer_query(load_classifier(str(classifier)), query)
    model = MobileNetForLesionClassification.from_pretrained(classifier).eval()
    with torch.inference_mode():
        inputs = LesionImageProcessor.from_pretrained(classifier)(images=query.image, return_tensors="pt")
        expected = model(**inputs).features[0].numpy()
    np.testing.assert_allclose(answered.features, expected, atol=1e-5)
    assert answered.answer["is_ood"] is None
    assert answered.notes == ["This model has no fitted gate: nothing says whether the image is like those it knows."]


def test_a_model_that_reads_records_gets_what_the_dataset_knows(
    reading_classifier: Path, phantom_dataset: Path, tmp_path: Path
) -> None:
    splits, encoder = load_splits(str(phantom_dataset), "grouped"), load_classifier(str(reading_classifier))
    name = str(splits.column("test", "image_id")[0])
    query = find_query(name, splits)
    row = splits.splits["test"].remove_columns("image")[0]
    with torch.inference_mode():
        record = {"image": query.image, **{field: row[field] for field in ("age", "sex", "localization")}}
        expected = encoder.model(**encoder.processor(images=record, return_tensors="pt")).features[0].numpy()
    answered = answer_query(encoder, query)
    np.testing.assert_allclose(answered.features, expected, atol=1e-5)
    file = tmp_path / "mine.png"
    query.image.save(file)
    unknown = answer_query(encoder, find_query(str(file), splits))
    assert not np.allclose(unknown.features, expected, atol=1e-3)
    assert unknown.notes[0] == (
        "The model also reads age, localization, sex: unknown for a file, known for the dataset's cases."
    )


def result_of(cases: Cases, answered: Any, rows: list[int]) -> dict[str, Any]:
    query = Query("mine.jpg", Image.new("RGB", (4, 4)), None, None, None, None, {})  # type: ignore[arg-type]
    similar = Similar([Found(row, 0.9 - row / 100) for row in rows], Own(["PH_1"], frozenset()), 2)
    return described(query, answered, similar, cases, {"mel": "Melanoma"})


def test_a_declined_image_is_reported_as_declined(
    wary_classifier: Path, train_cases: Cases, phantom_dataset: Path
) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    answered = answer_query(load_classifier(str(wary_classifier)), find_query(str(train_cases.image_id[0]), splits))
    assert answered.answer["is_ood"] is True
    assert answered.notes == []
    text = in_words(result_of(train_cases, answered, [1, 2]))
    first, second, *_ = text.splitlines()
    assert first.startswith("mine.jpg: declined. The model declines")
    assert second == "What follows is near in numbers, not similar."


def test_the_table_names_cases_sources_and_what_was_left_out(
    classifier: Path, train_cases: Cases, phantom_dataset: Path
) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    answered = answer_query(load_classifier(str(classifier)), find_query(str(train_cases.image_id[0]), splits))
    result = result_of(train_cases, answered, [1, 5])
    assert result["cases"][1] == {
        "rank": 2,
        "image_id": str(train_cases.image_id[5]),
        "label": train_cases.labels[train_cases.label[5]],
        "long_name": result["cases"][1]["long_name"],
        "cosine": 0.85,
        "lesion_id": str(train_cases.lesion_id[5]),
        "group_id": str(train_cases.group_id[5]),
        "license": "CC0-1.0",
        "attribution": train_cases.column("attribution")[5],
    }
    text = in_words(result)
    assert "the same image stands in the dataset as PH_1" in text
    assert "left out: 2 of the query's own lesion" in text
    assert f"source: {train_cases.column('attribution')[5]}" in text
    assert "is no probability" in text
