"""`lesion audit` on tiny datasets with planted leaks, duplicates and wrong labels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image, Value

from datasets_scripts import audit_dataset, dataset_folder
from datasets_scripts.audit import leaks_between_splits
from datasets_scripts.command import UserError, run

LABELS = ["mel", "nv"]


def write(folder: Path, drawn: SimpleNamespace, splits: dict[str, list[dict[str, Any]]], card: str = "") -> Path:
    """A dataset folder: split -> rows of seed, and what else differs."""
    (folder / "data").mkdir(parents=True)
    texts = ("image_id", "lesion_id", "patient_id", "sex", "localization", "source", "license")
    columns = Features({"image": Image(), "label": ClassLabel(names=LABELS), **dict.fromkeys(texts, Value("string"))})
    for split, rows in splits.items():
        records = []
        for row in rows:
            data = row.get("data") or drawn.jpeg(drawn.draw(row["seed"], (80, 60)), quality=row.get("quality", 90))
            image_id = row.get("image_id", f"{folder.name}{row.get('seed')}")
            usual = {"image_id": image_id, "lesion_id": image_id, "label": 1, "source": "A", "license": "cc-by-4.0"}
            given = {key: value for key, value in row.items() if key in columns}
            records.append({"image": {"bytes": data, "path": f"{image_id}.jpg"}, **usual, **given})
        pq.write_table(
            pa.Table.from_pylist(records, schema=columns.arrow_schema), folder / "data" / f"{split}-0.parquet"
        )
    if card:
        (folder / "README.md").write_text(card)
    return folder


CARD = """---
configs:
- config_name: grouped
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path:
    - data/test-0.parquet
- config_name: other
  data_files:
  - split: train
    path: data/test-0.parquet
---
# A dataset
"""


@pytest.fixture
def first(tmp_path: Path, drawn: SimpleNamespace) -> Path:
    train = [{"seed": seed} for seed in range(6)]
    train[1] |= {"lesion_id": "L", "patient_id": "P"}
    train[2] |= {"patient_id": "Q"}
    test = [
        {"seed": 20, "lesion_id": "L"},  # its lesion is in train
        {"seed": 21, "patient_id": "Q", "license": None},  # its patient is in train
        {"seed": 3, "image_id": "again", "label": 0, "quality": 40},  # the image itself, with another label
        {"seed": 22, "data": b"no image"},
        {"seed": 23, "source": "B"},
    ]
    return write(tmp_path / "first", drawn, {"train": train, "test": test}, CARD)


def audited(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    audit_dataset.main([*map(str, words), "--output_dir", str(tmp_path / "out")])
    return json.loads((tmp_path / "out" / "audit.json").read_text())


def test_images_that_a_backbone_may_have_seen_are_counted_by_their_hashes(
    first: Path, drawn: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = write(tmp_path / "seen", drawn, {"train": [{"seed": 2}, {"seed": 20}, {"seed": 99}]})
    audited(tmp_path / "of seen", seen, "--write_hashes")
    hashes = tmp_path / "of seen" / "out" / "hashes.txt"
    assert len(hashes.read_text().splitlines()) == 3
    report = audited(tmp_path, first, "--known_hashes", hashes)
    found = report["datasets"]["first"]["known_hashes"]
    assert (found["hashes"], found["images"]) == (3, 2)
    assert found["by_split"] == {"train": {"n": 6, "among": 1}, "test": {"n": 5, "among": 1}}
    assert sorted(found["image_ids"]) == ["first2", "first20"]
    assert "1 of 5 of test, 1 of 6 of train" in (tmp_path / "out" / "audit.md").read_text()
    bad = tmp_path / "bad.txt"
    for content, named in (("abc\n", "line 1, has 'abc'"), ("", "is empty"), (None, "cannot be read")):
        bad.write_text(content) if content is not None else bad.unlink()
        with pytest.raises(UserError, match=named):
            audited(tmp_path / "again", first, "--known_hashes", bad)
    assert not (tmp_path / "again").exists()


def leaks(report: dict[str, Any], name: str) -> dict[tuple[str, ...], int]:
    of = report["datasets"][name]["leaks"]
    return {(one["config"], one["split"], one["against"], one["by"]): one["leaking"] for one in of}


def test_one_dataset(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = audited(tmp_path, first)
    of = report["datasets"]["first"]
    assert leaks(report, "first") == {
        ("grouped", "test", "train", "lesion"): 1,
        ("grouped", "test", "train", "duplicate"): 1,
        ("grouped", "test", "train", "patient"): 1,
    }
    assert of["configs"] == {"grouped": {"train": 6, "test": 5}, "other": {"train": 5}}
    assert of["per_class"] == {"nv": 10, "mel": 1}
    assert of["duplicates"]["near"] == [["again", "first3"]]
    assert of["duplicates"]["contradicting_labels"] == [["again", "first3"]]
    assert of["duplicates"]["across_sources"] == []
    assert len(of["unusable"]) == 1
    assert "first22" in of["unusable"][0]
    assert [(one["source"], one["license"], one["images"]) for one in of["licenses"]] == [
        ("A", "cc-by-4.0", 9), ("A", "unknown", 1), ("B", "cc-by-4.0", 1),
    ]  # fmt: skip
    text = (tmp_path / "out" / "audit.md").read_text()
    assert "| grouped | test | train | patient | 5 | 1 | 20.0 % |" in text
    assert "again = first3" in text
    shown = capsys.readouterr().out
    assert "0 exact and 1 near-duplicate pairs, 1 across lesion ids, 1 with different labels" in shown
    assert "grouped: 1 of 5 images of test have their lesion in train (20.0 %)" in shown


def test_duplicates_across_datasets(first: Path, tmp_path: Path, drawn: SimpleNamespace) -> None:
    other = write(tmp_path / "second", drawn, {"test": [{"seed": 0, "quality": 30}, {"seed": 50}, {"seed": 51}]})
    (of,) = audited(tmp_path, first, other)["across"]
    assert (of["exact_pairs"], of["near_pairs"], of["images_of_second"], of["same_ids"]) == (0, 1, 1, 0)
    assert of["by_split"] == [{"first": "train", "second": "test", "pairs": 1}]
    assert of["pairs"] == [["first0", "second0"]]
    assert of["contradicting_labels"] == []


def test_class_folders(tmp_path: Path, drawn: SimpleNamespace) -> None:
    for split, label, seed in (("train", "mel", 1), ("train", "nv", 2), ("test", "nv", 1)):
        path = tmp_path / "own" / split / label / f"{seed}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn.jpeg(drawn.draw(seed, (80, 60))))
    report = audited(tmp_path, tmp_path / "own")
    assert leaks(report, "own")["default", "test", "train", "duplicate"] == 1
    assert report["datasets"]["own"]["duplicates"]["exact"] == [["test/nv/1", "train/mel/1"]]
    assert report["datasets"]["own"]["per_class"] == {"nv": 2, "mel": 1}


def predictions(path: Path, ids: list[str], given: list[int], logits: np.ndarray, gate: list[float]) -> Path:
    table = pa.table(
        {"image_id": ids, "label": pa.array(given, pa.int32()), "logits": logits[:, None].tolist(), "ood_score": gate}
    )
    about = json.dumps({"labels": LABELS, "split": "test"}).encode()
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"lesion_suite": about}), path)
    return path


def test_label_errors_and_the_gate_of_a_model(first: Path, tmp_path: Path) -> None:
    logits = np.array([[0.0, 3.0], [0.0, 3.0], [0.0, 4.0], [2.0, 0.0]])
    model = tmp_path / "model"
    ids = ["first20", "first21", "again", "not there"]
    predictions(model / "predictions_test.parquet", ids, [1, 1, 0, 0], logits, [1.0, 9.0, 2.0, 9.0])
    (model / "config.json").write_text(json.dumps({"trust": {"ood": {"threshold": 5.0}}}))
    report = audited(tmp_path, first, "--model", model)
    assert report["predictions"] == {
        "images": 4, "in_dataset": 3, "with_another_label": 0, "without_prediction": 8,
    }  # fmt: skip
    assert [one["image_id"] for one in report["label_errors"]["listed"]] == ["again"]
    assert report["off_topic"]["listed"] == [{"image_id": "first21", "score": 9.0}]
    text = (tmp_path / "out" / "audit.md").read_text()
    assert "| again | mel | 0.018 | nv | 0.982 |" in text


def test_the_images_are_not_kept(first: Path) -> None:
    found = dataset_folder.read(first)
    with pytest.raises(UserError):
        found.rows[0].read()
    assert found.thumbs.shape == (11, 32, 32)
    assert found.sizes == {(80, 60): 10}


def test_leaks_between_every_two_splits() -> None:
    found = leaks_between_splits(
        {"c": {"train": [0], "validation": [1], "test": [2, 3]}}, {"lesion": ["a", "b", "a", "b"]}, ["x"] * 4
    )
    assert [(one["split"], one["against"], one["leaking"], one["n"]) for one in found] == [
        ("validation", "train", 0, 1),
        ("test", "train", 1, 2),
        ("test", "validation", 1, 2),
    ]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["DIR/none"], "none' is no folder"),
        (["DIR/first", "DIR/first"], "given twice"),
        (["DIR/empty"], "is empty"),
        (["DIR/first", "--model", "DIR/first"], "no config.json"),
        (["DIR/first", "--predictions", "DIR/other.parquet"], "none of the 1 images of the predictions is in first"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], part: str, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    predictions(tmp_path / "other.parquet", ["who"], [0], np.zeros((1, 2)), [0.0])
    given = [word.replace("DIR", str(tmp_path)) for word in words]
    with pytest.raises(SystemExit) as stopped:
        run(lambda: audit_dataset.main([*given, "--output_dir", str(tmp_path / "out")]))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert len(error.splitlines()) == 1
    assert part in error
    assert not (tmp_path / "out").exists()
