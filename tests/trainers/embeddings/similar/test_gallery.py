"""The gallery: the columns that the Space reads, whole files, fair draws, and the same neighbours as the index."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from trainers.embeddings.cases import Cases
from trainers.embeddings.gallery import at_most_per_class, build_gallery
from trainers.embeddings.index import CaseIndex
from trainers.embeddings.near_duplicates import dhash
from trainers.embeddings.representations import encode, load_classifier


@pytest.fixture(scope="module")
def made(classifier: Path, train_cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gallery") / "gallery"
    encoder = load_classifier(str(classifier))
    build_gallery(train_cases, encode(encoder, train_cases, progress=False), encoder, out)
    return out


def test_its_columns_are_the_contract(made: Path, train_cases: Cases) -> None:
    table = pq.read_table(made / "gallery.parquet")
    assert table.schema.names == [
        "image_id",
        "lesion_id",
        "group_id",
        "label",
        "features",
        "thumbnail",
        "dhash",
        "license",
        "attribution",
    ]
    assert table.schema.field("features").type == pa.list_(pa.float16(), 1280)
    assert table.schema.field("thumbnail").type == pa.binary()
    assert {
        str(table.schema.field(name).type) for name in table.schema.names if name not in ("features", "thumbnail")
    } == {"string"}
    rows = table.to_pydict()
    assert rows["image_id"] == train_cases.image_id.tolist()
    assert rows["label"] == [train_cases.labels[label] for label in train_cases.label]
    np.testing.assert_allclose(np.linalg.norm(np.array(rows["features"], dtype=np.float64), axis=1), 1, atol=2e-3)
    for number, image in enumerate(train_cases.images("look")):
        assert rows["dhash"][number] == dhash(image)
        with Image.open(io.BytesIO(rows["thumbnail"][number])) as small:
            assert small.format == "JPEG"
            assert max(small.size) <= 160
    assert set(rows["license"]) == {"CC0-1.0"}


def test_it_says_of_which_model_and_data(made: Path, train_cases: Cases) -> None:
    about = json.loads((made / "gallery.json").read_text())
    assert list(about) == [
        "format_version",
        "model",
        "dataset",
        "labels",
        "dim",
        "similarity",
        "n",
        "license",
        "created",
        "command",
    ]
    assert about["format_version"] == 1
    assert about["model"] == {"name": "tiny-derm-x", "title": "A tiny one", "commit": None}
    assert about["dataset"] == {"name": "phantoms", "config_name": "grouped", "split": "train"}
    assert about["labels"]["mel"] == "Melanoma"
    assert (about["dim"], about["similarity"], about["n"]) == (1280, "cosine", len(train_cases))
    assert about["license"] == "CC0-1.0"


def test_its_card_and_manifest(made: Path) -> None:
    card = (made / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "CC0-1.0"
    assert "Not a medical device" in card
    assert "Lesion Suite phantom" in card
    manifest = json.loads((made / "manifest.json").read_text())["files"]
    assert set(manifest) == {"README.md", "gallery.json", "gallery.parquet"}
    for name, facts in manifest.items():
        assert facts["sha256"] == hashlib.sha256((made / name).read_bytes()).hexdigest()


def test_datasets_loads_it_and_finds_the_same_neighbours(made: Path, classifier: Path, train_cases: Cases) -> None:
    """As its card says: the half-precision features of the file, by the inner product."""
    loaded = datasets.load_dataset(str(made), split="train")
    loaded.add_faiss_index("features", metric_type=0)
    features = encode(load_classifier(str(classifier)), train_cases, progress=False)
    query = features[0] / np.linalg.norm(features[0])
    cosines, found = loaded.get_nearest_examples("features", query.astype(np.float32), k=20)
    singles = CaseIndex(features, np.arange(len(features)).astype(str))
    expected = singles.nearest(features[:1], 20, [set()])[0]
    np.testing.assert_allclose(cosines, [case.cosine for case in expected], atol=2e-3)
    assert found["image_id"][0] == train_cases.image_id[0]


def test_a_draw_takes_one_image_of_each_lesion_first(train_cases: Cases) -> None:
    assert at_most_per_class(train_cases, None, 0) is train_cases
    drawn = at_most_per_class(train_cases, 5, 0)
    for label in range(len(train_cases.labels)):
        groups = train_cases.group_id[train_cases.label == label]
        taken = drawn.group_id[drawn.label == label]
        assert len(taken) == min(5, len(groups))
        assert len(set(taken.tolist())) == min(5, len(set(groups.tolist())))
    assert drawn.image_id.tolist() == at_most_per_class(train_cases, 5, 0).image_id.tolist()
    assert drawn.image_id.tolist() != at_most_per_class(train_cases, 5, 1).image_id.tolist()
