"""The command: a table, a sheet, a measurement, a gallery, and one line for each thing a user can fix."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from trainers.embeddings.cases import Cases
from trainers.model_folder.data import load_splits
from trainers.similar import main


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["trainers/similar.py", *map(str, words)])
    main()


@pytest.mark.usefixtures("painted")
def test_similar_cases_of_a_file(
    classifier: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = tmp_path / "mole.png"
    photo.write_bytes(draw("nv", 900, (60, 45)).png())
    out = tmp_path / "out"
    words = ["--model", classifier, "--dataset", phantom_dataset, "--image", photo, "--k", 3]
    call(monkeypatch, *words, "--out", out)
    result = json.loads((out / "similar.json").read_text())
    assert [case["rank"] for case in result["cases"]] == [1, 2, 3]
    assert len({case["group_id"] for case in result["cases"]}) == 3
    assert result["query"] == {"image": "mole.png", "split": None, "label": None, "group_id": None}
    assert result["index"]["dataset"]["split"] == "train"
    assert str(tmp_path) not in json.dumps(result)
    with Image.open(out / "similar.png") as sheet:
        assert sheet.width > 800
    output = capsys.readouterr().out
    assert output.startswith("mole.png: predicted ")
    for case in result["cases"]:
        assert case["image_id"] in output
        assert f"{case['cosine']:.3f}" in output
    assert "no fitted gate" in output


def test_an_image_of_the_dataset_by_its_id(
    classifier: Path,
    phantom_dataset: Path,
    train_cases: Cases,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, group = str(train_cases.image_id[0]), train_cases.group_id[0]
    call(monkeypatch, "--model", classifier, "--dataset", phantom_dataset, "--image", image, "--k", 20)
    output = capsys.readouterr().out
    assert f"{image} (train split, {train_cases.labels[train_cases.label[0]]}): predicted" in output
    for row in range(len(train_cases)):
        if train_cases.group_id[row] == group and row:
            assert str(train_cases.image_id[row]) not in output
    assert f"left out: {(train_cases.group_id == group).sum()} of the query's own lesion" in output


def test_evaluation_of_a_split(
    classifier: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["--model", classifier, "--dataset", phantom_dataset, "--evaluate", "--k", 4, "--bootstrap_replicates", 50]
    call(monkeypatch, *words, "--out", out)
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "precision_at_k.csv",
        "precision_at_k.md",
        "precision_at_k.png",
        "report.json",
    ]
    report = json.loads((out / "report.json").read_text())
    assert [result["k"] for result in report["precision_at_k"]] == [1, 4]
    assert report["queries"]["n"] == len(load_splits(str(phantom_dataset), "grouped").splits["test"])
    assert not any("have their lesion in the index" in note for note in report["notes"])
    value = report["precision_at_k"][1]["macro"]["value"]
    assert f"mean over classes  {value:.3f}" in capsys.readouterr().out
    # The train split asking itself: every query's own lesion is left out, and the report says so.
    call(monkeypatch, *words, "--query_split", "train", "--per_class", 9, "--out", tmp_path / "own")
    again = json.loads((tmp_path / "own" / "report.json").read_text())
    assert any("have their lesion in the index" in note for note in again["notes"])
    assert any("cut to 9 images per class" in note for note in again["notes"])
    assert max(again["index"]["per_class"].values()) == 9


def test_a_gallery_by_either_spelling(
    classifier: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option in ("--build_gallery", "--build-gallery"):
        out = tmp_path / option.strip("-")
        call(monkeypatch, "--model", classifier, "--dataset", phantom_dataset, option, out, "--per_class", 2)
        assert json.loads((out / "gallery.json").read_text())["n"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "--k 0: give at least 1 similar case"),
        (["--k", "999"], r"--k 999 similar cases of different lesions cannot be found among \d+ lesions"),
        (["--split", "tset"], "no split 'tset': choose among train"),
        (["--config_name", "nope"], "has no config 'nope'"),
        (["--image", "nowhere.jpg"], "--image 'nowhere.jpg' is neither a file nor the image_id"),
        (["--dataset", "nowhere"], "the dataset folder 'nowhere' does not exist"),
        (["--model", "nowhere"], "'nowhere' is no model of ours that can be read"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    message: str,
    classifier: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photo = tmp_path / "mole.png"
    photo.write_bytes(draw("nv", 900, (60, 45)).png())
    given = ["--model", classifier, "--dataset", phantom_dataset, "--image", photo, "--out", tmp_path / "out"]
    with pytest.raises(UserError, match=message) as caught:
        call(monkeypatch, *given, *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", [["--evaluate", "--query_split", "tset"], ["--evaluate", "--k", "999"]])
def test_an_evaluation_that_cannot_be(
    what: list[str], classifier: Path, phantom_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"'tset': choose among|--k 999"):
        call(monkeypatch, "--model", classifier, "--dataset", phantom_dataset, *what)


def test_models_and_datasets_that_do_not_go_together(
    classifier: Path,
    records_only: Path,
    phantom_dataset: Path,
    two_class_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"looks at no image \(metadata alone\): give an image classifier"):
        call(monkeypatch, "--model", records_only, "--dataset", phantom_dataset, "--evaluate")
    for what in (["--evaluate"], ["--image", "x"], ["--build_gallery", tmp_path / "g"]):
        with pytest.raises(UserError, match=r"the model has the labels akiec, .* the dataset benign, malignant"):
            call(monkeypatch, "--model", classifier, "--dataset", two_class_dataset, *what)
    assert not (tmp_path / "g").exists()


def test_folders_in_use_and_options_that_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("mine")
    given: list[Any] = ["--model", "m", "--dataset", "d"]
    for words in (["--image", "x", "--out"], ["--evaluate", "--out"], ["--build_gallery"]):
        with pytest.raises(UserError, match="is not empty"):
            call(monkeypatch, *given, *words, tmp_path)
    with pytest.raises(UserError, match="leave --out out"):
        call(monkeypatch, *given, "--build_gallery", tmp_path / "a", "--out", tmp_path / "b")
    for words in ([], ["--image", "x", "--evaluate"]):
        with pytest.raises(SystemExit) as stopped:
            call(monkeypatch, *given, *words)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_without_faiss_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        call(monkeypatch, "--model", "m", "--dataset", "d", "--image", "x")
