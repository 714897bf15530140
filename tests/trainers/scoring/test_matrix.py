"""Models by datasets: every pair scored once, classes that a model does not know, reports that are there already."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from shared_fixtures import called

from trainers import matrix as command
from trainers.evaluation.figures.matrix import draw_matrix
from trainers.evaluation.matrix import EARLIER, METRICS, archives_of, markdown, matrix_row
from trainers.model_folder.data import Splits
from trainers.scoring.matrix import dataset_name, export

Call = Callable[..., tuple[int, str, str]]
COLUMNS = {"photo": datasets.Image(), "dx": datasets.Value("string"), "patient": datasets.Value("string")}


@pytest.fixture
def lesion_matrix() -> Call:
    return partial(called, command.main)


def number(value: float, spread: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value - spread, "high": value + spread, "method": "exact"}


def report(flag: bool = True) -> dict[str, Any]:
    rules = [{"rule": "balanced", "sensitivity": number(0.6)}, {"rule": "most_probable", "sensitivity": number(0.4)}]
    decided = {"rule": "sensitivity", "rules": rules, "flag": {"sensitivity": number(0.9)} if flag else None}
    verdicts = {"external": {"answered": number(0.7)}}
    trusted = {"sets": {"overall": {"coverage": number(0.85)}}, "verdicts": verdicts, "decision": decided}
    return {
        "evaluation": {
            "external": {
                "n": 1200,
                "n_groups": 1000,
                "discrimination": {"auroc_malignant": number(0.8), "balanced_accuracy": number(0.5)},
                "calibration": {"after": {"ece": number(0.1, 0.02)}},
            }
        },
        "trust_evaluation": trusted,
        "promises_here": {"rows": [{"promise": "wrong", "verdict": "holds"}]},
    }


def test_a_row_takes_its_numbers_from_the_report() -> None:
    row = matrix_row(report(), "m", "d")
    assert [row[name]["value"] for name in METRICS] == [0.8, 0.5, 0.9, 0.1, 0.85, 0.7]
    assert matrix_row(report(flag=False), "m", "d")["sensitivity"] == number(0.4)
    plain = {name: value for name, value in report().items() if name == "evaluation"}
    assert [matrix_row(plain, "m", "d")[name]["value"] for name in METRICS] == [0.8, 0.5, None, 0.1, None, None]
    text = list(markdown([row, {"model": "m", "dataset": "e", "why": "it knows none of the labels"}]))
    assert text[2].startswith(
        "| m | not known | d | 1,200 (1,000) | 0.800 (0.700 to 0.900) | 0.500 (0.400 to 0.600) | 0.900 ("
    )
    assert text[3].startswith("| m | | e | not scored: it knows none of the labels |")
    assert "| m | d | holds |" in text
    assert [len(axes.lines) for axes in draw_matrix([row]).axes] == [1] * len(METRICS)


def test_what_a_model_was_fitted_on_is_marked() -> None:
    found = {**report(), "model": {"fitted_on": ["HAM10000", "ISIC"]}}
    for sources, same, mark in (
        (["ham10000", "PAD"], True, "**images of the same archive**"),
        (["PAD"], False, "another archive"),
        (["unknown"], None, ""),
    ):
        row = matrix_row({**found, "scored": {"sources": sources}}, "m", "d")
        assert (row["fitted_on"], row["same_archive"]) == (["HAM10000", "ISIC"], same)
        assert f"| m | HAM10000, ISIC{'; ' if mark else ''}{mark} | d |" in "\n".join(markdown([row]))


def test_the_archives_of_an_earlier_model_are_not_known() -> None:
    made = {
        "provenance": {"dataset": {"sources": ["ISIC"]}},
        "model": {"initialised_from": "a (a finished model's keys)"},
    }
    archives = archives_of(made)
    assert archives == ["ISIC", EARLIER]
    for sources, same in ((["ISIC"], True), (["PAD"], None)):
        found = {**report(), "model": {"fitted_on": archives}, "scored": {"sources": sources}}
        assert matrix_row(found, "m", "d")["same_archive"] is same


@pytest.mark.usefixtures("painted")
def test_every_pair_is_scored_once(ours: Path, peer: Path, images: Path, tmp_path: Path, lesion_matrix: Call) -> None:
    table, out = tmp_path / "labels.csv", tmp_path / "out"
    labels = ["Melanoma", "Melanocytic nevus", "Melanocytic nevus", "melanoma", "acne"]
    lines = [f"i{number:02d},{label},L{number}" for number, label in enumerate(labels)]
    table.write_text("\n".join(["image,label,lesion_id", *lines]) + "\n")
    words = ("--models", ours, peer, "--datasets", f"{images}={table}", "--out", out, "--bootstrap_replicates", 20)
    code, shown, error = lesion_matrix(*words)
    assert (code, error) == (0, error)
    rows = json.loads((out / "matrix.json").read_text())["rows"]
    assert [(row["model"], row["dataset"], row["n"]) for row in rows] == [("ours", "clinic", 4), ("peer", "clinic", 4)]
    assert [(row["left_out"], row["left_out_classes"]) for row in rows] == [(1, ["acne"])] * 2
    inside = json.loads((out / "scored" / "ours" / "clinic" / "report.json").read_text())
    assert rows[0]["auroc"] == inside["evaluation"]["external"]["discrimination"]["auroc_malignant"]
    assert rows[0]["answered"]["value"] is not None
    assert rows[1]["answered"]["value"] is None
    assert rows[0]["verdicts"] == {row["promise"]: row["verdict"] for row in inside["promises_here"]["rows"]}
    page = (out / "scored" / "ours" / "clinic" / "README.md").read_text()
    curve = inside["evaluation"]["external"]["decision_curve"]
    assert f"| 0.5 | {curve[-1]['model']['value']:.3f} (" in page
    assert ("## Do the promises hold here?" in page, "partial AUROC above sensitivity 0.80" in page) == (True, True)
    assert "1 images of clinic are left out for ours" in (out / "README.md").read_text()
    assert Image.open(out / "matrix.png").size[0] > 500
    assert "| ours | not known | clinic | 4 (4) |" in shown
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "matrix.json", "matrix.png", "scored"]

    again = tmp_path / "again"
    code, shown, _ = lesion_matrix("--scored", out / "scored" / "ours" / "clinic", "--out", again)
    assert code == 0
    (row,) = json.loads((again / "matrix.json").read_text())["rows"]
    assert row == {name: value for name, value in rows[0].items() if not name.startswith("left_out")}


def test_a_dataset_with_other_column_names_is_read(ours: Path, tmp_path: Path, lesion_matrix: Call) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 4)):
        photos = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]
        rows = {"photo": photos, "dx": ["mel", "nv"] * (n // 2), "patient": [f"{split}{k // 2}" for k in range(n)]}
        table = datasets.Dataset.from_dict(rows, datasets.Features(COLUMNS))
        table.to_parquet(tmp_path / "clinic" / "data" / f"{split}-00000-of-00001.parquet")
    words = ("--models", ours, "--datasets", tmp_path / "clinic", "--out", tmp_path / "out")
    few = ("--bootstrap_replicates", 20, "--config_name", "default")
    columns = ("--image_column", "photo", "--label_column", "dx", "--group_column", "patient")
    code, _, error = lesion_matrix(*words, *few, *columns)
    assert (code, error) == (0, error)
    (row,) = json.loads((tmp_path / "out" / "matrix.json").read_text())["rows"]
    assert (row["n"], row["n_groups"]) == (4, 2)
    code, _, error = lesion_matrix(*words[:-1], tmp_path / "other", *few)
    assert (code, "image" in error) == (2, True)


def test_what_cannot_be_a_matrix_is_named(ours: Path, images: Path, tmp_path: Path, lesion_matrix: Call) -> None:
    table, out = tmp_path / "labels.csv", tmp_path / "out"
    table.write_text("image,label\ni00,mel\n")
    pair = f"{images}={table}"
    for words, said in (
        (("--models", ours, ours, "--datasets", pair), "two models have the name 'ours'"),
        (("--models", ours, "--datasets", pair, pair), "two datasets have the name 'clinic'"),
        (("--models", ours), "give --models and --datasets, or --scored"),
        (("--scored", images), "has no report.json"),
        (("--models", ours, "--datasets", f"{table}={images}"), "IMAGES=LABELS.csv"),
    ):
        code, _, error = lesion_matrix(*words, "--out", out)
        assert (code, error.count("\n"), out.exists()) == (2, 1, False)
        assert said in error


def test_a_dataset_becomes_images_and_labels(tmp_path: Path) -> None:
    pixels = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), 90, dtype=np.uint8)).save(pixels, "PNG")
    rows = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": pixels.getvalue(), "path": "x.png"}, {"bytes": pixels.getvalue(), "path": None}],
            "label": [1, 0],
            "image_id": ["a1", "a2"],
            "lesion_id": ["L1", None],
            "age": [45.0, None],
            "sex": ["female", None],
        }
    ).cast_column("image", datasets.Image(decode=False))
    export(Splits({"test": rows}, ["nv", "mel"], "tiny", "default"), "test", tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d" / "images").iterdir()) == ["a1.png", "a2.image"]
    assert (tmp_path / "d" / "images" / "a2.image").read_bytes() == pixels.getvalue()
    with (tmp_path / "d" / "labels.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["image"], row["label"], row["age"], row["sex"]) for row in found] == [
        ("a1", "mel", "45", "female"),
        ("a2", "nv", "", "unknown"),
    ]
    assert [row["lesion_id"] for row in found] == ["L1", "a2"]
    assert dataset_name(str(tmp_path / "d")) == "d"
    assert dataset_name(f"{tmp_path / 'd' / 'images'}=labels.csv") == "images"
    assert dataset_name("org/name") == "org/name"
